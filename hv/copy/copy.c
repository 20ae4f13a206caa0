/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of modes, and what they share. */
#include "copy/copy.h"

#include <stasis/error.h>
#include <string.h>

#include "base/fault.h"
#include "base/io.h"
#include "track/uffd-ram.h"

static const StasisModeOps *const modes[] = {
    [STASIS_MODE_LIVE] = &stasis_mode_live,
    [STASIS_MODE_COW] = &stasis_mode_cow,
    [STASIS_MODE_STOP] = &stasis_mode_stop,
};

/* Largest run that is pushed in one piece, and one look at the holes of a block. */
#define PUSH_PAGES 256u
#define HOLE_PAGES 16384u

const StasisModeOps *stasis_mode_ops(StasisMode mode)
{
    return modes[mode];
}

int stasis_mode_from_string(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(modes); i++)
        if (strcmp(modes[i]->name, name) == 0)
            return (int)i;
    return -1;
}

gboolean stasis_copy_may_go_on(StasisCopy *copy, GError **error)
{
    if (copy->cancellable != NULL && g_cancellable_is_cancelled(copy->cancellable))
        return stasis_set_cancelled(error);
    return !stasis_pipeline_has_failed(copy->pipeline) ||
           stasis_pipeline_drain(copy->pipeline, error);
}

gboolean stasis_copy_settle_dma(StasisCopy *copy, GError **error)
{
    return copy->settle_dma == NULL || copy->settle_dma(copy->settle_dma_data, error);
}

void stasis_copy_report(StasisCopy *copy, const char *phase, guint64 done, guint64 total)
{
    if (copy->progress == NULL)
        return;
    StasisProgress progress = { .phase = phase, .done_bytes = done, .total_bytes = total };
    copy->progress(&progress, copy->progress_data);
}

/* The part of [first, +*n) that is alike in being a hole or not. The answer "no hole" is about the
 * first page only unless the hole finder says more. */
static gboolean find_hole(const StasisRam *ram, const StasisRamBlock *block, guint64 first,
                          guint64 *n)
{
    guint64 offset = first * STASIS_PAGE_BYTES;
    guint64 len = MIN(*n * STASIS_PAGE_BYTES, block->size_bytes - offset), same = len;
    gboolean hole = stasis_ram_is_hole(ram, block, offset, len, &same);
    if (same < len)
        *n = MAX(same / STASIS_PAGE_BYTES, 1);
    return hole;
}

static gboolean push_range(StasisCopy *copy, guint index, guint64 first, guint64 n, GError **error)
{
    const StasisRamBlock *block = stasis_ram_block(copy->ram, index);
    for (guint64 end = first + n; first < end; first += n) {
        n = end - first;
        if (find_hole(copy->ram, block, first, &n)) {
            if (!stasis_pipeline_push_zero(copy->pipeline, index, first, n, error))
                return FALSE;
            continue;
        }
        n = MIN(n, PUSH_PAGES);
        stasis_pipeline_push(copy->pipeline,
                             &(StasisPageRun){ .block = index, .first_page = first, .n_pages = n });
    }
    return TRUE;
}

gboolean stasis_copy_pending(StasisCopy *copy, const char *phase, GError **error)
{
    guint64 total = stasis_dirty_count(copy->pending), done = 0;
    gboolean half_passed = FALSE;
    for (guint i = 0; i < copy->pending->n_blocks; i++) {
        guint64 first, n;
        StasisBitmap *bitmap = copy->pending->blocks[i];
        for (guint64 at = 0; stasis_bitmap_next_run(bitmap, at, HOLE_PAGES, &first, &n);
             at = first + n) {
            if (!stasis_copy_may_go_on(copy, error) || !push_range(copy, i, first, n, error))
                return FALSE;
            done += n;
            stasis_copy_report(copy, phase, done * STASIS_PAGE_BYTES, total * STASIS_PAGE_BYTES);
            if (!half_passed && done >= total / 2) {
                half_passed = TRUE;
                if (!stasis_fault(STASIS_FAULT_COPY_HALF, error))
                    return FALSE;
            }
        }
    }
    return stasis_pipeline_drain(copy->pipeline, error);
}

void stasis_copy_begin(StasisCopy *copy)
{
    copy->pending = stasis_dirty_new(copy->ram);
    copy->harvested = stasis_dirty_new(copy->ram);
}

gboolean stasis_copy_end(StasisCopy *copy, gboolean failed)
{
    gboolean whole = stasis_copy_unprotect(copy, NULL);
    if (copy->protect != NULL)
        stasis_protected_end(copy->protect);
    return !failed || copy->tracker == NULL ||
           (whole && copy->tracker->ops->give_back(copy->tracker, copy->harvested) == 0);
}

void stasis_copy_clear(StasisCopy *copy)
{
    g_clear_pointer(&copy->protect, stasis_protected_free);
    g_clear_pointer(&copy->capture, stasis_capture_free);
    g_clear_pointer(&copy->hot, stasis_dirty_free);
    g_clear_pointer(&copy->pending, stasis_dirty_free);
    g_clear_pointer(&copy->harvested, stasis_dirty_free);
}
