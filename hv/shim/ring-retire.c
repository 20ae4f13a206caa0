/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A ring that is smaller than what the guest writes between two harvests. If each time it is full
 * all of its pages were armed again the guest would fault at every page that it comes back to, for
 * ever. So where only the monitor logs such entries are given back without arming their pages (they
 * are changed so that they name no slot): the page is pending for the monitor, and stays writable
 * ("retired") until the next harvest, as with a bitmap.
 *
 * Then there is no entry any more by which it could be armed. But what is taken out of the second
 * mapping, which KVM alone uses, is taken out of KVM's tables, too; the next write faults and makes
 * an entry. So may the next read: such a page counts as written where it was not. The memory stays.
 */
#include <sys/mman.h>

#include "shim/ring.h"

#define NO_SLOT UINT32_MAX
#define PIECE_PAGES 8192u

static int zap(uint64_t view, uint64_t bytes)
{
    return madvise((void *)view, bytes, MADV_DONTNEED);
}

int (*shim_zap)(uint64_t view, uint64_t bytes) = zap;

bool shim_ring_retire(const struct shim_slot *slot, struct kvm_dirty_gfn *gfn)
{
    if (!shim.logging || slot == NULL || shim_slot_is_logged(slot) || gfn->offset >= slot->n_pages)
        return false;
    struct shim_range *range = slot->range;
    uint64_t page = slot->first_page + gfn->offset;
    range->retired[page / 64] |= (uint64_t)1 << page % 64;
    range->has_retired = true;
    gfn->slot = NO_SLOT;
    return true;
}

static bool is_retired(const struct shim_range *range, uint64_t page)
{
    return (range->retired[page / 64] >> page % 64 & 1) != 0;
}

/* The next run of retired pages from @at on, before @end; its length. */
static uint64_t next_run(const struct shim_range *range, uint64_t at, uint64_t end,
                         uint64_t *ret_first)
{
    while (at < end && (range->retired[at / 64] == 0 || !is_retired(range, at)))
        at += range->retired[at / 64] == 0 ? 64 - at % 64 : 1;
    *ret_first = at;
    uint64_t n = 0;
    while (at + n < end && n < PIECE_PAGES && is_retired(range, at + n))
        n++;
    return n;
}

static bool arm_run(struct shim_range *range, uint64_t first, uint64_t n)
{
    if (shim_zap(range->view + first * SHIM_PAGE, n * SHIM_PAGE) < 0)
        return false;
    for (uint64_t page = first; page < first + n; page++)
        range->retired[page / 64] &= ~((uint64_t)1 << page % 64);
    return true;
}

bool shim_retired_arm(struct shim_range *range, uint64_t from, uint64_t end, bool may_breathe)
{
    uint64_t first, n;
    bool all = true;
    for (uint64_t at = from; (n = next_run(range, at, end, &first)) > 0; at = first + n) {
        all = arm_run(range, first, n) && all;
        if (may_breathe)
            shim_breathe();
    }
    return all;
}

void shim_retired_arm_all(void)
{
    for (unsigned i = 0; i < STASIS_SHIM_MAX_RANGES; i++) {
        struct shim_range *range = &shim.ranges[i];
        if (!range->used || !range->has_retired)
            continue;
        range->has_retired = false;
        if (!shim_retired_arm(range, 0, range->bytes / SHIM_PAGE, true))
            range->has_retired = true;
    }
}

void shim_retired_keep(void)
{
    for (unsigned i = 0; i < STASIS_SHIM_MAX_RANGES; i++) {
        struct shim_range *range = &shim.ranges[i];
        if (range->used && range->has_retired)
            shim_pending_or(range, 0, range->retired, range->bytes / SHIM_PAGE);
    }
}
