/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM that has failed goes on from before it: how often on end, after what pause, and from which
 * image. How it is put back is rollback/'s and transactions/' business.
 */
#include <stasis/error.h>

#include "base/clock.h"
#include "engine/guards/guard-internal.h"
#include "engine/rollback/rollback-internal.h"
#include "engine/rollback/rollback-mark.h"
#include "engine/transactions/undo.h"

/* A VM that lives so long is well again. */
#define WELL_US 10000000u
#define FIRST_PAUSE_US 100000u
#define MAX_PAUSE_US 10000000u

/* Something that comes back each time is not helped by being quick. */
static void pause_before(const StasisGuard *guard)
{
    if (guard->n_tries < 2)
        return;
    guint64 pause_us = MIN((guint64)FIRST_PAUSE_US << MIN(guard->n_tries - 2, 16u), MAX_PAUSE_US);
    guint64 until = stasis_now_us() + pause_us;
    while (!stasis_guard_is_cancelled(guard) && stasis_now_us() < until)
        g_usleep(10000);
}

/* By what the ring knows of the VM; it does not hold it any more then. NULL when that can't be:
 * whoever gets ready again says why, or finds that QEMU has ended. */
static StasisRollback *get_ready(StasisGuard *guard, const char *image)
{
    StasisRollbackOptions options = STASIS_ROLLBACK_OPTIONS_INIT;
    options.force = TRUE;
    StasisHeldFlags flags = STASIS_HELD_FAILED | STASIS_HELD_SWEPT;
    if (guard->in_memory && stasis_memory_is_ram(guard->memory))
        flags |= STASIS_HELD_TRUSTED;
    return stasis_rollback_prepare_held(stasis_ring_release(guard->ring), guard->store, image,
                                        flags, &options, NULL, NULL);
}

const StasisImageInfo *stasis_guard_back_go(StasisGuard *guard, const StasisFailure *failure,
                                            guint64 seen_us, GError **error)
{
    /* Of a failure that is older than we are every image of ours is, too. */
    gint64 until_us = failure->since_us > guard->armed_us ? failure->at_us : failure->since_us;
    const StasisImageInfo *image =
        stasis_ring_find_before(guard->ring, failure->since_us, until_us, guard->n_tries - 1);
    gboolean restart = guard->options->then == STASIS_GUARD_RESTART;
    if (image == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "VM %s failed (%s) before there was an image: it is left as it is", guard->name,
                    failure->kind);
        return NULL;
    }
    g_clear_pointer(&guard->watch, stasis_watch_free);
    pause_before(guard);
    StasisRollback *ready = restart ? NULL : get_ready(guard, image->id);
    stasis_ring_stop(guard->ring);
    g_autoptr(StasisUndone) undone =
        stasis_undo(guard->name, guard->uri, ready, guard->store, image->id, restart, NULL, error);
    if (undone == NULL)
        return NULL;
    guard->back_us = stasis_now_us();
    StasisGuardEvent event = { .what = undone->restarted ? "restarted" : "rolled-back",
                               .failure = failure,
                               .id = image->id,
                               .undone = undone,
                               .n_tries = guard->n_tries,
                               .took_us = guard->back_us - seen_us };
    if (undone->restarted)
        guard->result->n_restarts++;
    else
        guard->result->n_rollbacks++;
    stasis_guard_tell(guard, &event);
    return image;
}

gboolean stasis_guard_back_may(StasisGuard *guard, guint64 seen_us)
{
    if (guard->options->then == STASIS_GUARD_END)
        return FALSE;
    gboolean was_well = guard->back_us == 0 || seen_us - guard->back_us > WELL_US;
    guard->n_tries = was_well ? 1 : guard->n_tries + 1;
    guard->result->gave_up = guard->n_tries > guard->max_tries;
    return !guard->result->gave_up;
}

gboolean stasis_guard_back_is_half(const StasisGuard *guard)
{
    g_autoptr(StasisRollbackMark) mark = stasis_rollback_mark_get(guard->name);
    return mark != NULL;
}
