/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tracker "uffd-sync": each first write to a protected page is delivered to a thread of ours, which
 * notes it and lets the writer go on (22–46 µs). The means of copy-on-write checkpoints, and of
 * tracking on kernels without WP_ASYNC (before 6.7).
 *
 * Only we hold the context: if we die the kernel drops every protection and wakes every waiter.
 * If we are stopped they wait: Ctrl-Z is put off (base/hold.h).
 * The fault thread never waits for QEMU, nor for a disk. A fault is one step for everyone else: a
 * page that is noted, saved and released is never protected again in between, which would let later
 * writes pass unseen.
 */
#include "track/uffd-sync.h"

#include <errno.h>
#include <poll.h>
#include <stasis/error.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/hold.h"
#include "base/io.h"
#include "track/shim-client.h"
#include "track/uffd-ram.h"

#define MAX_MESSAGES 64

typedef struct {
    StasisTracker base;
    const StasisRam *ram;
    StasisUffd *uffd;
    gboolean whole; /* all of RAM is ours to register */
    int quit_fd;
    GThread *thread;
    GMutex mutex;         /* held for the whole of a fault; guards what follows */
    StasisDirty *written; /* by the fault thread */
    StasisBeforeWrite before_write;
    gpointer before_write_data;
    guint64 n_faults, worst_us; /* written by the fault thread, read by anyone, atomically */
} SyncTracker;

/* The page may have been released already, as a neighbour of an earlier one: releasing it again
 * only wakes. A block with huge pages is dirty as a whole huge page. */
static void handle_fault(SyncTracker *self, guint64 address)
{
    guint64 t0 = stasis_now_us();
    guint index;
    guint64 page;
    const StasisRamBlock *block = stasis_uffd_ram_at(self->ram, address, &index, &page);
    if (block == NULL)
        return;
    guint64 unit = block->page_bytes / 4096;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->mutex);
    StasisBitmap *written = self->written->blocks[index];
    guint64 first = page / unit * unit, end = MIN(first + unit, written->n_pages);
    if (first < end)
        stasis_bitmap_set_range(written, first, end - first);
    if (self->before_write != NULL && page < written->n_pages)
        self->before_write(index, page, self->before_write_data);
    /* Before it goes on: who has seen a write pass finds it counted. */
    __atomic_fetch_add(&self->n_faults, 1, __ATOMIC_RELAXED);
    stasis_uffd_ram_release(self->uffd, block, page, 1);
    guint64 us = stasis_now_us() - t0;
    if (us > self->worst_us)
        __atomic_store_n(&self->worst_us, us, __ATOMIC_RELAXED);
}

static gpointer fault_thread(gpointer data)
{
    SyncTracker *self = data;
    struct pollfd fds[] = { { .fd = self->uffd->fd, .events = POLLIN },
                            { .fd = self->quit_fd, .events = POLLIN } };
    struct uffd_msg messages[MAX_MESSAGES];
    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (fds[1].revents != 0)
            return NULL;
        ssize_t got = read(self->uffd->fd, messages, sizeof(messages));
        for (ssize_t i = 0; i < got / (ssize_t)sizeof(messages[0]); i++)
            if (messages[i].event == UFFD_EVENT_PAGEFAULT)
                handle_fault(self, messages[i].arg.pagefault.address);
    }
}

/* First drop every protection, then stop serving: nobody may be left waiting. */
static void sync_close(StasisTracker *tracker, gboolean keep)
{
    SyncTracker *self = (SyncTracker *)tracker;
    if (self->uffd != NULL && self->whole)
        stasis_uffd_ram_unregister(self->uffd, self->ram);
    if (self->thread != NULL) {
        guint64 one = 1;
        stasis_write_all(self->quit_fd, &one, sizeof(one));
        g_thread_join(self->thread);
    }
    stasis_clear_fd(&self->quit_fd);
    stasis_uffd_free(self->uffd);
    if (self->whole)
        stasis_shim_unhold(self->ram->pid);
    stasis_dirty_free(self->written);
    g_mutex_clear(&self->mutex);
    g_free(self);
    stasis_hold_end();
}

static guint64 sync_features(void)
{
    return stasis_uffd_kernel_features() &
           (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
            UFFD_FEATURE_WP_UNPOPULATED);
}

static gboolean sync_available(const StasisRam *ram)
{
    return (sync_features() & UFFD_FEATURE_WP_HUGETLBFS_SHMEM) != 0;
}

static StasisTracker *open_sync(const StasisRam *ram, StasisQmp *qmp, gboolean whole,
                                GError **error)
{
    SyncTracker *self = g_new0(SyncTracker, 1);
    self->base.ops = &stasis_tracker_uffd_sync;
    self->ram = ram;
    self->whole = whole;
    stasis_hold_begin();
    g_mutex_init(&self->mutex);
    self->quit_fd = eventfd(0, EFD_CLOEXEC);
    self->written = stasis_dirty_new(ram);
    self->uffd = stasis_uffd_create(ram->pid, qmp, sync_features(), FALSE, error);
    if (self->uffd == NULL || (whole && !stasis_uffd_ram_register(self->uffd, ram, error))) {
        stasis_uffd_free(g_steal_pointer(&self->uffd));
        sync_close(&self->base, FALSE);
        return NULL;
    }
    self->thread = g_thread_new("stasis-fault", fault_thread, self);
    return &self->base;
}

static StasisTracker *sync_open(const StasisRam *ram, StasisQmp *qmp, GError **error)
{
    /* A context can't be registered over another one: asynchronous tracking ends here. */
    if (!stasis_tracker_sweep(ram->pid, error) || !stasis_shim_hold(ram, error))
        return NULL;
    StasisTracker *tracker = open_sync(ram, qmp, TRUE, error);
    if (tracker != NULL)
        stasis_dirty_set_all(((SyncTracker *)tracker)->written);
    return tracker;
}

StasisTracker *stasis_uffd_sync_open_empty(const StasisRam *ram, StasisQmp *qmp, GError **error)
{
    return open_sync(ram, qmp, FALSE, error);
}

const StasisUffd *stasis_uffd_sync_get_uffd(StasisTracker *tracker)
{
    return ((SyncTracker *)tracker)->uffd;
}

static gboolean sync_arm(StasisTracker *tracker, GError **error)
{
    SyncTracker *self = (SyncTracker *)tracker;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->mutex);
    stasis_dirty_clear(self->written);
    return stasis_uffd_ram_protect(self->uffd, self->ram, error);
}

static gboolean sync_harvest(StasisTracker *tracker, StasisDirty *dirty, gboolean rearm,
                             GError **error)
{
    SyncTracker *self = (SyncTracker *)tracker;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->mutex);
    stasis_dirty_or(dirty, self->written);
    if (!rearm)
        return TRUE;
    int r = stasis_uffd_ram_protect_dirty(self->uffd, self->ram, self->written);
    if (r < 0)
        return stasis_set_errno(error, -r, "write-protect RAM again");
    stasis_dirty_clear(self->written);
    return TRUE;
}

static int sync_harvest_stopped(StasisTracker *tracker, StasisDirty *dirty)
{
    SyncTracker *self = (SyncTracker *)tracker;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->mutex);
    stasis_dirty_or(dirty, self->written);
    return 0;
}

static int sync_give_back(StasisTracker *tracker, const StasisDirty *dirty)
{
    SyncTracker *self = (SyncTracker *)tracker;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->mutex);
    stasis_dirty_or(self->written, dirty);
    return 0;
}

static int sync_protect(StasisTracker *tracker, const StasisDirty *dirty)
{
    SyncTracker *self = (SyncTracker *)tracker;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->mutex);
    stasis_dirty_subtract(self->written, dirty);
    return stasis_uffd_ram_protect_dirty(self->uffd, self->ram, dirty);
}

static int sync_release(StasisTracker *tracker, guint block, guint64 first, guint64 n)
{
    SyncTracker *self = (SyncTracker *)tracker;
    return stasis_uffd_ram_release(self->uffd, stasis_ram_block(self->ram, block), first, n);
}

static void sync_set_before_write(StasisTracker *tracker, StasisBeforeWrite func,
                                  gpointer user_data)
{
    SyncTracker *self = (SyncTracker *)tracker;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->mutex);
    self->before_write_data = user_data;
    self->before_write = func;
}

static void sync_get_fault_stats(StasisTracker *tracker, StasisFaultStats *ret_stats)
{
    SyncTracker *self = (SyncTracker *)tracker;
    ret_stats->n = __atomic_load_n(&self->n_faults, __ATOMIC_RELAXED);
    ret_stats->worst_us = __atomic_load_n(&self->worst_us, __ATOMIC_RELAXED);
}

const StasisTrackerOps stasis_tracker_uffd_sync = {
    .name = "uffd-sync",
    .synchronous = TRUE,
    .available = sync_available,
    .open = sync_open,
    .arm = sync_arm,
    .harvest = sync_harvest,
    .harvest_stopped = sync_harvest_stopped,
    .give_back = sync_give_back,
    .protect = sync_protect,
    .release = sync_release,
    .set_before_write = sync_set_before_write,
    .get_fault_stats = sync_get_fault_stats,
    .close = sync_close,
};
