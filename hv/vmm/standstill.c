/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/standstill.h"

#include "vmm/lifeline.h"

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

/* An answer that is lost leaves the VM stopped, perhaps: then end() lets it go on. */
gboolean stasis_standstill_begin(StasisStandstill *still, GError **error)
{
    g_autofree char *state = stasis_qmp_run_state(still->qmp, error);
    if (state == NULL)
        return FALSE;
    if (!g_str_equal(state, "running"))
        return TRUE;
    return stasis_lifeline_stop(still->lifeline, still->qmp, &still->stopped, error);
}

gboolean stasis_standstill_end(StasisStandstill *still, GError **error)
{
    if (!still->stopped)
        return TRUE;
    still->stopped = FALSE;
    return stasis_lifeline_resume(still->lifeline, still->qmp, error);
}

void stasis_standstill_free(StasisStandstill *still)
{
    if (still == NULL)
        return;
    stasis_standstill_end(still, NULL);
    stasis_lifeline_free(still->lifeline);
    g_free(still);
}
