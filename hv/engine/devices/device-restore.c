/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One device goes back, and nothing else. QEMU loads devices all at once, into a machine that it
 * resets, and the reset writes to guest memory in places. So:
 *
 *     look        the image's state of the device is compared with the VM's; what can be refused is
 *     VM runs     checkpoint C, so that little is left for the next one
 *     stop        checkpoint S, incremental: the VM as it stands here, durable
 *     rollback    to S, with the device's section taken from the image: what the reset writes is
 *                 put right by it, and if the load fails, it goes to S as it is
 *     go          C is deleted, S stays
 *
 * Whatever becomes of us the VM is not lost: until the rollback's point of no return the dead man's
 * switch lets it go on; from there on it is half rolled back to S, as with any rollback, and S is
 * what it was.
 */
#include <stasis/checkpoint.h>
#include <stasis/device.h>
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/hold.h"
#include "base/options.h"
#include "device/pci-state.h"
#include "engine/checkpoint/series.h"
#include "engine/devices/device-kind.h"
#include "engine/devices/device-name.h"
#include "engine/devices/device-take.h"
#include "engine/rollback/rollback-internal.h"
#include "vmm/machine.h"

typedef struct {
    StasisVm *vm;
    StasisStore *store;
    StasisDeviceRestoreOptions options;
    const char *id;
    StasisVmstate *image;               /* the image's devices */
    const StasisVmstateSection *wanted; /* of them */
    char *machine, *accel;              /* the image's */
    StasisLifeline *lifeline;           /* armed while the VM is stopped by us */
    gboolean stopped;
    gboolean holds;   /* Ctrl-Z waits */
    guint64 stop_us;  /* when it was stopped */
    char *running_id; /* image C, or NULL */
    StasisDeviceRestoreInfo *info;
} Restore;

static void restore_clear(Restore *restore)
{
    /* Armed still when something failed: then this lets the VM go on. */
    g_clear_pointer(&restore->lifeline, stasis_lifeline_free);
    g_clear_pointer(&restore->image, stasis_vmstate_free);
    g_clear_pointer(&restore->info, stasis_device_restore_info_free);
    g_free(restore->running_id);
    g_free(restore->machine);
    g_free(restore->accel);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Restore, restore_clear)

void stasis_device_restore_info_free(StasisDeviceRestoreInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->name);
    g_free(info->id);
    g_free(info->safety_id);
    g_free(info->notice);
    g_free(info);
}

/* ---- what can be refused ---- */

static gboolean open_image(Restore *restore, const char *device, GError **error)
{
    g_autoptr(StasisImageReader) reader =
        stasis_image_reader_open(restore->store, restore->id, error);
    g_autoptr(GBytes) json =
        reader != NULL ? stasis_image_reader_get_part(reader, "machine.json", error) : NULL;
    g_autoptr(StasisMachine) machine = json != NULL ? stasis_machine_from_json(json, error) : NULL;
    g_autoptr(GBytes) stream =
        machine != NULL ? stasis_image_reader_get_part(reader, "vmstate", error) : NULL;
    restore->image = stream != NULL ? stasis_vmstate_parse(stream, error) : NULL;
    if (restore->image == NULL)
        return FALSE;
    restore->machine = g_strdup(machine->machine);
    restore->accel = g_strdup(machine->accel);
    g_autofree char *where = g_strdup_printf("image %s", restore->id);
    restore->wanted = stasis_device_find(restore->image, device, where, error);
    return restore->wanted != NULL;
}

static gboolean check_machine(const Restore *restore, StasisSession *session, GError **error)
{
    const StasisRecord *record = session->record;
    g_autoptr(StasisMachine) now =
        stasis_machine_from_running(record->name, session->qmp, record->pid, NULL, error);
    if (now == NULL)
        return FALSE;
    if (strcmp(now->machine, restore->machine) == 0 && strcmp(now->accel, restore->accel) == 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "image %s is of a machine %s under %s, VM %s is %s under %s: its devices can't be "
                "told to be the same ones",
                restore->id, restore->machine, restore->accel, record->name, now->machine,
                now->accel);
    return FALSE;
}

/* The section of the VM's devices @now that the image's is to take the place of. */
static const StasisVmstateSection *find_place(const Restore *restore, StasisVmstate *now,
                                              GError **error)
{
    const StasisVmstateSection *wanted = restore->wanted;
    const StasisVmstateSection *place = stasis_vmstate_find(now, wanted->name, wanted->instance);
    const char *vm = stasis_vm_get_name(restore->vm);
    if (place == NULL)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "VM %s has no device %s (instance %u) any more", vm, restore->info->name,
                    wanted->instance);
    else if (place->version != wanted->version) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "device %s: its state is of version %u in image %s and of version %u in VM %s",
                    restore->info->name, wanted->version, restore->id, place->version, vm);
        return NULL;
    }
    return place;
}

static guint64 count_changed(StasisVmstate *a, const StasisVmstateSection *x, StasisVmstate *b,
                             const StasisVmstateSection *y)
{
    g_autoptr(GBytes) old = stasis_vmstate_get_payload(a, x);
    g_autoptr(GBytes) new = stasis_vmstate_get_payload(b, y);
    gsize n, m;
    const guint8 *p = g_bytes_get_data(old, &n), *q = g_bytes_get_data(new, &m);
    guint64 changed = MAX(n, m) - MIN(n, m);
    for (gsize i = 0; i < MIN(n, m); i++)
        changed += p[i] != q[i];
    return changed;
}

static gboolean check_kind(Restore *restore, GError **error)
{
    const StasisDeviceKind *kind = stasis_device_kind_of(restore->wanted->name);
    restore->info->notice = g_strdup(kind->notice);
    if (kind->risk == STASIS_DEVICE_MAY ||
        (kind->risk == STASIS_DEVICE_FORCE && restore->options.force))
        return TRUE;
    g_set_error(error, STASIS_ERROR,
                kind->risk == STASIS_DEVICE_NEVER ? STASIS_ERROR_UNSUPPORTED : STASIS_ERROR_UNSAVED,
                "device %s (%s) alone can't go back%s: %s%s", restore->info->name, kind->kind,
                kind->risk == STASIS_DEVICE_NEVER ? "" : " safely", kind->notice,
                kind->risk == STASIS_DEVICE_NEVER
                    ? ""
                    : "; use --force if the guest can stand that, or roll the whole VM back");
    return FALSE;
}

/* Before anything is done. The VM runs on afterwards, so it may be another device's state by the
 * time that counts; only where it is and its version matter then. */
static gboolean look(Restore *restore, GCancellable *cancellable, GError **error)
{
    StasisDeviceTake taken;
    g_autoptr(StasisSession) session = stasis_device_open(stasis_vm_get_name(restore->vm), error);
    if (session == NULL || !check_machine(restore, session, error) ||
        !stasis_device_load_sweep(session->qmp, error))
        return FALSE;
    g_autoptr(StasisVmstate) now = stasis_device_take(session, &taken, cancellable, error);
    const StasisVmstateSection *place = now != NULL ? find_place(restore, now, error) : NULL;
    if (place == NULL)
        return FALSE;
    restore->info->stop_us = taken.pause_us;
    restore->info->changed_bytes = count_changed(now, place, restore->image, restore->wanted);
    return restore->info->changed_bytes == 0 || check_kind(restore, error);
}

/* ---- the checkpoint before ---- */

/* With the content of disks only where that is incremental. */
static gboolean wants_disks(const Restore *restore, const StasisRecord *record)
{
    if (record->track_image == NULL ||
        g_strcmp0(record->track_store, stasis_store_get_path(restore->store)) != 0)
        return FALSE;
    g_autoptr(StasisImageInfo) base =
        stasis_store_get_image(restore->store, record->track_image, NULL);
    return base != NULL && base->n_disks > 0;
}

static StasisSeries *open_series(Restore *restore, GCancellable *cancellable, GError **error)
{
    StasisCheckpointOptions options = STASIS_CHECKPOINT_OPTIONS_INIT;
    options.note = "before a device was put back";
    options.progress = restore->options.progress;
    options.progress_data = restore->options.progress_data;
    options.disks = STASIS_DISKS_NONE;
    StasisSeries *series =
        stasis_series_new(restore->vm, restore->store, &options, cancellable, error);
    if (series != NULL && wants_disks(restore, series->session->record))
        series->options.disks = STASIS_DISKS_COPY;
    return series;
}

static gboolean check_state(StasisQmp *qmp, gboolean *ret_running, GError **error)
{
    g_autofree char *state = stasis_qmp_run_state(qmp, error);
    if (state == NULL)
        return FALSE;
    *ret_running = strcmp(state, "running") == 0;
    if (*ret_running || strcmp(state, "paused") == 0 || strcmp(state, "prelaunch") == 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                "the VM is in state \"%s\": its devices can be put back while it runs or is "
                "paused only",
                state);
    return FALSE;
}

/* Ctrl-Z waits from the stop until the VM is whole again: a rollback's own hold ends where it
 * fails, which may be halfway. */
static void hold(Restore *restore)
{
    restore->holds = TRUE;
    stasis_hold_begin();
}

static void let_go(Restore *restore)
{
    if (restore->holds)
        stasis_hold_end();
    restore->holds = FALSE;
}

static gboolean stop(Restore *restore, StasisQmp *qmp, GError **error)
{
    restore->stop_us = stasis_now_us();
    return stasis_lifeline_stop(restore->lifeline, qmp, &restore->stopped, error) &&
           stasis_fault(STASIS_FAULT_DEVICE_STOPPED, error);
}

/* The VM as it is when this returns, stopped. */
static gboolean take_safety(Restore *restore, StasisSeries *series, GCancellable *cancellable,
                            GError **error)
{
    gboolean running;
    StasisQmp *qmp = series->session->qmp;
    restore->lifeline = stasis_lifeline_new(qmp, error);
    if (restore->lifeline == NULL || !check_state(qmp, &running, error))
        return FALSE;
    if (running) {
        g_autoptr(StasisImageInfo) before = stasis_series_take(series, cancellable, error);
        restore->running_id = before != NULL ? g_strdup(before->id) : NULL;
        if (before == NULL)
            return FALSE;
    }
    hold(restore);
    if (running && !stop(restore, qmp, error))
        return FALSE;
    series->mode = stasis_mode_ops(STASIS_MODE_STOP);
    g_autoptr(StasisImageInfo) safety = stasis_series_take(series, cancellable, error);
    if (safety == NULL)
        return FALSE;
    restore->info->safety_id = g_strdup(safety->id);
    return stasis_fault(STASIS_FAULT_DEVICE_KEPT, error);
}

/* ---- back ---- */

/* The safety checkpoint's devices with ours among them, as a loading QEMU wants them. */
static GBytes *compose(const Restore *restore, GError **error)
{
    g_autoptr(StasisImageReader) reader =
        stasis_image_reader_open(restore->store, restore->info->safety_id, error);
    g_autoptr(GBytes) saved =
        reader != NULL ? stasis_image_reader_get_part(reader, "vmstate", error) : NULL;
    g_autoptr(StasisVmstate) now = saved != NULL ? stasis_vmstate_parse(saved, error) : NULL;
    const StasisVmstateSection *place = now != NULL ? find_place(restore, now, error) : NULL;
    if (place == NULL)
        return NULL;
    restore->info->changed_bytes = count_changed(now, place, restore->image, restore->wanted);
    g_autoptr(GBytes) wanted = stasis_vmstate_get_payload(restore->image, restore->wanted);
    g_autoptr(GBytes) present = stasis_vmstate_get_payload(now, place);
    g_autoptr(GBytes) payload = strchr(place->name, '/') != NULL /* on a bus */
                                    ? stasis_pci_state_keep_lines(wanted, present)
                                    : g_bytes_ref(wanted);
    g_autoptr(GBytes) composed = stasis_vmstate_replace(now, place, payload, error);
    return composed != NULL ? stasis_vmstate_with_machine(composed, restore->machine, error) : NULL;
}

/* Something of it went wrong after the point of no return: then without it. */
static gboolean go_back(Restore *restore, StasisRollback *rollback, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(StasisRollbackInfo) back = NULL;
    if (!rollback->marked)
        return FALSE;
    if (stasis_rollback_unsplice(rollback, &local))
        back = stasis_rollback_run(rollback, NULL, &local);
    if (back == NULL)
        g_prefix_error(error, "%s; device %s was not put back: ", local->message,
                       restore->info->name);
    else
        g_prefix_error(error, "device %s was not put back, and the VM is as it was before: ",
                       restore->info->name);
    return FALSE;
}

/* Takes @session. */
static gboolean splice(Restore *restore, StasisSession *session, GCancellable *cancellable,
                       GError **error)
{
    StasisRollbackOptions options = STASIS_ROLLBACK_OPTIONS_INIT;
    options.force = TRUE; /* it stands at its last image */
    g_autoptr(StasisSession) owned = session;
    g_autoptr(GBytes) stream = compose(restore, error);
    if (stream == NULL)
        return FALSE;
    g_autoptr(StasisRollback) rollback = stasis_rollback_prepare_spliced(
        g_steal_pointer(&owned), restore->store, restore->info->safety_id, stream, restore->stopped,
        &options, cancellable, error);
    if (rollback == NULL)
        return FALSE;
    /* The rollback's own switch is on. */
    stasis_lifeline_disarm(restore->lifeline);
    g_autoptr(StasisRollbackInfo) done = stasis_rollback_run(rollback, cancellable, error);
    if (done == NULL)
        return go_back(restore, rollback, error);
    if (restore->stopped)
        restore->info->stop_us += stasis_now_us() - restore->stop_us;
    return TRUE;
}

static gboolean put_back(Restore *restore, GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisSeries) series = open_series(restore, cancellable, error);
    if (series == NULL || !take_safety(restore, series, cancellable, error))
        return FALSE;
    StasisSession *session = g_steal_pointer(&series->session);
    /* While it is connected: what the series has in QEMU goes. */
    g_clear_pointer(&series, stasis_series_free);
    return splice(restore, session, cancellable, error);
}

StasisDeviceRestoreInfo *stasis_device_restore(StasisVm *vm, StasisStore *store, const char *device,
                                               const char *id,
                                               const StasisDeviceRestoreOptions *given,
                                               GCancellable *cancellable, GError **error)
{
    g_auto(Restore) restore = { .vm = vm, .store = store, .id = id };
    guint64 begun_us = stasis_now_us();
    restore.options = (StasisDeviceRestoreOptions)STASIS_DEVICE_RESTORE_OPTIONS_INIT;
    stasis_own_options(&restore.options, given, sizeof restore.options);
    restore.info = g_new0(StasisDeviceRestoreInfo, 1);
    if (!open_image(&restore, device, error))
        return NULL;
    restore.info->id = g_strdup(id);
    restore.info->name = g_strdup(restore.wanted->name);
    restore.info->instance = restore.wanted->instance;
    restore.info->size_bytes = restore.wanted->payload_size;
    if (!look(&restore, cancellable, error))
        return NULL;
    gboolean done = restore.info->changed_bytes == 0 || put_back(&restore, cancellable, error);
    let_go(&restore);
    if (!done)
        return NULL;
    /* The one before it is for nothing now; if it can't be deleted it is one image more. */
    if (restore.running_id != NULL)
        stasis_store_delete(store, restore.running_id, NULL);
    restore.info->total_us = stasis_now_us() - begun_us;
    return g_steal_pointer(&restore.info);
}
