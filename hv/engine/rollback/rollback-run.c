/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 *     VM runs     look ahead: pages written so far are read from the image
 *     stop        the last pages are read, the devices compared with the image's: what can be
 *                 refused or fail is behind us. (A VM that has failed stands from the beginning;
 *                 and what is trusted is read only where it is written: rewrite.h)
 *     mark        "half rolled back"; the dead man's switch is off from here on, and Ctrl-Z waits
 * as before: it would leave the VM half overwritten for as long as the user likes
 *     ---------------------------------------------------------------- no way back
 *     harvest     what was written since the image; re-armed
 *     write       these pages, from the image
 *     load        devices; they look at RAM, which is theirs by now (a queue's index, an option
 *                 ROM); it resets the machine, which writes to RAM as well
 *     harvest, write   what the reset has written
 *     disks       are written likewise
 *     record      tracking counts from the image
 *     unmark, go  the dead man's switch is on again before the mark goes
 *
 * Under TCG translated code of rewritten pages must not run: loading a CPU's state has QEMU drop
 * all of it (cpu_common_post_load()), and no code is translated while the VM is stopped.
 */
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/hold.h"
#include "base/io.h"
#include "engine/guest/agent-vm.h"
#include "engine/guest/quiesce.h"
#include "engine/rollback/rollback-internal.h"
#include "engine/rollback/rollback-mark.h"
#include "vmm/agent-channel.h"

#define RESET_LINE "{\"execute\":\"system_reset\"}\n"
/* Hang limits, not expectations. */
#define TIMEOUT_MS 30000
/* With fewer pages than this to read in the stop a look ahead costs more than it saves. */
#define FEW_PAGES 64u
#define MAX_ROUNDS 4

typedef struct {
    StasisRollback *rollback;
    StasisQmp *qmp;
    const char *name; /* of the VM */
    StasisRollbackStop stop;
    gboolean stopped; /* by us: to be resumed if nothing was changed */
    gboolean reset;   /* the machine has to be reset before it can run again */
    gboolean changed; /* no way back */
    guint64 begun_us, stop_us;
    StasisRollbackInfo *info;
} Run;

void stasis_rollback_info_free(StasisRollbackInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->id);
    g_free(info->safety_id);
    g_free(info);
}

static guint64 last_event(const Run *run, const char *name)
{
    return stasis_qmp_wait_event(run->qmp, name, 0, 0);
}

/* ---- while it runs ---- */

/* Run states in which QEMU does something of its own with the machine's state. */
static gboolean check_state(Run *run, gboolean *ret_running, GError **error)
{
    static const char *const unfit[] = { "inmigrate",   "save-vm", "restore-vm", "finish-migrate",
                                         "postmigrate", "colo",    NULL };
    static const char *const ended[] = { "shutdown", "internal-error", NULL };
    /* A question costs 0.3 ms: after the first run its events tell. */
    *ret_running = TRUE;
    if (last_event(run, "RESUME") > last_event(run, "STOP"))
        return TRUE;
    *ret_running = FALSE;
    /* Also where it was we who stopped it: it may have come to an end of its own just before. */
    g_autofree char *state = stasis_qmp_run_state(run->qmp, error);
    if (state == NULL)
        return FALSE;
    *ret_running = strcmp(state, "running") == 0;
    run->reset = g_strv_contains(ended, state);
    if (!g_strv_contains(unfit, state))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                "the VM is in state \"%s\": something else is being done to it; try again", state);
    return FALSE;
}

/* The first run was looked at when it was prepared. After that nothing is lost if the VM has not
 * run: it is the image still. */
static gboolean check_saved(Run *run, gboolean running, GError **error)
{
    StasisRollback *rollback = run->rollback;
    gboolean saved = rollback->saved || rollback->options.force || rollback->marked;
    rollback->saved = FALSE;
    if (!saved && !running && rollback->tracker != NULL) {
        stasis_dirty_clear(rollback->found);
        if (!rollback->tracker->ops->harvest(rollback->tracker, rollback->found, FALSE, error))
            return FALSE;
        saved = stasis_dirty_count(rollback->found) == 0;
    }
    if (saved)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSAVED,
                "VM %s has run since the last rollback, and that would be lost; use force",
                run->name);
    return FALSE;
}

/* A VM that stands writes no more pages: they are read once. */
static gboolean look_ahead(Run *run, gboolean running, GError **error)
{
    StasisRollback *rollback = run->rollback;
    if (stasis_rewrite_is_prefetching(rollback->rewrite))
        return TRUE;
    stasis_dirty_clear(rollback->pages);
    stasis_dirty_or(rollback->pages, rollback->differs);
    if (rollback->tracker == NULL || !running || rollback->cold_pages < FEW_PAGES)
        return TRUE;
    return rollback->tracker->ops->harvest(rollback->tracker, rollback->pages, FALSE, error) &&
           stasis_rewrite_prefetch(rollback->rewrite, rollback->pages, NULL, error);
}

/* ---- stopped, nothing changed ---- */

static gboolean stop(Run *run, gboolean running, GError **error)
{
    if (run->stop.stands)
        return TRUE;
    if (!running) {
        stasis_rollback_note_stop(run->qmp, &run->stop);
        return TRUE;
    }
    gboolean ok = stasis_rollback_stop(run->qmp, run->rollback->lifeline, &run->stop, error);
    run->stopped = run->stop.by_us;
    return ok;
}

static gboolean begin_reading(Run *run, GError **error)
{
    StasisRollback *rollback = run->rollback;
    if (stasis_rewrite_is_prefetching(rollback->rewrite))
        return TRUE;
    if (rollback->tracker == NULL)
        return stasis_rewrite_compare(rollback->rewrite, rollback->pages, NULL, NULL, NULL, error);
    if (rollback->may_discard &&
        !stasis_rewrite_mark_discarded(rollback->rewrite, rollback->pages, error))
        return FALSE;
    if (stasis_rewrite_is_direct(rollback->rewrite))
        return TRUE;
    int r = rollback->tracker->ops->harvest_stopped(rollback->tracker, rollback->pages);
    if (r < 0)
        return stasis_set_errno(error, -r, "find the pages that were written");
    return stasis_rewrite_prefetch_begin(rollback->rewrite, rollback->pages, error);
}

static gboolean end_reading(Run *run, GError **error)
{
    StasisRollback *rollback = run->rollback;
    return !stasis_rewrite_is_prefetching(rollback->rewrite) ||
           stasis_rewrite_prefetch_end(rollback->rewrite, &rollback->cold_pages, error);
}

/* Once, and again when the guest has given a device back. */
static gboolean check_devices(Run *run, GError **error)
{
    StasisRollback *rollback = run->rollback;
    guint64 unplugged_us = last_event(run, "DEVICE_DELETED");
    if (rollback->devices_checked && unplugged_us == rollback->unplugged_us)
        return TRUE;
    /* A machine in the middle of things is one no more; its devices can't be told from these. */
    if (!rollback->marked && !stasis_rollback_check_devices(rollback, !run->stopped, error))
        return FALSE;
    rollback->devices_checked = TRUE;
    rollback->unplugged_us = unplugged_us;
    return TRUE;
}

/* Pages are read while QEMU answers. */
static gboolean get_ready_stopped(Run *run, GError **error)
{
    if (!stasis_fault(STASIS_FAULT_ROLLBACK_STOPPED, error) || !begin_reading(run, error))
        return FALSE;
    gboolean checked = check_devices(run, error);
    return end_reading(run, checked ? error : NULL) && checked &&
           stasis_fault(STASIS_FAULT_ROLLBACK_READ, error) &&
           stasis_rollback_still_stands(&run->stop, run->qmp, error);
}

/* ---- no way back ---- */

static gboolean cross(Run *run, GError **error)
{
    StasisRollback *rollback = run->rollback;
    if (!stasis_rollback_mark_set(run->name, rollback->id, stasis_store_get_path(rollback->store),
                                  error) ||
        !stasis_fault(STASIS_FAULT_ROLLBACK_MARKED, error))
        return FALSE;
    stasis_lifeline_disarm(rollback->lifeline);
    return stasis_fault(STASIS_FAULT_ROLLBACK_DISARMED, error);
}

/* A machine that has shut down, or that KVM gave up, can't be let go on before a reset. */
static gboolean reset_if_ended(Run *run, GError **error)
{
    guint64 before = last_event(run, "RESET");
    if (!run->reset)
        return TRUE;
    if (!stasis_qmp_execute_line(run->qmp, RESET_LINE, TIMEOUT_MS, error))
        return FALSE;
    if (stasis_qmp_wait_event(run->qmp, "RESET", before, TIMEOUT_MS) != before)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "QEMU does not reset the machine");
    return FALSE;
}

static gboolean load_devices(Run *run, GError **error)
{
    StasisRollback *rollback = run->rollback;
    guint64 t0 = stasis_now_us();
    gboolean ok =
        reset_if_ended(run, error) && rollback->loader->ops->load(rollback->loader, error);
    run->info->device_us = stasis_now_us() - t0;
    return ok && stasis_fault(STASIS_FAULT_ROLLBACK_LOADED, error);
}

/* What was written through QEMU's own mapping was seen by the tracker: take it back. Whatever else
 * was written meanwhile is to be rewritten too. */
static gboolean settle_tracked(Run *run, GError **error)
{
    StasisRollback *rollback = run->rollback;
    for (int round = 0; round < MAX_ROUNDS; round++) {
        guint64 written;
        stasis_dirty_clear(rollback->found);
        if (!rollback->tracker->ops->harvest(rollback->tracker, rollback->found, TRUE, error))
            return FALSE;
        stasis_dirty_subtract(rollback->found, rollback->pages);
        if (stasis_dirty_count(rollback->found) == 0)
            return TRUE;
        stasis_dirty_or(rollback->pages, rollback->found);
        if (!stasis_rewrite_put(rollback->rewrite, rollback->found, FALSE, &written, error))
            return FALSE;
        run->info->rewritten_pages += written;
    }
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "something writes to the memory of the stopped VM");
    return FALSE;
}

/* What was taken from the tracker is remembered until it is written, over a failure too. */
static gboolean take_dirty(StasisRollback *rollback, GError **error)
{
    gboolean ok = rollback->tracker->ops->harvest(rollback->tracker, rollback->pages, TRUE, error);
    stasis_dirty_or(rollback->differs, rollback->pages);
    return ok;
}

/* Passes those two points. */
static gboolean write_ram(Run *run, StasisFault seen, StasisFault written, GError **error)
{
    StasisRollback *rollback = run->rollback;
    guint64 t0 = stasis_now_us(), n_written = 0;
    run->changed = rollback->marked = TRUE;
    if (rollback->tracker == NULL)
        stasis_dirty_set_all(rollback->pages);
    else if (!take_dirty(rollback, error) || !stasis_fault(seen, error) ||
             !stasis_rewrite_prefetch(rollback->rewrite, rollback->pages, NULL, error))
        return FALSE;
    if (!stasis_rewrite_put(rollback->rewrite, rollback->pages, rollback->tracker == NULL,
                            &n_written, error))
        return FALSE;
    run->info->rewritten_pages += n_written;
    if (rollback->tracker != NULL &&
        stasis_rewrite_is_tracked(rollback->rewrite, rollback->pages) &&
        !settle_tracked(run, error))
        return FALSE;
    stasis_dirty_clear(rollback->pages);
    stasis_dirty_clear(rollback->differs);
    run->info->ram_us += stasis_now_us() - t0;
    return stasis_fault(written, error);
}

static gboolean write_disks(Run *run, GError **error)
{
    guint64 t0 = stasis_now_us();
    gboolean ok =
        stasis_disk_rewrite_put(run->rollback->disks, &run->info->rewritten_disk_pages, error);
    run->info->disk_us = stasis_now_us() - t0;
    return ok && stasis_fault(STASIS_FAULT_ROLLBACK_DISKS, error);
}

static gboolean record(Run *run, GError **error)
{
    StasisRollback *rollback = run->rollback;
    gboolean tracked = rollback->tracker != NULL;
    if (!stasis_disk_rewrite_settle(rollback->disks, tracked, error) ||
        !stasis_record_set_tracking(rollback->session->record, tracked ? rollback->id : NULL,
                                    tracked ? stasis_store_get_path(rollback->store) : NULL,
                                    stasis_tracker_get_token(rollback->tracker), error))
        return FALSE;
    return stasis_fault(STASIS_FAULT_ROLLBACK_RECORDED, error);
}

static gboolean change(Run *run, GError **error)
{
    return cross(run, error) &&
           write_ram(run, STASIS_FAULT_ROLLBACK_HARVESTED, STASIS_FAULT_ROLLBACK_WRITTEN, error) &&
           load_devices(run, error) &&
           write_ram(run, STASIS_FAULT_ROLLBACK_SEEN, STASIS_FAULT_ROLLBACK_SETTLED, error) &&
           write_disks(run, error) && record(run, error);
}

/* ---- on ---- */

static gboolean resume(Run *run, GError **error)
{
    return stasis_rollback_resume(run->qmp, run->rollback->lifeline, error);
}

/* A guest that is frozen as it was at the instant, or has devices suspended, would come back by
 * itself; a new conversation with it does that at once. It is begun while the VM stands still: the
 * guest finds it as the first thing. NULL: not that way. */
static StasisAgent *hail(const StasisRollback *rollback)
{
    const StasisRecord *record = rollback->session->record;
    StasisAgentWait wait = stasis_agent_wait_until(0, NULL);
    g_autofree char *path =
        rollback->fresh || record->uri != NULL ? NULL : stasis_agent_channel_guess(record->pid);
    g_autoptr(StasisAgent) agent =
        path != NULL ? stasis_agent_connect(record->name, path, &wait, NULL) : NULL;
    guint64 id;
    return agent != NULL && stasis_agent_begin(agent, STASIS_AGENT_OP_PING, NULL, &id, &wait, NULL)
               ? g_steal_pointer(&agent)
               : NULL;
}

static void thaw(StasisRollback *rollback, StasisAgent *hailed)
{
    StasisAgentWait wait = stasis_agent_wait_until(0, NULL);
    if (hailed != NULL && stasis_agent_greet(hailed, &wait, NULL))
        return;
    g_autoptr(StasisQuiesce) quiesce =
        stasis_quiesce_open(rollback->session, STASIS_QUIESCE_FILES, NULL, NULL);
}

/* The VM is the image. */
static gboolean finish(Run *run, GError **error)
{
    StasisRollback *rollback = run->rollback;
    const StasisImageInfo *image = stasis_image_reader_get_info(rollback->reader);
    gboolean go = !rollback->options.paused && (rollback->held || !image->paused);
    if (go)
        stasis_lifeline_arm(rollback->lifeline);
    if (!stasis_rollback_mark_clear(run->name, error)) {
        stasis_lifeline_disarm(rollback->lifeline);
        return FALSE;
    }
    run->changed = rollback->marked = FALSE;
    run->stopped = FALSE;
    gboolean asleep = go && (image->quiesced || image->suspended != NULL);
    g_autoptr(StasisAgent) hailed = asleep ? hail(rollback) : NULL;
    if (go && !resume(run, error))
        return FALSE;
    run->info->resumed = go;
    run->info->stop_us = stasis_now_us() - run->stop_us;
    if (asleep)
        thaw(rollback, hailed);
    return stasis_fault(STASIS_FAULT_ROLLBACK_RESUMED, error);
}

/* Something failed: the VM goes on as it was, or stays where it is. Always FALSE. */
static gboolean give_up(Run *run, GError **error)
{
    if (run->rollback->fresh || (run->changed && run->rollback->spliced))
        return FALSE; /* its end is its maker's business */
    if (run->changed) {
        g_prefix_error(error,
                       "VM %s is left paused, half rolled back to image %s (`stasis "
                       "rollback %s` tries again; or kill it and restore an image): ",
                       run->name, run->rollback->id, run->name);
        return FALSE;
    }
    if (!run->rollback->marked)
        stasis_rollback_mark_clear(run->name, NULL);
    if (!run->stopped)
        return FALSE;
    g_autoptr(GError) local = NULL;
    if (!resume(run, &local))
        g_prefix_error(error, "%s: ", local->message);
    return FALSE;
}

static gboolean get_ready_running(Run *run, gboolean *ret_running, GCancellable *cancellable,
                                  GError **error)
{
    if (!check_state(run, ret_running, error) || !check_saved(run, *ret_running, error) ||
        !look_ahead(run, *ret_running, error) || !stasis_fault(STASIS_FAULT_ROLLBACK_READY, error))
        return FALSE;
    return cancellable == NULL || !g_cancellable_is_cancelled(cancellable) ||
           stasis_set_cancelled(error);
}

static gboolean run_all(Run *run, GCancellable *cancellable, GError **error)
{
    gboolean running;
    if (!get_ready_running(run, &running, cancellable, error))
        return run->stop.by_us ? give_up(run, error) : FALSE;
    run->stop_us = stasis_now_us();
    if (!stop(run, running, error) || !get_ready_stopped(run, error) || !change(run, error) ||
        !finish(run, error))
        return give_up(run, error);
    return TRUE;
}

StasisRollbackInfo *stasis_rollback_run(StasisRollback *rollback, GCancellable *cancellable,
                                        GError **error)
{
    g_autoptr(StasisRollbackInfo) info = g_new0(StasisRollbackInfo, 1);
    Run run = { .rollback = rollback,
                .qmp = rollback->session->qmp,
                .name = rollback->session->record->name,
                .begun_us = stasis_now_us(),
                .info = info,
                .stop = rollback->stop,
                .stopped = rollback->held || rollback->stop.by_us };
    rollback->stop = (StasisRollbackStop){ 0 };
    info->id = g_strdup(rollback->id);
    info->compared = rollback->compared || rollback->tracker == NULL;
    /* The switch alone would hold only until the point of no return. */
    stasis_hold_begin();
    gboolean ok = run_all(&run, cancellable, error);
    rollback->loader->ops->settle(rollback->loader);
    stasis_hold_end();
    if (!ok)
        return NULL;
    rollback->compared = FALSE;
    info->safety_id = g_steal_pointer(&rollback->safety_id);
    info->total_us = stasis_now_us() - run.begun_us;
    return g_steal_pointer(&info);
}
