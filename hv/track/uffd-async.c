/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tracker "uffd-async": the kernel lets the guest write and remembers it (userfaultfd with
 * WP_ASYNC), we ask with PAGEMAP_SCAN. A first write costs the guest 1–2 µs and waits for nobody.
 *
 * The context stays in QEMU's descriptor table between two checkpoints, so that tracking needs no
 * process of ours. Harvesting first only reads, and re-arms just the regions found: a scan that
 * protects as it goes notifies KVM of its whole range, which throws away all second-level
 * mappings there and makes the guest fault them in again.
 */
#include "track/uffd-async.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "track/shim-client.h"
#include "track/uffd-ram.h"

#define PAGE 4096u
#define MAX_REGIONS 4096u
/* Regions nearer than this are re-armed together: one call costs about as much as walking them. */
#define SPAN_GAP_BYTES (64u * PAGE)
/* A vCPU that faults in a span waits for all of it. */
#define SPAN_MAX_BYTES ((guint64)16 << 20)

typedef struct {
    StasisTracker base;
    const StasisRam *ram;
    StasisUffd *uffd;
    int pagemap_fd;
    gboolean *sparse; /* of each block */
    guint n_lent;     /* ranges that another userfaultfd has, see residual.h */
    struct page_region regions[MAX_REGIONS];
} AsyncTracker;

/* One mapping of a block, under one of its rules. */
typedef struct {
    const StasisRamBlock *block;
    guint64 hva;
    gboolean sparse;
} Mapping;

static void async_close(StasisTracker *tracker, gboolean keep)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    if (!keep && self->uffd != NULL) {
        stasis_uffd_ram_unregister(self->uffd, self->ram);
        stasis_uffd_drop(self->uffd->pid, STASIS_UFFD_ASYNC_FEATURES, NULL);
        stasis_shim_unhold(self->ram->pid);
    }
    stasis_uffd_free(self->uffd);
    stasis_clear_fd(&self->pagemap_fd);
    g_free(self->sparse);
    g_free(self);
}

StasisTracker *stasis_uffd_async_open(const StasisRam *ram, StasisQmp *qmp, GError **error)
{
    AsyncTracker *self = g_new0(AsyncTracker, 1);
    self->base.ops = &stasis_tracker_uffd_async;
    self->ram = ram;
    self->sparse = g_new0(gboolean, ram->blocks->len);
    g_autofree char *path = g_strdup_printf("/proc/%d/pagemap", (int)ram->pid);
    self->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (self->pagemap_fd < 0) {
        stasis_set_errno(error, errno, "open %s", path);
        async_close(&self->base, TRUE);
        return NULL;
    }
    g_autoptr(GError) local = NULL;
    self->uffd = stasis_uffd_find(ram->pid, STASIS_UFFD_ASYNC_FEATURES, &local);
    if (self->uffd == NULL && local == NULL)
        self->uffd = stasis_uffd_create(ram->pid, qmp, STASIS_UFFD_ASYNC_FEATURES, TRUE, &local);
    /* Registering again what is registered already is free, and covers blocks that are new. */
    if (self->uffd == NULL || !stasis_uffd_ram_register(self->uffd, ram, &local)) {
        g_propagate_error(error, g_steal_pointer(&local));
        async_close(&self->base, FALSE);
        return NULL;
    }
    return &self->base;
}

/* Scan [start, end) of QEMU's memory for written pages into self->regions; their number or −errno.
 * *ret_next: where to go on. With category PAGE_IS_WRITTEN alone the kernel also returns what is in
 * no page table; of a sparse block only what is there counts. */
static int scan(AsyncTracker *self, const Mapping *mapping, guint64 start, guint64 end,
                guint64 flags, guint64 *ret_next)
{
    struct pm_scan_arg arg = {
        .size = sizeof(arg),
        .flags = flags,
        .start = start,
        .end = end,
        .vec = (guint64)self->regions,
        .vec_len = MAX_REGIONS,
        .category_mask = PAGE_IS_WRITTEN,
        .category_anyof_mask = mapping->sparse ? PAGE_IS_PRESENT | PAGE_IS_SWAPPED : 0,
        .return_mask = PAGE_IS_WRITTEN,
    };
    int n;
    do
        n = ioctl(self->pagemap_fd, PAGEMAP_SCAN, &arg);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    *ret_next = arg.walk_end;
    return n;
}

static void mark(StasisBitmap *bitmap, guint64 hva, const struct page_region *region)
{
    guint64 first = (region->start - hva) / PAGE, end = (region->end - hva) / PAGE;
    end = MIN(end, bitmap->n_pages);
    if (first < end)
        stasis_bitmap_set_range(bitmap, first, end - first);
}

/* What is lent is not ours to protect: left out silently then, else a failure. */
static guint64 rearm_flags(const AsyncTracker *self)
{
    return PM_SCAN_WP_MATCHING | (self->n_lent == 0 ? PM_SCAN_CHECK_WPASYNC : 0);
}

/* Re-arm one span of regions. What was written between the scan and this is found by a scan that
 * protects as it goes, or lies in the one region and is returned already. */
static int rearm_span(AsyncTracker *self, const Mapping *mapping, StasisBitmap *bitmap,
                      guint64 start, guint64 end, gboolean single)
{
    if (single && self->n_lent == 0)
        return stasis_uffd_ram_protect_pages(self->uffd, mapping->block,
                                             (start - mapping->hva) / PAGE, (end - start) / PAGE);
    while (start < end) {
        int n = scan(self, mapping, start, end, rearm_flags(self), &start);
        if (n < 0)
            return n;
        for (int i = 0; i < n; i++)
            mark(bitmap, mapping->hva, &self->regions[i]);
    }
    return 0;
}

/* Huge pages: one by one and whole; the kernel's scan does not get past a part of one. */
static int rearm_huge(AsyncTracker *self, const Mapping *mapping, int n)
{
    int r = 0;
    for (int i = 0; i < n && r == 0; i++) {
        guint64 first = (self->regions[i].start - mapping->hva) / PAGE;
        guint64 end = (self->regions[i].end - mapping->hva) / PAGE;
        r = stasis_uffd_ram_protect_pages(self->uffd, mapping->block, first, end - first);
    }
    return r;
}

/* Group the @n regions just found into spans and re-arm each. The spans are taken down first: the
 * scan that re-arms writes over the regions. */
static int rearm(AsyncTracker *self, const Mapping *mapping, StasisBitmap *bitmap, int n)
{
    if (mapping->block->page_bytes > PAGE)
        return rearm_huge(self, mapping, n);
    g_autofree struct page_region *found =
        g_memdup2(self->regions, (gsize)n * sizeof(struct page_region));
    for (int i = 0, next; i < n; i = next) {
        guint64 end = found[i].end;
        for (next = i + 1; next < n && found[next].start - end < SPAN_GAP_BYTES &&
                           found[next].end - found[i].start <= SPAN_MAX_BYTES;
             next++)
            end = found[next].end;
        int r = rearm_span(self, mapping, bitmap, found[i].start, end, next == i + 1);
        if (r < 0)
            return r;
    }
    return 0;
}

static int harvest_mapping(AsyncTracker *self, const Mapping *mapping, StasisBitmap *bitmap,
                           gboolean with_rearm)
{
    guint64 at = mapping->hva, end = mapping->hva + bitmap->n_pages * PAGE;
    while (at < end) {
        int n = scan(self, mapping, at, end, 0, &at);
        if (n < 0)
            return n;
        for (int i = 0; i < n; i++)
            mark(bitmap, mapping->hva, &self->regions[i]);
        int r = with_rearm ? rearm(self, mapping, bitmap, n) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

static int harvest_block(AsyncTracker *self, guint i, StasisBitmap *bitmap, gboolean with_rearm)
{
    const StasisRamBlock *block = stasis_ram_block(self->ram, i);
    Mapping own = { block, block->hva, self->sparse[i] }, view = { block, block->view_hva, FALSE };
    int r = harvest_mapping(self, &own, bitmap, with_rearm);
    return r == 0 && view.hva != 0 ? harvest_mapping(self, &view, bitmap, with_rearm) : r;
}

/* Protect what is in the page tables, and nothing else. */
static int arm_sparse(AsyncTracker *self, const StasisRamBlock *block)
{
    Mapping mapping = { block, block->hva, TRUE };
    guint64 end = block->hva + stasis_ram_block_pages(block) * PAGE;
    for (guint64 at = block->hva, next; at < end;) {
        guint64 piece = MIN(end, at + SPAN_MAX_BYTES);
        int n = scan(self, &mapping, at, piece, PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, &next);
        if (n < 0)
            return n;
        at = next;
    }
    return 0;
}

static gboolean async_arm(StasisTracker *tracker, GError **error)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    for (guint i = 0; i < self->ram->blocks->len; i++) {
        const StasisRamBlock *block = stasis_ram_block(self->ram, i);
        int r = self->sparse[i] ? arm_sparse(self, block)
                                : stasis_uffd_ram_protect_block(self->uffd, block);
        if (r < 0)
            return stasis_set_errno(error, -r, "write-protect RAM block %s", block->name);
        if (i == self->ram->blocks->len / 2 && !stasis_fault(STASIS_FAULT_PROTECT_HALF, error))
            return FALSE;
    }
    return stasis_fault(STASIS_FAULT_ARMED, error);
}

static gboolean async_harvest(StasisTracker *tracker, StasisDirty *dirty, gboolean with_rearm,
                              GError **error)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    for (guint i = 0; i < dirty->n_blocks; i++) {
        const StasisRamBlock *block = stasis_ram_block(self->ram, i);
        int r = harvest_block(self, i, dirty->blocks[i], with_rearm);
        if (r < 0)
            return stasis_set_errno(error, -r, "scan RAM block %s for written pages", block->name);
    }
    return TRUE;
}

static int async_harvest_stopped(StasisTracker *tracker, StasisDirty *dirty)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    int r = 0;
    for (guint i = 0; i < dirty->n_blocks && r == 0; i++)
        r = harvest_block(self, i, dirty->blocks[i], FALSE);
    return r;
}

static int async_give_back(StasisTracker *tracker, const StasisDirty *dirty)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    return stasis_uffd_ram_release_dirty(self->uffd, self->ram, dirty);
}

static int async_lend(StasisTracker *tracker, guint block, guint64 first, guint64 n)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    self->n_lent++;
    return stasis_uffd_ram_unregister_pages(self->uffd, stasis_ram_block(self->ram, block), first,
                                            n);
}

/* Registered and not protected is what counts as written. */
static int async_take_back(StasisTracker *tracker, guint block, guint64 first, guint64 n)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    self->n_lent--;
    return stasis_uffd_ram_register_pages(self->uffd, stasis_ram_block(self->ram, block), first, n);
}

/* By itself: what KVM has mapped a second time must stay as it is now. */
static StasisTracker *async_open(const StasisRam *ram, StasisQmp *qmp, GError **error)
{
    if (!stasis_shim_hold(ram, error))
        return NULL;
    StasisTracker *tracker = stasis_uffd_async_open(ram, qmp, error);
    if (tracker == NULL)
        stasis_shim_unhold(ram->pid);
    return tracker;
}

static gboolean async_available(const StasisRam *ram)
{
    return stasis_uffd_has_async();
}

/* The token is another tracker's: ours is that the context is there, and registered. */
static gboolean async_is_kept(const StasisRam *ram, guint64 token)
{
    if (token != 0)
        return FALSE;
    g_autoptr(StasisUffd) uffd = stasis_uffd_find(ram->pid, STASIS_UFFD_ASYNC_FEATURES, NULL);
    /* All of it: memory that was unplugged and plugged again is not. */
    return uffd != NULL && stasis_uffd_ram_is_async(ram);
}

/* ---- for kvm-log ---- */

void stasis_uffd_async_set_sparse(StasisTracker *tracker, guint i, gboolean sparse)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    self->sparse[i] = sparse;
}

int stasis_uffd_async_unregister(StasisTracker *tracker, guint i)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    return stasis_uffd_ram_unregister_block(self->uffd, stasis_ram_block(self->ram, i));
}

int stasis_uffd_async_register(StasisTracker *tracker, guint i)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    return stasis_uffd_ram_register_block(self->uffd, stasis_ram_block(self->ram, i));
}

int stasis_uffd_async_span_present(StasisTracker *tracker, guint i, guint64 first,
                                   guint64 max_pages, guint64 *ret_n, guint64 *ret_found)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    if (self->n_lent > 0)
        return -EBUSY;
    const StasisRamBlock *block = stasis_ram_block(self->ram, i);
    struct pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = block->hva + first * PAGE,
        .end = block->hva + stasis_ram_block_pages(block) * PAGE,
        .vec = (guint64)self->regions,
        .vec_len = MAX_REGIONS,
        .max_pages = max_pages,
        .category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        .return_mask = PAGE_IS_PRESENT,
    };
    int n = ioctl(self->pagemap_fd, PAGEMAP_SCAN, &arg);
    if (n < 0)
        return -errno;
    *ret_n = (arg.walk_end - arg.start) / PAGE;
    *ret_found = 0;
    for (int at = 0; at < n; at++)
        *ret_found += (self->regions[at].end - self->regions[at].start) / PAGE;
    return 0;
}

int stasis_uffd_async_span_unwritten(StasisTracker *tracker, guint i, guint64 first,
                                     guint64 n_pages, guint64 *ret_n)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    if (self->n_lent > 0)
        return -EBUSY;
    const StasisRamBlock *block = stasis_ram_block(self->ram, i);
    Mapping mapping = { block, block->hva, self->sparse[i] };
    guint64 start = block->hva + first * PAGE, next;
    int n = scan(self, &mapping, start, start + n_pages * PAGE, 0, &next);
    if (n < 0)
        return n;
    *ret_n = n > 0 ? (self->regions[0].start - start) / PAGE : n_pages;
    return 0;
}

int stasis_uffd_async_release(StasisTracker *tracker, guint i, const StasisBitmap *pages)
{
    AsyncTracker *self = (AsyncTracker *)tracker;
    guint64 first = 0, n;
    int r = 0;
    for (guint64 at = 0; r == 0 && stasis_bitmap_next_run(pages, at, G_MAXUINT64, &first, &n);
         at = first + n)
        r = stasis_uffd_ram_release(self->uffd, stasis_ram_block(self->ram, i), first, n);
    return r;
}

const StasisTrackerOps stasis_tracker_uffd_async = {
    .name = "uffd-async",
    .synchronous = FALSE,
    .available = async_available,
    .is_kept = async_is_kept,
    .open = async_open,
    .arm = async_arm,
    .harvest = async_harvest,
    .harvest_stopped = async_harvest_stopped,
    .give_back = async_give_back,
    .lend = async_lend,
    .take_back = async_take_back,
    .close = async_close,
};
