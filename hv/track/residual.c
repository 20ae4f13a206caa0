/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mapping has one userfaultfd at a time, so a range is lent while the VM runs:
 *
 *      asynchronous ──unregister──> nobody ──register, protect──> synchronous ──…──> asynchronous
 *
 * What is written while it is nobody's is seen by nobody. That harms nothing: whole ranges belong
 * to the residual, so they are saved as of the stop, whatever was in them before; and all of them
 * counts as written when they are back. So nothing of this has to happen in the stop, in which only
 * those pages are protected again that faulted since.
 *
 * Each range splits mappings, of which a process has 65,530 at most, and costs some microseconds of
 * QEMU's address space lock. So near pages share one, the farther the more of them there are.
 */
#include "track/residual.h"

#include <errno.h>
#include <linux/magic.h>
#include <stasis/error.h>
#include <sys/vfs.h>

#include "base/fault.h"
#include "base/io.h"
#include "track/uffd-ram.h"
#include "track/uffd-sync.h"

#define MAX_RANGES 1024u
/* At first, pages nearer than this share a range. */
#define MIN_GAP_PAGES 16u
/* A vCPU that faults in a range that is just being lent waits for all of it: 16 MiB. */
#define MAX_RANGE_PAGES 4096u

typedef struct {
    guint block;
    guint64 first, n;
} Range;

struct _StasisResidual {
    const StasisRam *ram;
    StasisTracker *tracker; /* asynchronous, of all RAM */
    StasisTracker *sync;
    const StasisUffd *uffd; /* sync's */
    GArray *ranges;         /* of Range; those that are not with the tracker */
    StasisDirty *pages;     /* in them */
    StasisDirty *again;
};

StasisResidual *stasis_residual_new(const StasisRam *ram, StasisTracker *tracker, StasisQmp *qmp,
                                    GError **error)
{
    StasisTracker *sync = stasis_uffd_sync_open_empty(ram, qmp, error);
    if (sync == NULL)
        return NULL;
    StasisResidual *residual = g_new0(StasisResidual, 1);
    *residual = (StasisResidual){
        .ram = ram,
        .tracker = tracker,
        .sync = sync,
        .uffd = stasis_uffd_sync_get_uffd(sync),
        .ranges = g_array_new(FALSE, FALSE, sizeof(Range)),
        .pages = stasis_dirty_new(ram),
        .again = stasis_dirty_new(ram),
    };
    return residual;
}

void stasis_residual_free(StasisResidual *residual)
{
    if (residual == NULL)
        return;
    stasis_residual_end(residual, NULL);
    g_array_unref(residual->ranges);
    stasis_dirty_free(residual->pages);
    stasis_dirty_free(residual->again);
    g_free(residual);
}

const StasisDirty *stasis_residual_get_pages(const StasisResidual *residual)
{
    return residual->pages;
}

StasisTracker *stasis_residual_get_tracker(const StasisResidual *residual)
{
    return residual->sync;
}

/* ---- which ranges ---- */

/* Memory that synchronous write protection can be had for, page by page. */
static gboolean can_protect(const StasisRamBlock *block)
{
    struct statfs fs;
    int fd = block->fd >= 0 ? block->fd : block->source_fd;
    if (block->page_bytes != 4096)
        return FALSE;
    return block->backing != STASIS_BACKING_FILE ||
           (fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC);
}

void stasis_residual_choose(const StasisResidual *residual, const StasisDirty *hot,
                            StasisDirty *ret)
{
    for (guint i = 0; i < hot->n_blocks; i++)
        if (can_protect(stasis_ram_block(residual->ram, i)))
            stasis_bitmap_or(ret->blocks[i], hot->blocks[i]);
}

/* The first range of @hot at or behind @at: runs with less than @gap pages between them. */
static gboolean next_range(const StasisBitmap *hot, guint64 at, guint64 gap, guint64 *ret_first,
                           guint64 *ret_n)
{
    guint64 first, n;
    if (!stasis_bitmap_next_run(hot, at, G_MAXUINT64, ret_first, ret_n))
        return FALSE;
    while (stasis_bitmap_next_run(hot, *ret_first + *ret_n, G_MAXUINT64, &first, &n) &&
           first - (*ret_first + *ret_n) < gap)
        *ret_n = first + n - *ret_first;
    return TRUE;
}

static guint64 count_ranges(const StasisDirty *hot, guint64 gap)
{
    guint64 count = 0, first, n;
    for (guint i = 0; i < hot->n_blocks; i++)
        for (guint64 at = 0; next_range(hot->blocks[i], at, gap, &first, &n); at = first + n)
            count++;
    return count;
}

/* ---- lending ---- */

static int give_back(StasisResidual *residual, const Range *range)
{
    const StasisRamBlock *block = stasis_ram_block(residual->ram, range->block);
    stasis_uffd_ram_unregister_pages(residual->uffd, block, range->first, range->n);
    return residual->tracker->ops->take_back(residual->tracker, range->block, range->first,
                                             range->n);
}

static int lend(StasisResidual *residual, const Range *range)
{
    const StasisRamBlock *block = stasis_ram_block(residual->ram, range->block);
    /* From now on it has to be given back, whatever comes. */
    g_array_append_vals(residual->ranges, range, 1);
    int r = residual->tracker->ops->lend(residual->tracker, range->block, range->first, range->n);
    if (r == 0)
        r = stasis_uffd_ram_register_pages(residual->uffd, block, range->first, range->n);
    if (r == 0)
        r = stasis_uffd_ram_protect_pages(residual->uffd, block, range->first, range->n);
    if (r == 0)
        stasis_bitmap_set_range(residual->pages->blocks[range->block], range->first, range->n);
    return r;
}

/* The first part of [first, +n) that is not protected yet; 0 pages if there is none. */
static guint64 next_unprotected(const StasisBitmap *pages, guint64 *first, guint64 n)
{
    guint64 end = *first + n, len = 0;
    while (*first < end && stasis_bitmap_test(pages, *first))
        (*first)++;
    while (len < MAX_RANGE_PAGES && *first + len < end && !stasis_bitmap_test(pages, *first + len))
        len++;
    return len;
}

static gboolean protect_block(StasisResidual *residual, guint i, const StasisBitmap *hot,
                              guint64 gap, GError **error)
{
    const StasisRamBlock *block = stasis_ram_block(residual->ram, i);
    guint64 first, n;
    for (guint64 at = 0; next_range(hot, at, gap, &first, &n); at = first + n) {
        n = next_unprotected(residual->pages->blocks[i], &first, n);
        if (n == 0)
            continue;
        int r = lend(residual, &(Range){ i, first, n });
        if (r < 0)
            return stasis_set_errno(error, -r, "write-protect a part of RAM block %s", block->name);
        if (!stasis_fault(STASIS_FAULT_RESIDUAL_LENT, error))
            return FALSE;
    }
    return TRUE;
}

gboolean stasis_residual_protect(StasisResidual *residual, const StasisDirty *hot, GError **error)
{
    guint64 gap = MIN_GAP_PAGES;
    while (count_ranges(hot, gap) > MAX_RANGES)
        gap *= 2;
    for (guint i = 0; i < hot->n_blocks; i++)
        if (!protect_block(residual, i, hot->blocks[i], gap, error))
            return FALSE;
    return stasis_fault(STASIS_FAULT_RESIDUAL_PROTECTED, error);
}

int stasis_residual_renew(StasisResidual *residual)
{
    stasis_dirty_clear(residual->again);
    int r = residual->sync->ops->harvest_stopped(residual->sync, residual->again);
    return r < 0 ? r : residual->sync->ops->protect(residual->sync, residual->again);
}

/* Also after a failure: the rest. */
gboolean stasis_residual_end(StasisResidual *residual, GError **error)
{
    int r = 0;
    for (guint i = 0; i < residual->ranges->len; i++) {
        int one = give_back(residual, &g_array_index(residual->ranges, Range, i));
        r = r == 0 ? one : r;
        stasis_fault(STASIS_FAULT_RESIDUAL_RETURNING, NULL);
    }
    g_array_set_size(residual->ranges, 0);
    if (residual->sync != NULL)
        residual->sync->ops->close(residual->sync, FALSE);
    residual->sync = NULL;
    return r == 0 || stasis_set_errno(error, -r, "watch the protected part of RAM again");
}
