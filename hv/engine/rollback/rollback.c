/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Getting ready for a rollback, with the VM running. Which pages may differ from the image:
 *
 *     tracking is on since image T       what the tracker says was written since T, and what the
 *     (the VM's record)                  chains of T and of the image say differs between the two
 *     otherwise                          tracking begins now, then all of RAM is compared; in the
 *                                        stop what was written meanwhile is added
 *     no tracker that outlives us        all of RAM is compared in the stop
 *
 * The first costs nothing but the harvests, and leaves the record as it is until the machine is
 * changed; the second sets T to none before it touches the tracker.
 */
#include <stasis/checkpoint.h>
#include <stasis/error.h>
#include <string.h>

#include "base/io.h"
#include "base/options.h"
#include "disk/disk.h"
#include "engine/checkpoint/dma.h"
#include "engine/restore/pager.h"
#include "engine/rollback/rollback-internal.h"
#include "engine/rollback/rollback-mark.h"
#include "engine/vm/sweep.h"
#include "track/uffd.h"
#include "vmm/machine.h"

#define DEFAULT_CACHE_BYTES ((guint64)256 << 20)

void stasis_rollback_free(StasisRollback *rollback)
{
    if (rollback == NULL)
        return;
    g_clear_pointer(&rollback->loader, stasis_device_loader_close);
    if (rollback->stop.by_us) /* there was no run */
        stasis_rollback_resume(rollback->session->qmp, rollback->lifeline, NULL);
    g_clear_pointer(&rollback->lifeline, stasis_lifeline_free);
    g_clear_pointer(&rollback->instant, stasis_instant_free);
    if (rollback->tracker != NULL)
        rollback->tracker->ops->close(rollback->tracker, TRUE);
    g_clear_pointer(&rollback->differs, stasis_dirty_free);
    g_clear_pointer(&rollback->pages, stasis_dirty_free);
    g_clear_pointer(&rollback->found, stasis_dirty_free);
    g_clear_pointer(&rollback->disks, stasis_disk_rewrite_free);
    g_clear_pointer(&rollback->rewrite, stasis_rewrite_free);
    g_clear_pointer(&rollback->ram, stasis_ram_free);
    g_clear_pointer(&rollback->machine, stasis_machine_free);
    g_clear_pointer(&rollback->vmstate, stasis_vmstate_free);
    g_clear_pointer(&rollback->reader, stasis_image_reader_free);
    g_clear_pointer(&rollback->session, stasis_session_free);
    g_clear_pointer(&rollback->store, stasis_store_unref);
    g_free(rollback->safety_id);
    g_free(rollback->id);
    g_free(rollback);
}

const char *stasis_rollback_get_id(StasisRollback *rollback)
{
    return rollback->id;
}

/* ---- which image ---- */

/* Not a domain's of that name, if it is a VM of ours, nor the other way round. */
static char *newest_of(StasisStore *store, const StasisRecord *record, GError **error)
{
    g_autoptr(GPtrArray) images = stasis_store_list(store, error);
    for (guint i = images != NULL ? images->len : 0; i > 0; i--) {
        const StasisImageInfo *info = g_ptr_array_index(images, i - 1);
        if (g_strcmp0(info->vm, record->name) == 0 && info->ram_bytes > 0 &&
            info->of_domain == (record->uri != NULL))
            return g_strdup(info->id);
    }
    if (images != NULL)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "store %s has no image of VM %s; name an image", stasis_store_get_path(store),
                    record->name);
    return NULL;
}

static char *choose_image(StasisStore *store, const StasisRecord *record,
                          const StasisRollbackMark *mark, GError **error)
{
    const char *path = stasis_store_get_path(store);
    if (mark != NULL && strcmp(mark->store, path) == 0 && *mark->image != '\0')
        return g_strdup(mark->image);
    if (mark != NULL && *mark->image != '\0') {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "the rollback that was interrupted was to image %s of store %s; name that "
                    "store, or an image of this one",
                    mark->image, mark->store);
        return NULL;
    }
    if (record->track_image != NULL && g_strcmp0(record->track_store, path) == 0)
        return g_strdup(record->track_image);
    return newest_of(store, record, error);
}

/* Has the machine a device by which QEMU gives memory of the guest's back to the host? */
static gboolean can_discard(StasisVmstate *vmstate)
{
    for (guint i = 0; i < stasis_vmstate_get_n_sections(vmstate); i++) {
        const char *name = stasis_vmstate_get_section(vmstate, i)->name;
        if (strstr(name, "virtio-balloon") != NULL || strstr(name, "virtio-mem") != NULL)
            return TRUE;
    }
    return FALSE;
}

static gboolean set_devices(StasisRollback *rollback, GBytes *stream, GError **error)
{
    StasisVmstate *vmstate = stasis_vmstate_parse(stream, error);
    if (vmstate == NULL)
        return FALSE;
    g_clear_pointer(&rollback->vmstate, stasis_vmstate_free);
    rollback->vmstate = vmstate;
    rollback->may_discard = can_discard(vmstate);
    return TRUE;
}

/* The same QEMU may have been started for the image's machine only: its type decides what a device
 * stream means. */
static gboolean open_image(StasisRollback *rollback, GError **error)
{
    const StasisRecord *record = rollback->session->record;
    if (rollback->reader == NULL)
        rollback->reader = stasis_image_reader_open(rollback->store, rollback->id, error);
    g_autoptr(GBytes) json =
        rollback->reader != NULL && stasis_image_reader_check_memory(rollback->reader, error)
            ? stasis_image_reader_get_part(rollback->reader, "machine.json", error)
            : NULL;
    g_autoptr(StasisMachine) image = json != NULL ? stasis_machine_from_json(json, error) : NULL;
    if (image != NULL && rollback->machine == NULL)
        rollback->machine = stasis_machine_from_running(record->name, rollback->session->qmp,
                                                        record->pid, NULL, error);
    const StasisMachine *now = rollback->machine;
    if (image == NULL || now == NULL)
        return FALSE;
    if (strcmp(image->machine, now->machine) != 0 || strcmp(image->accel, now->accel) != 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "image %s is of a machine %s under %s, VM %s is %s under %s; restore the image "
                    "as a new VM",
                    rollback->id, image->machine, image->accel, record->name, now->machine,
                    now->accel);
        return FALSE;
    }
    g_autoptr(GBytes) saved = stasis_image_reader_get_part(rollback->reader, "vmstate", error);
    g_autoptr(GBytes) stream =
        saved != NULL ? stasis_vmstate_with_machine(saved, image->machine, error) : NULL;
    return stream != NULL && set_devices(rollback, stream, error);
}

/* ---- which pages ---- */

/* Has tracking been on since the image in the record, which is of our store? */
static gboolean is_counting(const StasisRollback *rollback)
{
    const StasisRecord *record = rollback->session->record;
    if (rollback->marked || record->track_image == NULL || record->track_store == NULL ||
        strcmp(record->track_store, stasis_store_get_path(rollback->store)) != 0)
        return FALSE;
    if (rollback->tracker != NULL)
        return TRUE;
    const StasisTrackerOps *ops = stasis_tracker_choose(rollback->ram, NULL, FALSE, NULL);
    return ops != NULL && ops->is_kept != NULL && ops->is_kept(rollback->ram, record->track_token);
}

/* Does tracking tell what differs from the image? Then *ret, and differs is filled. */
static void use_tracking(StasisRollback *rollback, gboolean *ret)
{
    const char *since = rollback->session->record->track_image;
    *ret = FALSE;
    if (!is_counting(rollback))
        return;
    g_autoptr(StasisImageReader) other =
        strcmp(since, rollback->id) != 0 ? stasis_image_reader_open(rollback->store, since, NULL)
                                         : NULL;
    StasisImageReader *base = strcmp(since, rollback->id) != 0 ? other : rollback->reader;
    *ret =
        base != NULL && stasis_rewrite_mark_differing(rollback->rewrite, base, rollback->differs);
    if (*ret)
        stasis_disk_rewrite_set_base(rollback->disks, since, base);
}

/* From now on the tracker says what was written; what differs already is found by comparing. */
static gboolean compare_all(StasisRollback *rollback, GCancellable *cancellable, GError **error)
{
    gboolean drain = FALSE;
    if (!stasis_dma_needs_drain(rollback->session->qmp, &drain, error) ||
        !stasis_record_set_tracking(rollback->session->record, NULL, NULL, 0, error) ||
        !rollback->tracker->ops->arm(rollback->tracker, error) ||
        (drain && !stasis_dma_drain(rollback->session->qmp, error)))
        return FALSE;
    rollback->compared = TRUE;
    return stasis_rewrite_compare(rollback->rewrite, rollback->differs, rollback->options.progress,
                                  rollback->options.progress_data, cancellable, error);
}

/* A machine that is paused and has written nothing since image T is what T is. */
static gboolean is_saved(StasisRollback *rollback, gboolean kept, GError **error)
{
    if (rollback->options.force || rollback->safety_id != NULL || rollback->marked)
        return TRUE;
    g_autofree char *state = stasis_qmp_run_state(rollback->session->qmp, error);
    if (state == NULL)
        return FALSE;
    stasis_dirty_clear(rollback->found);
    if (kept && strcmp(state, "running") != 0) {
        if (!rollback->tracker->ops->harvest(rollback->tracker, rollback->found, FALSE, error))
            return FALSE;
        if (stasis_dirty_count(rollback->found) == 0)
            return TRUE;
    }
    const char *name = rollback->session->record->name;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSAVED,
                "VM %s has run since its last image, and that would be lost; use --safety to take "
                "a checkpoint first, or --force",
                name);
    return FALSE;
}

/* One that outlives us, if there is such a one. */
static gboolean open_tracker(StasisRollback *rollback, gboolean kept, GError **error)
{
    const StasisSession *session = rollback->session;
    if (rollback->tracker != NULL)
        return kept || stasis_uffd_drop(session->record->pid, 0, error);
    const StasisTrackerOps *ops = stasis_tracker_choose(rollback->ram, NULL, FALSE, NULL);
    if (ops == NULL || ops->synchronous)
        return TRUE;
    if (!kept && !stasis_uffd_drop(session->record->pid, 0, error))
        return FALSE;
    rollback->tracker = ops->open(rollback->ram, session->qmp, error);
    return rollback->tracker != NULL;
}

static gboolean plan(StasisRollback *rollback, GCancellable *cancellable, GError **error)
{
    gboolean kept;
    rollback->differs = stasis_dirty_new(rollback->ram);
    rollback->pages = stasis_dirty_new(rollback->ram);
    rollback->found = stasis_dirty_new(rollback->ram);
    use_tracking(rollback, &kept);
    if (!open_tracker(rollback, kept, error))
        return FALSE;
    if (!is_saved(rollback, kept, error))
        return FALSE;
    rollback->saved = TRUE;
    if (rollback->tracker == NULL)
        return TRUE;
    return kept || compare_all(rollback, cancellable, error);
}

/* ---- together ---- */

/* Safety first: what would be refused anyhow leaves no checkpoint behind. */
static gboolean take_safety(StasisRollback *rollback, StasisVm *vm, const char *id,
                            GCancellable *cancellable, GError **error)
{
    if (!rollback->options.safety)
        return TRUE;
    g_autoptr(StasisSession) session =
        stasis_session_open(stasis_vm_get_name(vm), STASIS_LOCK_WAIT_MS, error);
    if (session == NULL || !stasis_rollback_check_whole(stasis_vm_get_name(vm), error))
        return FALSE;
    /* Afterwards "the image that tracking counts from" is the safety checkpoint. */
    if (id == NULL) {
        rollback->id = choose_image(rollback->store, session->record, NULL, error);
        if (rollback->id == NULL)
            return FALSE;
    }
    g_autoptr(StasisImageInfo) image =
        stasis_store_get_image(rollback->store, id != NULL ? id : rollback->id, error);
    if (image == NULL || (!rollback->options.force && image->n_disks == 0 && !image->disks_refer &&
                          !stasis_rollback_check_disks(session->qmp, error)))
        return FALSE;
    g_clear_pointer(&session, stasis_session_free);
    StasisCheckpointOptions options = STASIS_CHECKPOINT_OPTIONS_INIT;
    options.note = "before a rollback";
    if (image->disks_refer)
        options.disks = STASIS_DISKS_OVERLAY;
    options.progress = rollback->options.progress;
    options.progress_data = rollback->options.progress_data;
    g_autoptr(StasisImageInfo) info =
        stasis_checkpoint_create(vm, rollback->store, &options, cancellable, error);
    rollback->safety_id = info != NULL ? g_strdup(info->id) : NULL;
    return info != NULL;
}

static gboolean open_disks(StasisRollback *rollback, GError **error)
{
    const StasisImageInfo *image = stasis_image_reader_get_info(rollback->reader);
    /* A fresh machine was started on overlays on what such an image refers to. */
    if (rollback->leave_disks || (rollback->fresh && image->disks_refer))
        rollback->disks = stasis_disk_rewrite_new_none(rollback->reader);
    else
        rollback->disks = stasis_disk_rewrite_new(rollback->session, rollback->reader, error);
    if (rollback->disks == NULL)
        return FALSE;
    return stasis_disk_rewrite_has_any(rollback->disks) || rollback->options.force ||
           rollback->marked || stasis_rollback_check_disks(rollback->session->qmp, error);
}

static gboolean open_vm(StasisRollback *rollback, const char *name, const char *id,
                        GCancellable *cancellable, GError **error)
{
    if (rollback->session == NULL)
        rollback->session = stasis_session_open(name, STASIS_LOCK_WAIT_MS, error);
    if (rollback->session == NULL)
        return FALSE;
    const StasisRecord *record = rollback->session->record;
    StasisQmp *qmp = rollback->session->qmp;
    g_autoptr(StasisRollbackMark) mark = stasis_rollback_mark_get(name);
    rollback->marked = mark != NULL;
    if (id != NULL)
        rollback->id = g_strdup(id);
    else if (rollback->id == NULL)
        rollback->id = choose_image(rollback->store, record, mark, error);
    return rollback->id != NULL && stasis_vm_check_supported(qmp, record->pid, error) &&
           stasis_pager_wait(record, rollback->options.progress, rollback->options.progress_data,
                             cancellable, error) &&
           stasis_session_sweep(rollback->session, record->track_image, error) &&
           open_image(rollback, error) && open_disks(rollback, error) &&
           stasis_device_load_sweep(qmp, error);
}

static gboolean open_memory(StasisRollback *rollback, GCancellable *cancellable, GError **error)
{
    const StasisRecord *record = rollback->session->record;
    guint64 cache_bytes = rollback->options.max_cache_bytes;
    if (rollback->ram == NULL)
        rollback->ram = stasis_ram_discover(rollback->session->qmp, record->pid, error);
    if (rollback->ram == NULL)
        return FALSE;
    rollback->rewrite =
        stasis_rewrite_new(rollback->ram, rollback->reader,
                           cache_bytes != 0 ? cache_bytes : DEFAULT_CACHE_BYTES, error);
    return rollback->rewrite != NULL && plan(rollback, cancellable, error);
}

static gboolean open_switches(StasisRollback *rollback, GError **error)
{
    StasisQmp *qmp = rollback->session->qmp;
    if (rollback->lifeline == NULL) {
        g_autofree char *mark = stasis_rollback_mark_path(rollback->session->record->name, error);
        if (mark != NULL)
            rollback->lifeline = stasis_lifeline_new_unmarking(qmp, mark, error);
    }
    if (rollback->lifeline == NULL)
        return FALSE;
    rollback->loader = stasis_device_load_choose(qmp)->open(
        qmp, stasis_vmstate_get_stream(rollback->vmstate), error);
    return rollback->loader != NULL;
}

static StasisRollback *new_rollback(StasisStore *store, const StasisRollbackOptions *options)
{
    StasisRollback *rollback = g_new0(StasisRollback, 1);
    rollback->options = (StasisRollbackOptions)STASIS_ROLLBACK_OPTIONS_INIT;
    stasis_own_options(&rollback->options, options, sizeof rollback->options);
    rollback->store = stasis_store_ref(store);
    rollback->cold_pages = G_MAXUINT64; /* so that the first run looks ahead */
    return rollback;
}

static gboolean open_all(StasisRollback *rollback, StasisVm *vm, const char *id,
                         GCancellable *cancellable, GError **error)
{
    return take_safety(rollback, vm, id, cancellable, error) &&
           open_vm(rollback, stasis_vm_get_name(vm), id, cancellable, error) &&
           open_memory(rollback, cancellable, error) && open_switches(rollback, error);
}

StasisRollback *stasis_rollback_prepare(StasisVm *vm, StasisStore *store, const char *id,
                                        const StasisRollbackOptions *options,
                                        GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisRollback) rollback = new_rollback(store, options);
    return open_all(rollback, vm, id, cancellable, error) ? g_steal_pointer(&rollback) : NULL;
}

StasisRollback *stasis_rollback_prepare_fresh(StasisVm *vm, StasisStore *store, const char *id,
                                              gboolean leave_disks,
                                              const StasisRollbackOptions *options,
                                              GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisRollback) rollback = new_rollback(store, options);
    rollback->fresh = TRUE;
    rollback->leave_disks = leave_disks;
    return open_all(rollback, vm, id, cancellable, error) ? g_steal_pointer(&rollback) : NULL;
}

static void take_over(StasisRollback *rollback, StasisSeries *series)
{
    StasisHeld held;
    stasis_series_release(series, &held);
    rollback->session = held.session;
    rollback->ram = held.ram;
    rollback->machine = held.machine;
    rollback->tracker = held.tracker;
    rollback->lifeline = held.lifeline;
    rollback->instant = held.instant;
}

/* It would only take a CPU from us until all is ready. Also one that stands by what we have heard:
 * that it went on again may not have come to us. */
static gboolean stop_failed(StasisRollback *rollback, GError **error)
{
    return stasis_rollback_stop(rollback->session->qmp, rollback->lifeline, &rollback->stop, error);
}

/* Of a VM that stands, while QEMU is asked for what else is needed. */
static gboolean read_at_once(StasisRollback *rollback, GError **error)
{
    if (!rollback->stop.stands || rollback->tracker == NULL ||
        stasis_rewrite_is_direct(rollback->rewrite))
        return TRUE;
    stasis_dirty_or(rollback->pages, rollback->differs);
    if (rollback->may_discard &&
        !stasis_rewrite_mark_discarded(rollback->rewrite, rollback->pages, error))
        return FALSE;
    int r = rollback->tracker->ops->harvest_stopped(rollback->tracker, rollback->pages);
    if (r < 0)
        return stasis_set_errno(error, -r, "find the pages that were written");
    return stasis_rewrite_prefetch_begin(rollback->rewrite, rollback->pages, error);
}

static gboolean open_held(StasisRollback *rollback, StasisHeldFlags flags,
                          GCancellable *cancellable, GError **error)
{
    if (((flags & STASIS_HELD_FAILED) != 0 && !stop_failed(rollback, error)) ||
        !open_image(rollback, error) || !open_disks(rollback, error))
        return FALSE;
    if ((flags & STASIS_HELD_SWEPT) == 0 &&
        !stasis_device_load_sweep(rollback->session->qmp, error))
        return FALSE;
    if (!open_memory(rollback, cancellable, error))
        return FALSE;
    if ((flags & STASIS_HELD_TRUSTED) != 0) {
        stasis_image_reader_trust(rollback->reader);
        stasis_rewrite_set_direct(rollback->rewrite);
    }
    return read_at_once(rollback, error) && open_switches(rollback, error);
}

/* Nobody else can have begun anything with the VM since the series has it. */
StasisRollback *stasis_rollback_prepare_held(StasisSeries *series, StasisStore *store,
                                             const char *id, StasisHeldFlags flags,
                                             const StasisRollbackOptions *options,
                                             GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisSeries) held = series;
    g_autoptr(StasisRollback) rollback = new_rollback(store, options);
    rollback->id = g_strdup(id);
    if (!stasis_series_refresh(held, error))
        return NULL;
    take_over(rollback, held);
    return open_held(rollback, flags, cancellable, error) ? g_steal_pointer(&rollback) : NULL;
}

StasisRollback *stasis_rollback_prepare_spliced(StasisSession *session, StasisStore *store,
                                                const char *id, GBytes *stream, gboolean held,
                                                const StasisRollbackOptions *options,
                                                GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisRollback) rollback = new_rollback(store, options);
    g_autofree char *name = g_strdup(session->record->name);
    rollback->session = session;
    rollback->held = held;
    rollback->spliced = TRUE;
    if (!open_vm(rollback, name, id, cancellable, error) || !set_devices(rollback, stream, error) ||
        !open_memory(rollback, cancellable, error) || !open_switches(rollback, error))
        return NULL;
    if (held)
        stasis_lifeline_arm(rollback->lifeline);
    return g_steal_pointer(&rollback);
}

gboolean stasis_rollback_unsplice(StasisRollback *rollback, GError **error)
{
    StasisQmp *qmp = rollback->session->qmp;
    g_clear_pointer(&rollback->loader, stasis_device_loader_close);
    rollback->spliced = FALSE;
    if (!stasis_device_load_sweep(qmp, error) || !open_image(rollback, error))
        return FALSE;
    rollback->loader = stasis_device_load_choose(qmp)->open(
        qmp, stasis_vmstate_get_stream(rollback->vmstate), error);
    return rollback->loader != NULL;
}
