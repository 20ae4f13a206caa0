/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A checkpoint, from a VM that is held (series.c) to the durable image: composes tracker, mode,
 * pipeline, instant and store. Everything that is made is undone by job_clear(), in the order that
 * never leaves a page protected or a VM stopped: pipeline, tracker, captured memory, writer.
 *
 * What is recorded about tracking follows one rule: track_image is set only while the tracker's
 * dirty pages are all that was written since that image's instant. It is cleared, durably enough
 * to survive our being killed, before the first page is taken from the tracker.
 */
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "device/vmstate.h"
#include "disk/flush.h"
#include "engine/checkpoint/dma.h"
#include "engine/checkpoint/guest-rest.h"
#include "engine/checkpoint/instant.h"
#include "engine/checkpoint/series.h"
#include "engine/disks/disk-copy.h"
#include "engine/disks/disk-freeze.h"
#include "engine/disks/disk-part.h"
#include "store/image.h"
#include "track/uffd-ram.h"
#include "track/uffd.h"
#include "vmm/vcpus.h"

#define DEFAULT_BUFFER_SHARE 4
#define REPORT_INTERVAL_US 50000
#define MAX_DEFAULT_THREADS 8
#define MAX_TRIES 3
#define CYCLE_WAIT_US 1000000u
/* So much of its slack may be gone when the VM is stopped, where nobody says how much there is: on
 * a host that is not busy it is a tenth of it. */
#define CYCLE_FRESH_US 1000u

typedef struct {
    StasisSeries *series;
    const StasisCheckpointOptions *options; /* the series' */
    const StasisModeOps *mode;
    StasisRecord *record;
    guint64 reported_us;
    char *parent; /* image ID, or NULL */
    /* As recorded before we began: the image that tracking counts from, and its store. */
    char *tracked_since, *tracked_store;
    gboolean counting; /* it does, and shall go on so in the end */
    char *domain_xml;  /* of a libvirt domain, or NULL */
    StasisTracker *tracker;
    StasisImageWriter *writer;
    StasisPipeline *pipeline;
    StasisDiskPart *disks;
    StasisGuestRest rest;
    StasisInstant *instant; /* the series' */
    gboolean standing;      /* the VM does not run, as far as we know: all CPUs are ours */
    StasisAffinity affinity;
    guint64 missed_before; /* deadlines, as the guest counts */
    StasisCopy copy;
    gboolean done;
} Job;

static gboolean set_tracked_since(Job *job, const char *image, GError **error);

/* After a failure, or an image aside: what was taken from the tracker is given back, so it counts
 * from where it did still. Otherwise the next image is a full one. */
static void undo_tracking(Job *job)
{
    gboolean given_back = job->pipeline == NULL || stasis_copy_end(&job->copy, TRUE);
    if (given_back && (job->parent != NULL || job->counting) && job->tracker != NULL)
        set_tracked_since(job, job->tracked_since, NULL);
}

/* Left on for the next image; tracking that no image could be incremental to is for nothing. */
static void put_tracker_down(Job *job)
{
    StasisTracker *tracker = g_steal_pointer(&job->tracker);
    if (tracker == NULL)
        return;
    if (!tracker->ops->synchronous && job->record->track_image != NULL)
        job->series->tracker = tracker;
    else
        tracker->ops->close(tracker, FALSE);
}

static void job_clear(Job *job)
{
    stasis_guest_rest_clear(&job->rest);
    if (!job->done || job->series->aside)
        undo_tracking(job);
    else
        stasis_copy_end(&job->copy, FALSE);
    g_clear_pointer(&job->pipeline, stasis_pipeline_free);
    if (job->disks != NULL) {
        g_clear_pointer(&job->disks, stasis_disk_part_free);
        stasis_series_set_untidy(job->series, FALSE);
    }
    stasis_instant_end(job->instant);
    put_tracker_down(job);
    stasis_copy_clear(&job->copy);
    g_clear_pointer(&job->writer, stasis_image_writer_free);
    g_clear_pointer(&job->parent, g_free);
    g_clear_pointer(&job->tracked_since, g_free);
    g_clear_pointer(&job->tracked_store, g_free);
    g_clear_pointer(&job->domain_xml, g_free);
    stasis_affinity_end(&job->affinity);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Job, job_clear)

/* ---- preparing ---- */

static guint64 default_buffer_bytes(void)
{
    g_autofree char *text = NULL;
    const char *line = NULL;
    if (g_file_get_contents("/proc/meminfo", &text, NULL, NULL))
        line = strstr(text, "MemAvailable:");
    guint64 kib = line != NULL ? g_ascii_strtoull(line + strlen("MemAvailable:"), NULL, 10) : 0;
    return MAX(kib * 1024 / DEFAULT_BUFFER_SHARE, (guint64)64 << 20);
}

/* The CPUs that the guest leaves. A thread too many, however nice, takes a CPU from a virtual one
 * for a whole tick now and then. */
static guint default_threads(const Job *job)
{
    guint n_running = job->standing ? 0 : job->series->machine->n_vcpus;
    int spare = (int)g_get_num_processors() - (int)n_running;
    return (guint)CLAMP(spare, 1, MAX_DEFAULT_THREADS);
}

/* Where the VM runs while we copy. In mode stop it stands still, and all CPUs are ours. */
static void keep_off_vcpus(Job *job)
{
    if (job->mode->needs_tracker && !job->standing)
        stasis_affinity_begin(&job->affinity, job->record->pid, job->series->vcpu_threads);
}

static void follow_vcpus(gpointer data)
{
    const Job *job = data;
    if (job->standing)
        return;
    stasis_affinity_follow(&job->affinity, job->record->pid, job->series->vcpu_threads);
}

/* The caller's function, not more often than it wants to be bothered. */
static void report(const StasisProgress *progress, gpointer data)
{
    Job *job = data;
    guint64 now = stasis_now_us();
    if (now - job->reported_us < REPORT_INTERVAL_US)
        return;
    job->reported_us = now;
    job->options->progress(progress, job->options->progress_data);
}

/* Does the tracker that we would use still count from the image in the record? */
static gboolean is_counting(const Job *job)
{
    const StasisRecord *record = job->record;
    if (record->track_image == NULL || record->track_store == NULL || job->mode->needs_sync)
        return FALSE;
    if (job->series->tracker != NULL)
        return TRUE;
    const StasisTrackerOps *ops =
        stasis_tracker_choose(job->series->ram, job->options->tracker, FALSE, NULL);
    return ops != NULL && ops->is_kept != NULL &&
           ops->is_kept(job->series->ram, record->track_token);
}

/* The image that this one can be incremental to: the one whose instant tracking counts from, if it
 * is in this store. */
static char *find_parent(const Job *job)
{
    const StasisRecord *record = job->record;
    gboolean fits =
        !job->options->full && !job->series->untracked &&
        g_strcmp0(record->track_store, stasis_store_get_path(job->series->store)) == 0 &&
        is_counting(job);
    return fits ? g_strdup(record->track_image) : NULL;
}

static gboolean open_tracker(Job *job, GError **error)
{
    const StasisRam *ram = job->series->ram;
    job->tracker = g_steal_pointer(&job->series->tracker);
    if (job->tracker != NULL)
        return TRUE;
    g_autoptr(GError) local = NULL;
    const StasisTrackerOps *ops =
        stasis_tracker_choose(ram, job->options->tracker, job->mode->needs_sync, &local);
    if (ops != NULL && job->mode->needs_sync && !ops->synchronous) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "mode %s needs a synchronous tracker, and %s is none", job->mode->name,
                    ops->name);
        return FALSE;
    }
    /* Mode stop tracks only for the next image's sake. */
    if (!job->mode->needs_tracker && job->parent == NULL && (ops == NULL || ops->synchronous))
        return TRUE;
    if (ops == NULL) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    /* What a process of ours that was killed in the middle may have left half-made. */
    if (!stasis_uffd_drop(ram->pid, 0, error))
        return FALSE;
    job->tracker = ops->open(ram, job->series->session->qmp, error);
    return job->tracker != NULL;
}

static gboolean add_blocks(Job *job, GError **error)
{
    for (guint i = 0; i < job->series->ram->blocks->len; i++) {
        const StasisRamBlock *block = stasis_ram_block(job->series->ram, i);
        if (stasis_image_writer_add_block(job->writer, block->name, block->size_bytes, error) < 0)
            return FALSE;
    }
    return stasis_disk_part_declare(job->disks, job->writer, error);
}

/* An incremental image where that works out, else a full one: after a hotplug, say, when the parent
 * is gone, or has disks that this one has not. */
static gboolean open_writer(Job *job, GError **error)
{
    if (job->parent != NULL) {
        g_autoptr(GError) local = NULL;
        job->writer = stasis_image_writer_new(job->series->store, job->parent, &local);
        if (job->writer != NULL && add_blocks(job, &local) &&
            stasis_image_writer_has_all(job->writer))
            return TRUE;
        if (g_error_matches(local, STASIS_ERROR, STASIS_ERROR_LOCKED)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        g_clear_pointer(&job->writer, stasis_image_writer_free);
        g_clear_pointer(&job->parent, g_free);
    }
    job->writer = stasis_image_writer_new(job->series->store, NULL, error);
    return job->writer != NULL && add_blocks(job, error);
}

static gboolean set_tracked_since(Job *job, const char *image, GError **error)
{
    if (image == NULL)
        return stasis_record_set_tracking(job->record, NULL, NULL, 0, error);
    const char *store =
        job->counting ? job->tracked_store : stasis_store_get_path(job->series->store);
    return stasis_record_set_tracking(job->record, image, store,
                                      stasis_tracker_get_token(job->tracker), error);
}

/* Asked for before the stop, so that libvirtd has no part in whether there will be an image. */
static gboolean get_domain_xml(Job *job, GError **error)
{
    StasisDomain *domain = job->series->session->domain;
    if (domain != NULL)
        job->domain_xml = stasis_domain_get_xml(domain, STASIS_DOMAIN_XML_LIVE, error);
    return domain == NULL || job->domain_xml != NULL;
}

static gboolean prepare(Job *job, GCancellable *cancellable, GError **error)
{
    if (!stasis_guest_rest_prepare(&job->rest, cancellable, error))
        return FALSE;
    job->counting = job->series->aside && is_counting(job);
    job->parent = !job->series->aside ? find_parent(job) : NULL;
    job->tracked_since = g_strdup(job->record->track_image);
    job->tracked_store = g_strdup(job->record->track_store);
    StasisDiskPartWanted wanted = { .session = job->series->session,
                                    .store = job->series->store,
                                    .cwd = job->series->machine->cwd,
                                    .hold = job->series->hold_disks };
    job->disks = stasis_disk_part_open(job->options->disks, &wanted, error);
    if (job->disks == NULL)
        return FALSE;
    return get_domain_xml(job, error) && open_writer(job, error) &&
           set_tracked_since(job, NULL, error) && open_tracker(job, error);
}

/* ---- copying ---- */

static gboolean get_disks_ready(Job *job, GError **error)
{
    if (stasis_disk_part_is_untidy(job->disks))
        stasis_series_set_untidy(job->series, TRUE);
    return stasis_disk_part_get_ready(job->disks, stasis_image_writer_get_id(job->writer),
                                      job->parent, error);
}

/* The last thing before the stop: the guest has slack from now on. How long is for --max-pause to
 * say, of which the stop itself has half. The host may be in the way, of the look or of the stop; a
 * stop that would begin so late is not made, and the next cycle's end waited for, for as long as
 * there may be none. After that on a host that is always in the way any end will do. */
static gboolean wait_cycle_end(Job *job, guint64 begun_us, GError **error)
{
    guint64 us = job->options->cycle_wait_us != 0 ? job->options->cycle_wait_us : CYCLE_WAIT_US;
    guint64 pause_us = job->options->max_pause_us, since_us;
    StasisCycleWait wait = { .limit_us = us,
                             .fresh_us = pause_us != 0 ? pause_us / 2 : CYCLE_FRESH_US,
                             .fresh_until_us = begun_us + us,
                             .meanwhile = follow_vcpus,
                             .data = job };
    if (!stasis_cycle_word_wait(job->series->cycle_word, &wait, &since_us, job->copy.cancellable,
                                error))
        return FALSE;
    job->copy.stop_by_us = stasis_now_us() < wait.fresh_until_us ? since_us + wait.fresh_us : 0;
    return stasis_fault(STASIS_FAULT_CYCLE_ENDED, error);
}

/* What is sent from now on waits for the image after this one: as late as can be, but the approach
 * arms pages, and is to be right before the stop. */
static gboolean hold_output(Job *job, GError **error)
{
    return job->series->hold == NULL || (stasis_output_hold_put(job->series->hold, error) &&
                                         stasis_fault(STASIS_FAULT_HOLD_PUT, error));
}

/* The image is durable. */
static gboolean let_output_go(Job *job, const char *id, GError **error)
{
    if (job->series->hold == NULL || (stasis_output_hold_release(job->series->hold, error) &&
                                      stasis_fault(STASIS_FAULT_HOLD_RELEASED, error)))
        return TRUE;
    g_prefix_error(error, "image %s is there, but held output could not be let go: ", id);
    return FALSE;
}

/* Disks are flushed as late as can be, but not in the guest's slack, which that may well outlast.
 */
static gboolean come_near(Job *job, GError **error)
{
    if (job->mode->approach != NULL && !job->mode->approach(&job->copy, error))
        return FALSE;
    stasis_instant_flush(job->instant);
    return TRUE;
}

static gboolean take_in_slack(Job *job, StasisDiskTaking *disks, GError **error)
{
    guint64 begun_us = stasis_now_us();
    for (;;) {
        g_autoptr(GError) local = NULL;
        if (job->series->cycle_word != NULL && !wait_cycle_end(job, begun_us, error))
            return FALSE;
        if (stasis_instant_take(job->instant, &job->copy, job->mode, disks, &local))
            return TRUE;
        if (!stasis_instant_was_late(job->instant)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
    }
}

/* *ret_lacked: there was too little memory for what the guest wrote in the last moment. */
static gboolean try_instant(Job *job, gboolean *ret_lacked, GError **error)
{
    StasisDiskTaking *disks = stasis_disk_part_get_taking(job->disks);
    gboolean quiet = stasis_guest_rest_begin(&job->rest, job->copy.cancellable, error);
    if (quiet)
        stasis_instant_flush(job->instant);
    gboolean near = quiet && hold_output(job, error) && come_near(job, error);
    gboolean ok = near && take_in_slack(job, disks, error);
    *ret_lacked = near && !ok && stasis_instant_lacked_memory(job->instant);
    return stasis_guest_rest_end(&job->rest, ok ? error : NULL) && ok;
}

/* A guest may write more in the last moment than there is memory for; then once more, with more. */
static gboolean take_instant(Job *job, GError **error)
{
    for (int tries = 1;; tries++) {
        g_autoptr(GError) local = NULL;
        gboolean lacked;
        keep_off_vcpus(job); /* they may have moved */
        if (!get_disks_ready(job, error))
            return FALSE;
        if (try_instant(job, &lacked, &local))
            return TRUE;
        if (!lacked || job->mode->again == NULL || tries == MAX_TRIES) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        if (!job->mode->again(&job->copy, error) || !stasis_copy_may_go_on(&job->copy, error))
            return FALSE;
    }
}

static gboolean settle_dma(gpointer data, GError **error)
{
    Job *job = data;
    return stasis_dma_drain(job->series->session->qmp, error);
}

static gboolean copy_ram(Job *job, GCancellable *cancellable, GError **error)
{
    const StasisCheckpointOptions *options = job->options;
    StasisSeries *series = job->series;
    guint n_threads = options->n_threads != 0 ? options->n_threads : default_threads(job);
    job->pipeline = stasis_pipeline_new(series->ram, job->writer, options->codec, n_threads);
    stasis_pipeline_set_give_way(job->pipeline, follow_vcpus, job);
    job->copy = (StasisCopy){
        .ram = series->ram,
        .tracker = job->tracker,
        .qmp = series->session->qmp,
        .pipeline = job->pipeline,
        .incremental = job->parent != NULL,
        .counting = job->counting,
        .max_pause_us = options->max_pause_us,
        .max_buffer_bytes =
            options->max_buffer_bytes != 0 ? options->max_buffer_bytes : default_buffer_bytes(),
        .progress = options->progress != NULL ? report : NULL,
        .progress_data = job,
        .pool = &series->pool,
        .sparing = series->sparing.max_pages != 0 ? &series->sparing : NULL,
        .cancellable = cancellable,
        .settle_dma = series->drain ? settle_dma : NULL,
        .settle_dma_data = job,
        .stop_may_be_long = !job->mode->pre_copies && !job->mode->needs_sync,
    };
    stasis_copy_begin(&job->copy);
    if (!job->mode->before(&job->copy, error))
        return FALSE;
    gboolean has_disks = stasis_disk_part_has_any(job->disks);
    gboolean qmp_needed = has_disks && stasis_disk_part_needs_monitor(job->disks);
    if (!stasis_instant_begin(job->instant, series->lifeline, &job->copy, job->disks->disks,
                              has_disks, qmp_needed, error) ||
        !stasis_disk_flush(job->record->pid, cancellable, error) ||
        !stasis_copy_may_go_on(&job->copy, error) || !stasis_fault(STASIS_FAULT_BEFORE_STOP, error))
        return FALSE;
    return take_instant(job, error) && job->mode->after(&job->copy, error) &&
           stasis_guest_rest_finish(&job->rest, error) &&
           stasis_copy_may_go_on(&job->copy, error) &&
           stasis_disk_part_run(job->disks, &job->copy, n_threads, error);
}

/* ---- committing ---- */

static void fill_cost(Job *job, StasisCost *cost)
{
    StasisFaultStats faults = job->copy.faults;
    if (job->tracker != NULL && job->tracker->ops->get_fault_stats != NULL)
        job->tracker->ops->get_fault_stats(job->tracker, &faults);
    guint64 disk_bytes = stasis_disk_part_get_bytes(job->disks);
    *cost = (StasisCost){
        .pause_us = stasis_instant_get_pause_us(job->instant),
        .device_us = stasis_instant_get_device_us(job->instant),
        .ram_us = stasis_instant_get_ram_us(job->instant),
        .residual_pages = job->copy.residual_pages,
        .protected_pages = job->copy.protected_pages,
        .faults = faults.n,
        .worst_stall_us = MAX(stasis_instant_get_worst_pause_us(job->instant), faults.worst_us),
        .total_us = stasis_now_us() - job->series->begun_us,
        .copied_bytes = stasis_pipeline_get_bytes(job->pipeline),
        .rounds = job->copy.rounds,
        .frozen_us = stasis_guest_rest_get_frozen_us(&job->rest),
        .disk_us = stasis_instant_get_disk_us(job->instant),
        .disk_copied_bytes = disk_bytes,
    };
    cost->copied_bytes -= MIN(disk_bytes, cost->copied_bytes);
}

/* One that has begun anew counts from nothing. */
static gboolean count_deadlines(Job *job, StasisCost *cost, GError **error)
{
    guint64 now;
    if (job->series->missed_word == NULL)
        return TRUE;
    if (!stasis_cycle_word_read(job->series->missed_word, &now, error))
        return FALSE;
    cost->deadlines_counted = TRUE;
    cost->missed_deadlines = now >= job->missed_before ? now - job->missed_before : now;
    return TRUE;
}

static gboolean add_domain_xml(Job *job, GError **error)
{
    if (job->domain_xml == NULL)
        return TRUE;
    g_autoptr(GBytes) xml = g_bytes_new(job->domain_xml, strlen(job->domain_xml));
    return stasis_image_writer_add_part(job->writer, STASIS_PART_DOMAIN_XML, xml, error);
}

/* As it would have to be started now, which is not as it was where its disks lie on overlays. */
static GBytes *describe_machine(const Job *job, GError **error)
{
    StasisMachine machine = *job->series->machine;
    g_autoptr(GError) local = NULL;
    g_auto(GStrv) line = NULL;
    if (job->disks->disks != NULL && job->series->session->domain == NULL)
        line = stasis_disks_on_line((const char *const *)machine.argv, job->disks->disks, &local);
    if (local != NULL) {
        g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    if (line != NULL)
        machine.argv = line;
    return stasis_machine_to_json(&machine);
}

static GBytes *get_vmstate(const Job *job, GError **error)
{
    g_autoptr(GBytes) vmstate = stasis_instant_get_vmstate(job->instant, error);
    return vmstate != NULL ? stasis_guest_rest_strip(&job->rest, vmstate, error) : NULL;
}

static StasisImageInfo *commit(Job *job, GError **error)
{
    g_autoptr(GBytes) vmstate = get_vmstate(job, error);
    const StasisMachine *described = job->series->machine;
    g_autoptr(GBytes) machine = describe_machine(job, error);
    if (machine == NULL)
        return NULL;
    /* What can't be read back is not worth keeping, and better said now. */
    g_autoptr(StasisVmstate) parsed = vmstate != NULL ? stasis_vmstate_parse(vmstate, error) : NULL;
    if (parsed == NULL || !stasis_image_writer_add_part(job->writer, "vmstate", vmstate, error) ||
        !stasis_image_writer_add_part(job->writer, "machine.json", machine, error) ||
        !add_domain_xml(job, error) || !stasis_disk_part_describe(job->disks, job->writer, error))
        return NULL;
    StasisImageInfo info = {
        .vm = job->record->name,
        .note = (char *)job->options->note,
        .by_policy = job->options->by_policy,
        .mode = (char *)job->mode->name,
        .machine = described->machine,
        .accel = described->accel,
        .qemu_version = described->qemu_version,
        .created_us = stasis_instant_get_time_us(job->instant),
        .ram_bytes = job->series->ram->total_bytes,
        .n_vcpus = described->n_vcpus,
        .paused = stasis_instant_was_paused(job->instant),
        .quiesced = job->options->quiesce,
        .suspended = stasis_guest_rest_get_suspended(&job->rest),
    };
    fill_cost(job, &info.cost);
    if (!count_deadlines(job, &info.cost, error))
        return NULL;
    stasis_image_writer_set_info(job->writer, &info);
    return stasis_image_writer_commit(job->writer, error);
}

StasisImageInfo *stasis_series_checkpoint(StasisSeries *series, GCancellable *cancellable,
                                          GError **error)
{
    g_auto(Job) job = { .series = series,
                        .options = &series->options,
                        .mode = series->mode,
                        .record = series->session->record,
                        .instant = series->instant,
                        .affinity = { .sleepers = series->cycle_word != NULL },
                        .rest = { .series = series } };
    g_autofree char *state = stasis_qmp_run_state(series->session->qmp, NULL);
    job.standing = state != NULL && strcmp(state, "running") != 0;
    keep_off_vcpus(&job);
    if (series->missed_word != NULL &&
        !stasis_cycle_word_read(series->missed_word, &job.missed_before, error))
        return NULL;
    if (!prepare(&job, cancellable, error) || !copy_ram(&job, cancellable, error))
        return NULL;
    g_autoptr(StasisImageInfo) info = commit(&job, error);
    if (info != NULL)
        stasis_disk_part_keep(job.disks);
    if (info == NULL || !stasis_fault(STASIS_FAULT_COMMITTED, error) ||
        !let_output_go(&job, info->id, error))
        return NULL;
    job.done = TRUE;
    if (series->aside) {
        if (stasis_disk_copy_get_held(job.disks) != NULL)
            series->held_disks = g_steal_pointer(&job.disks);
        return g_steal_pointer(&info);
    }
    stasis_disk_part_settle(job.disks);
    /* The image is there, whatever becomes of this: without it the next one is a full one. */
    if (job.tracker != NULL && !job.tracker->ops->synchronous)
        set_tracked_since(&job, info->id, NULL);
    return g_steal_pointer(&info);
}
