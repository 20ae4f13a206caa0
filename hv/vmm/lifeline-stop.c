/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A VM is stopped under a lifeline, and goes on. Nothing is allocated but for an error. */
#include "vmm/lifeline.h"

#define STOP_LINE "{\"execute\":\"stop\"}\n"
#define CONT_LINE "{\"execute\":\"cont\"}\n"
/* A hang limit, not an expectation. */
#define TIMEOUT_MS 30000

/* QEMU tells of a stop only when the VM was running: without that event somebody else has stopped
 * it meanwhile. */
gboolean stasis_lifeline_stop(StasisLifeline *lifeline, StasisQmp *qmp, gboolean *ret_by_us,
                              GError **error)
{
    guint64 before = stasis_qmp_wait_event(qmp, "STOP", 0, 0);
    stasis_lifeline_arm(lifeline);
    *ret_by_us = TRUE;
    if (!stasis_qmp_execute_line(qmp, STOP_LINE, TIMEOUT_MS, error))
        return FALSE;
    guint lag_ms = stasis_qmp_get_event_lag_ms(qmp);
    if (stasis_qmp_wait_event(qmp, "STOP", before, lag_ms) == before) {
        stasis_lifeline_disarm(lifeline);
        *ret_by_us = FALSE;
    }
    return TRUE;
}

gboolean stasis_lifeline_resume(StasisLifeline *lifeline, StasisQmp *qmp, GError **error)
{
    g_autoptr(GError) local = NULL;
    /* Twice is as good as once, and a connection that was lost may be made again. */
    if (stasis_qmp_execute_line(qmp, CONT_LINE, TIMEOUT_MS, &local) ||
        stasis_qmp_execute_line(qmp, CONT_LINE, TIMEOUT_MS, NULL)) {
        stasis_lifeline_disarm(lifeline);
        return TRUE;
    }
    stasis_lifeline_fire(lifeline);
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}
