/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mode "cow": the image is the instant of the call. All of RAM is protected while the VM still runs
 * (writes meanwhile are noted and let through), so that the stop has only those to protect again;
 * then the VM goes on, and a page is saved before its first write.
 */
#include "copy/copy.h"

#include "base/fault.h"

static gboolean cow_before(StasisCopy *copy, GError **error)
{
    stasis_dirty_set_all(copy->pending);
    copy->protect =
        stasis_protected_new(copy->ram, copy->tracker, copy->pipeline, copy->max_buffer_bytes);
    return copy->tracker->ops->arm(copy->tracker, error);
}

static int cow_during(StasisCopy *copy)
{
    stasis_protected_begin(copy->protect, copy->pending);
    int r = copy->tracker->ops->harvest_stopped(copy->tracker, copy->harvested);
    if (r < 0)
        return r;
    copy->residual_pages = copy->protected_pages = stasis_dirty_count(copy->harvested);
    return copy->tracker->ops->protect(copy->tracker, copy->harvested);
}

gboolean stasis_copy_protected(StasisCopy *copy, GError **error)
{
    guint64 total = stasis_dirty_count(copy->pending), done = 0;
    gboolean half_passed = FALSE;
    for (guint i = 0; i < copy->pending->n_blocks; i++) {
        guint64 first, n, next;
        for (guint64 at = 0;
             stasis_bitmap_next_run(copy->pending->blocks[i], at, G_MAXUINT64, &first, &n);
             at = next) {
            if (!stasis_copy_may_go_on(copy, error) ||
                !stasis_protected_check(copy->protect, error))
                return FALSE;
            if (!stasis_protected_copy(copy->protect, i, first, &next))
                return stasis_protected_check(copy->protect, error);
            done += MIN(n, next - first);
            stasis_copy_report(copy, "copy", done * STASIS_PAGE_BYTES, total * STASIS_PAGE_BYTES);
            if (!half_passed && done >= total / 2) {
                half_passed = TRUE;
                if (!stasis_fault(STASIS_FAULT_COW_HALF, error))
                    return FALSE;
            }
        }
    }
    return stasis_pipeline_drain(copy->pipeline, error) &&
           stasis_protected_check(copy->protect, error);
}

const StasisModeOps stasis_mode_cow = {
    .name = "cow",
    .needs_tracker = TRUE,
    .needs_sync = TRUE,
    .before = cow_before,
    .during = cow_during,
    .after = stasis_copy_protected,
};
