/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of trackers, and dirty sets. */
#include "track/tracker.h"

#include <stasis/error.h>
#include <string.h>

#include "track/shim-client.h"
#include "track/uffd-ram.h"
#include "track/uffd.h"

/* Best first. */
static const StasisTrackerOps *const trackers[] = {
    &stasis_tracker_kvm_log,
    &stasis_tracker_uffd_async,
    &stasis_tracker_uffd_sync,
};

const StasisTrackerOps *stasis_tracker_choose(const StasisRam *ram, const char *name,
                                              gboolean need_sync, GError **error)
{
    gboolean any = name == NULL || strcmp(name, "auto") == 0;
    for (gsize i = 0; i < G_N_ELEMENTS(trackers); i++) {
        const StasisTrackerOps *ops = trackers[i];
        if (any ? need_sync && !ops->synchronous : strcmp(name, ops->name) != 0)
            continue;
        if (ops->available(ram))
            return ops;
        if (!any)
            break;
    }
    if (!any && strcmp(name, stasis_tracker_kvm_log.name) == 0)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "dirty tracker kvm-log: %s; --tracker auto takes what there is",
                    stasis_shim_why_not(ram));
    else
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "dirty tracker %s: not possible with this kernel (see stasis doctor); --mode "
                    "stop needs none",
                    any ? "uffd" : name);
    return NULL;
}

guint64 stasis_tracker_get_token(StasisTracker *tracker)
{
    return tracker != NULL && tracker->ops->get_token != NULL ? tracker->ops->get_token(tracker)
                                                              : 0;
}

const StasisTrackerOps *stasis_tracker_kept(const StasisRam *ram, guint64 token)
{
    for (gsize i = 0; i < G_N_ELEMENTS(trackers); i++)
        if (trackers[i]->is_kept != NULL && trackers[i]->is_kept(ram, token))
            return trackers[i];
    return NULL;
}

gboolean stasis_tracker_sweep(pid_t pid, GError **error)
{
    return stasis_shim_sweep(pid, error) &&
           stasis_uffd_drop(pid, STASIS_UFFD_ASYNC_FEATURES, error) &&
           stasis_uffd_drop(pid, 0, error);
}

/* ---- dirty sets ---- */

StasisDirty *stasis_dirty_new(const StasisRam *ram)
{
    StasisDirty *dirty = g_new0(StasisDirty, 1);
    dirty->n_blocks = ram->blocks->len;
    dirty->blocks = g_new0(StasisBitmap *, dirty->n_blocks);
    for (guint i = 0; i < dirty->n_blocks; i++)
        dirty->blocks[i] = stasis_bitmap_new(stasis_ram_block_pages(stasis_ram_block(ram, i)));
    return dirty;
}

void stasis_dirty_free(StasisDirty *dirty)
{
    if (dirty == NULL)
        return;
    for (guint i = 0; i < dirty->n_blocks; i++)
        stasis_bitmap_free(dirty->blocks[i]);
    g_free(dirty->blocks);
    g_free(dirty);
}

void stasis_dirty_set_all(StasisDirty *dirty)
{
    for (guint i = 0; i < dirty->n_blocks; i++)
        stasis_bitmap_set_range(dirty->blocks[i], 0, dirty->blocks[i]->n_pages);
}

void stasis_dirty_clear(StasisDirty *dirty)
{
    for (guint i = 0; i < dirty->n_blocks; i++)
        stasis_bitmap_clear(dirty->blocks[i]);
}

void stasis_dirty_or(StasisDirty *dirty, const StasisDirty *other)
{
    for (guint i = 0; i < dirty->n_blocks; i++)
        stasis_bitmap_or(dirty->blocks[i], other->blocks[i]);
}

static guint64 n_words(const StasisBitmap *bitmap)
{
    return (bitmap->n_pages + 63) / 64;
}

void stasis_dirty_intersect(StasisDirty *dirty, const StasisDirty *a, const StasisDirty *b)
{
    for (guint i = 0; i < dirty->n_blocks; i++)
        for (guint64 w = 0; w < n_words(dirty->blocks[i]); w++)
            dirty->blocks[i]->words[w] = a->blocks[i]->words[w] & b->blocks[i]->words[w];
}

void stasis_dirty_subtract(StasisDirty *dirty, const StasisDirty *other)
{
    for (guint i = 0; i < dirty->n_blocks; i++)
        stasis_bitmap_subtract(dirty->blocks[i], other->blocks[i]);
}

guint64 stasis_dirty_count(const StasisDirty *dirty)
{
    guint64 n = 0;
    for (guint i = 0; i < dirty->n_blocks; i++)
        n += stasis_bitmap_count(dirty->blocks[i]);
    return n;
}
