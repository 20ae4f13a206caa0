/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VM is stopped for a rollback, and goes on. From before the stop until there is no way back
 * our death lets it go on as it was.
 */
#include <stasis/error.h>

#include "engine/rollback/rollback-internal.h"

#define STOP_LINE "{\"execute\":\"stop\"}\n"
#define CONT_LINE "{\"execute\":\"cont\"}\n"
/* Hang limits, not expectations. */
#define TIMEOUT_MS 30000

static guint64 last_event(StasisQmp *qmp, const char *name)
{
    return stasis_qmp_wait_event(qmp, name, 0, 0);
}

/* QEMU tells of a stop only when the VM was running: otherwise somebody else has stopped it. */
gboolean stasis_rollback_stop(StasisQmp *qmp, StasisLifeline *lifeline, StasisRollbackStop *ret,
                              GError **error)
{
    guint64 before = last_event(qmp, "STOP");
    stasis_lifeline_arm(lifeline);
    *ret = (StasisRollbackStop){ .by_us = TRUE };
    if (!stasis_qmp_execute_line(qmp, STOP_LINE, TIMEOUT_MS, error))
        return FALSE;
    guint lag_ms = stasis_qmp_get_event_lag_ms(qmp);
    if (stasis_qmp_wait_event(qmp, "STOP", before, lag_ms) == before) {
        stasis_lifeline_disarm(lifeline);
        ret->by_us = FALSE;
    }
    stasis_rollback_note_stop(qmp, ret);
    return TRUE;
}

void stasis_rollback_note_stop(StasisQmp *qmp, StasisRollbackStop *ret)
{
    ret->stands = TRUE;
    ret->resumed_us = last_event(qmp, "RESUME");
    ret->generation = stasis_qmp_get_generation(qmp);
}

gboolean stasis_rollback_still_stands(const StasisRollbackStop *stop, StasisQmp *qmp,
                                      GError **error)
{
    if (last_event(qmp, "RESUME") == stop->resumed_us &&
        stasis_qmp_get_generation(qmp) == stop->generation)
        return TRUE;
    g_set_error_literal(
        error, STASIS_ERROR, STASIS_ERROR_FAILED,
        "the VM may have been resumed by someone else while it was stopped for the rollback; "
        "try again");
    return FALSE;
}

gboolean stasis_rollback_resume(StasisQmp *qmp, StasisLifeline *lifeline, GError **error)
{
    g_autoptr(GError) local = NULL;
    /* Twice: as in stopper-qmp.c. */
    if (!stasis_qmp_execute_line(qmp, CONT_LINE, TIMEOUT_MS, &local) &&
        !stasis_qmp_execute_line(qmp, CONT_LINE, TIMEOUT_MS, NULL)) {
        g_propagate_error(error, g_steal_pointer(&local));
        stasis_lifeline_fire(lifeline);
        g_prefix_error(error, "the VM could not be resumed at once; see stasis info, and stasis "
                              "resume: ");
        return FALSE;
    }
    stasis_lifeline_disarm(lifeline);
    return TRUE;
}
