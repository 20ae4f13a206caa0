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
static guint64 count_data_pages(const StasisRam *ram, const StasisRamBlock *block)
{
    guint64 n_data = 0;
    for (guint64 at = 0, len; at < block->size_bytes; at += len) {
        len = block->size_bytes - at;
        guint64 same = len;
        gboolean hole = stasis_ram_is_hole(ram, block, at, len, &same);
        len = CLAMP(same, 1, len);
        if (!hole)
            n_data += len / STASIS_PAGE_BYTES;
    }
    return n_data;
}

/* Pages written between arming and the stop are in this image and stay dirty for the next one:
 * once too often, and nothing has to be protected in the stop. */
static gboolean stop_before(StasisCopy *copy, GError **error)
{
    guint64 n_pages = 0;
    if (copy->incremental) {
        if (!copy->tracker->ops->harvest(copy->tracker, copy->harvested, TRUE, error))
            return FALSE;
        stasis_dirty_or(copy->pending, copy->harvested);
        n_pages = stasis_dirty_count(copy->pending);
    } else {
        if (copy->tracker != NULL && !copy->tracker->ops->arm(copy->tracker, error))
            return FALSE;
        stasis_dirty_set_all(copy->pending);
        for (guint i = 0; i < copy->pending->n_blocks; i++)
            n_pages += count_data_pages(copy->ram, stasis_ram_block(copy->ram, i));
    }
    n_pages = MIN(n_pages + n_pages / 4 + 4096, copy->max_buffer_bytes / STASIS_PAGE_BYTES);
    copy->capture = stasis_capture_new(copy->ram, n_pages, copy->cancellable, error);
    return copy->capture != NULL;
}

static int stop_during(StasisCopy *copy)
{
    if (copy->incremental) {
        int r = copy->tracker->ops->harvest_stopped(copy->tracker, copy->pending);
        if (r < 0)
            return r;
    }
    copy->residual_pages = stasis_dirty_count(copy->pending);
    int r = stasis_capture_pages(copy->capture, copy->pending, copy->stop_deadline_us);
    if (r != -ENOBUFS)
        return r;
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
