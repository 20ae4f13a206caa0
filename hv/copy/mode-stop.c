/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mode "stop": stop, copy, go on. The reference that the other modes are compared with. RAM is
 * captured into memory while the VM is stopped and goes through the pipeline after; what there is
 * no memory for goes through it in the stop.
 */
#include "copy/copy.h"

#include <errno.h>

#include "track/uffd-ram.h"

/* Pages that the backing knows to hold data, without reading any. */
static void find_data_pages(const StasisRam *ram, const StasisRamBlock *block, StasisBitmap *known)
{
    for (guint64 at = 0, len; at < block->size_bytes; at += len) {
        len = block->size_bytes - at;
        guint64 same = len;
        gboolean hole = stasis_ram_is_hole(ram, block, at, len, &same);
        len = MAX(MIN(same, len) / STASIS_PAGE_BYTES, 1) * STASIS_PAGE_BYTES;
        guint64 first = at / STASIS_PAGE_BYTES;
        if (!hole)
            stasis_bitmap_set_range(known, first,
                                    MIN(len / STASIS_PAGE_BYTES, known->n_pages - first));
    }
}

/* What fits into @max_pages; the rest is for the stop. */
static void keep_at_most(StasisDirty *dirty, guint64 max_pages)
{
    for (guint i = 0; i < dirty->n_blocks; i++) {
        StasisBitmap *bitmap = dirty->blocks[i];
        guint64 first, n;
        for (guint64 at = 0; stasis_bitmap_next_run(bitmap, at, G_MAXUINT64, &first, &n);
             at = first + n) {
            guint64 kept = MIN(n, max_pages);
            max_pages -= kept;
            stasis_bitmap_clear_range(bitmap, first + kept, n - kept);
        }
    }
}

/* Pages written between arming and the stop are in this image and stay dirty for the next one:
 * once too often, and nothing has to be protected in the stop. */
static gboolean stop_before(StasisCopy *copy, GError **error)
{
    g_autoptr(StasisDirty) known = stasis_dirty_new(copy->ram);
    if (copy->incremental) {
        gboolean ok = copy->tracker->ops->harvest(copy->tracker, copy->harvested, TRUE, error);
        if (!ok)
            return FALSE;
        stasis_dirty_or(copy->pending, copy->harvested);
        stasis_dirty_or(known, copy->pending);
    } else {
        if (copy->tracker != NULL && !copy->tracker->ops->arm(copy->tracker, error))
            return FALSE;
        stasis_dirty_set_all(copy->pending);
        for (guint i = 0; i < known->n_blocks; i++)
            find_data_pages(copy->ram, stasis_ram_block(copy->ram, i), known->blocks[i]);
    }
    guint64 max_pages = copy->max_buffer_bytes / STASIS_PAGE_BYTES;
    keep_at_most(known, max_pages);
    guint64 n_known = stasis_dirty_count(known);
    guint64 extra = MIN(n_known / 4 + 4096, max_pages - n_known);
    copy->capture = stasis_capture_new(copy->ram, known, copy->incremental, extra, copy->pool,
                                       copy->cancellable, error);
    return copy->capture != NULL;
}

static int stop_during(StasisCopy *copy)
{
    stasis_capture_start(copy->capture);
    int r = 0;
    if (copy->incremental)
        r = copy->tracker->ops->harvest_stopped(copy->tracker, copy->pending);
    copy->residual_pages = stasis_dirty_count(copy->pending);
    int taken =
        stasis_capture_take_stopped(copy->capture, copy->pending, copy->stop_deadline_us, NULL);
    if (r < 0 || taken != -ENOBUFS)
        return r < 0 ? r : taken;
    if (copy->stop_deadline_us != 0)
        return -ETIME;
    copy->progress = NULL;
    return stasis_copy_pending(copy, "pause", NULL) ? 0 : -EIO;
}

static gboolean stop_after(StasisCopy *copy, GError **error)
{
    return stasis_capture_push(copy->capture, copy->pipeline, copy->cancellable, error);
}

const StasisModeOps stasis_mode_stop = {
    .name = "stop",
    .before = stop_before,
    .during = stop_during,
    .after = stop_after,
};
