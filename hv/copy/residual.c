/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mode live under an asynchronous tracker: what of the residual is protected instead of copied.
 *
 *      plan      which pages; a second userfaultfd is made           the VM runs
 *      protect   they fault from now on, and are pending no longer   the VM runs
 *      renew     protect again what was written since                the stop
 *      —         copied in order, or before a write                  the VM runs
 *      unprotect all of RAM is the tracker's again                   the VM runs
 */
#include "copy/copy.h"

#include <string.h>

/* $STASIS_RESIDUAL: for those who have trouble with one way, and for tests. */
StasisResidualWay stasis_copy_residual_way(void)
{
    const char *wanted = g_getenv("STASIS_RESIDUAL");
    if (g_strcmp0(wanted, "protect") == 0)
        return STASIS_RESIDUAL_PROTECT;
    return g_strcmp0(wanted, "copy") == 0 ? STASIS_RESIDUAL_COPY : STASIS_RESIDUAL_EITHER;
}

gboolean stasis_copy_plan_protection(StasisCopy *copy, const StasisDirty *written, GError **error)
{
    StasisResidualWay way = stasis_copy_residual_way();
    if (way == STASIS_RESIDUAL_COPY)
        return TRUE;
    if (copy->residual == NULL)
        copy->residual = stasis_residual_new(copy->ram, copy->tracker, copy->qmp,
                                             way == STASIS_RESIDUAL_PROTECT ? error : NULL);
    if (copy->residual == NULL)
        return way != STASIS_RESIDUAL_PROTECT;
    g_autoptr(StasisDirty) hot = stasis_dirty_new(copy->ram);
    stasis_residual_choose(copy->residual, written, hot);
    stasis_dirty_subtract(hot, stasis_residual_get_pages(copy->residual));
    if (stasis_dirty_count(hot) > 0)
        copy->hot = g_steal_pointer(&hot);
    return TRUE;
}

gboolean stasis_copy_protect(StasisCopy *copy, GError **error)
{
    gboolean ok = stasis_residual_protect(copy->residual, copy->hot, error);
    g_clear_pointer(&copy->hot, stasis_dirty_free);
    if (!ok)
        return FALSE;
    const StasisDirty *pages = stasis_residual_get_pages(copy->residual);
    stasis_dirty_subtract(copy->pending, pages);
    stasis_capture_drop(copy->capture, pages);
    if (copy->protect != NULL)
        return TRUE;
    guint64 captured = MIN(stasis_capture_get_bytes(copy->capture), copy->max_buffer_bytes);
    copy->protect = stasis_protected_new(copy->ram, stasis_residual_get_tracker(copy->residual),
                                         copy->pipeline, copy->max_buffer_bytes - captured);
    return TRUE;
}

int stasis_copy_renew_protection(StasisCopy *copy)
{
    const StasisDirty *pages = stasis_residual_get_pages(copy->residual);
    copy->protected_pages = stasis_dirty_count(pages);
    stasis_protected_begin(copy->protect, pages);
    return stasis_residual_renew(copy->residual);
}

gboolean stasis_copy_unprotect(StasisCopy *copy, GError **error)
{
    if (copy->residual == NULL)
        return TRUE;
    StasisTracker *sync = stasis_residual_get_tracker(copy->residual);
    sync->ops->get_fault_stats(sync, &copy->faults);
    if (copy->protect != NULL)
        stasis_protected_end(copy->protect);
    gboolean ok = stasis_residual_end(copy->residual, error);
    g_clear_pointer(&copy->residual, stasis_residual_free);
    return ok;
}
