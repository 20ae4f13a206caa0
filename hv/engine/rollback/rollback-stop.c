/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VM is stopped for a rollback, and goes on. From before the stop until there is no way back
 * our death lets it go on as it was.
 */
#include <stasis/error.h>

#include "engine/rollback/rollback-internal.h"

static guint64 last_event(StasisQmp *qmp, const char *name)
{
    return stasis_qmp_wait_event(qmp, name, 0, 0);
}

gboolean stasis_rollback_stop(StasisQmp *qmp, StasisLifeline *lifeline, StasisRollbackStop *ret,
                              GError **error)
{
    *ret = (StasisRollbackStop){ 0 };
    if (!stasis_lifeline_stop(lifeline, qmp, &ret->by_us, error))
        return FALSE;
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
    if (stasis_lifeline_resume(lifeline, qmp, error))
        return TRUE;
    g_prefix_error(error, "the VM could not be resumed at once; see stasis info, and stasis "
                          "resume: ");
    return FALSE;
}
