/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/standstill.h"

#include "vmm/lifeline.h"

/* A hang limit, not an expectation. */
#define TIMEOUT_MS 30000

struct _StasisStandstill {
    StasisQmp *qmp;
    StasisLifeline *lifeline;
    gboolean stopped; /* by us */
};

StasisStandstill *stasis_standstill_new(StasisQmp *qmp, GError **error)
{
    g_autoptr(StasisLifeline) lifeline = stasis_lifeline_new(qmp, error);
    if (lifeline == NULL)
        return NULL;
    StasisStandstill *still = g_new0(StasisStandstill, 1);
    still->qmp = qmp;
    still->lifeline = g_steal_pointer(&lifeline);
    return still;
}

/* QEMU tells of a stop only when it was running. An answer that is lost leaves the VM stopped,
 * perhaps: then end() lets it go on. */
gboolean stasis_standstill_begin(StasisStandstill *still, GError **error)
{
    g_autofree char *state = stasis_qmp_run_state(still->qmp, error);
    if (state == NULL)
        return FALSE;
    if (!g_str_equal(state, "running"))
        return TRUE;
    guint64 before = stasis_qmp_wait_event(still->qmp, "STOP", 0, 0);
    stasis_lifeline_arm(still->lifeline);
    still->stopped = TRUE;
    if (!stasis_qmp_execute_line(still->qmp, "{\"execute\":\"stop\"}\n", TIMEOUT_MS, error))
        return FALSE;
    guint lag_ms = stasis_qmp_get_event_lag_ms(still->qmp);
    if (stasis_qmp_wait_event(still->qmp, "STOP", before, lag_ms) == before) {
        /* Somebody else has stopped it meanwhile. */
        stasis_lifeline_disarm(still->lifeline);
        still->stopped = FALSE;
    }
    return TRUE;
}

gboolean stasis_standstill_end(StasisStandstill *still, GError **error)
{
    static const char cont[] = "{\"execute\":\"cont\"}\n";
    g_autoptr(GError) local = NULL;
    if (!still->stopped)
        return TRUE;
    still->stopped = FALSE;
    /* Twice is as good as once, and a connection that was lost may be made again. */
    if (stasis_qmp_execute_line(still->qmp, cont, TIMEOUT_MS, &local) ||
        stasis_qmp_execute_line(still->qmp, cont, TIMEOUT_MS, NULL)) {
        stasis_lifeline_disarm(still->lifeline);
        return TRUE;
    }
    stasis_lifeline_fire(still->lifeline);
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

void stasis_standstill_free(StasisStandstill *still)
{
    if (still == NULL)
        return;
    stasis_standstill_end(still, NULL);
    stasis_lifeline_free(still->lifeline);
    g_free(still);
}
