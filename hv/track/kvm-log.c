/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tracker "kvm-log": what the guest writes is in KVM's own dirty log, which the shim inside QEMU
 * reads for us; what QEMU writes itself (device DMA, vhost) goes through QEMU's own mapping of the
 * same memory, where uffd-async sees it. Blocks that KVM has no second mapping of (video RAM, ROMs)
 * are tracked by uffd-async alone, as without the shim.
 *
 * QEMU touches little of guest memory, so of split blocks only that little is watched ("sparse"):
 * a page that QEMU touches for the first time comes into its page tables unprotected, and so counts
 * as written. That loses nothing as long as entries leave those tables by QEMU's own doing only.
 * Reclaim would empty them (so there must be no swap), and so would the splitting of a huge page
 * (so there must be none in shared memory). Where either is possible the whole is protected: exact
 * all the same, but scanning takes the longer the more RAM there is.
 *
 * What QEMU has touched once stays in its tables, and has to be looked at in each stop, 1 µs for
 * 2 MiB: after a while of input and output that is all of RAM. So when looking has become slow, a
 * stop, in which nothing writes, also drops some tables in which nothing was written.
 *
 * The log stays on between two checkpoints without a process of ours. The token in the shim's page
 * tells whether it is still the same, with nothing taken from it in between.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/words.h"
#include "track/shim-client.h"
#include "track/uffd-async.h"
#include "track/uffd-ram.h"
#include "vmm/shim-page.h"

#define PAGE 4096u
#define LAYOUT_TRIES 5
/* A bit a page: for 32 TiB of RAM. The shim takes no more. */
#define MAX_BUFFER_BYTES ((guint64)1 << 30)
/* A scan of QEMU's own tables that is longer than this is made shorter, by this much in one stop:
 * it takes 0.2 ms. */
#define LONG_SCAN_US 150u
#define MAX_DROP_PAGES 8192u
#define MAX_DROPS 4u
#define TABLE_PAGES (STASIS_SHIM_TABLE_BYTES / PAGE)
/* In the shim's note: blocks were armed sparse. */
#define NOTE_SPARSE 1u

typedef struct {
    StasisTracker base;
    const StasisRam *ram;
    StasisRam own;        /* the same blocks, but only as QEMU has them mapped */
    StasisTracker *async; /* over those */
    StasisShim *shim;
    struct stasis_shim_page page;
    guint64 token;
    int buffer_fd;
    guint64 *buffer; /* zero between two requests */
    guint64 buffer_words;
    gboolean sparse;
    guint drop_block; /* the next tables to be dropped begin here */
    guint64 drop_first, n_drop_pages;
} LogTracker;

/* ---- is sparse safe? ---- */

static gboolean file_has(const char *path, const char *text, gboolean if_absent)
{
    g_autofree char *content = NULL;
    if (!g_file_get_contents(path, &content, NULL, NULL))
        return if_absent;
    return strstr(content, text) != NULL;
}

/* The first line is a heading. A kernel without swap has no such file. Allocates nothing. */
static gboolean has_swap(void)
{
    char text[4096];
    stasis_autofd int fd = open("/proc/swaps", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text)) : 0;
    const char *heading = n > 0 ? memchr(text, '\n', (size_t)n) : NULL;
    return n < 0 || (heading != NULL && heading + 1 < text + n);
}

/* Of one size, since Linux 6.11; "inherit" is what is said for all. */
static gboolean has_size(const char *directory, const char *size)
{
    g_autofree char *path = g_build_filename(directory, size, "shmem_enabled", NULL);
    return !file_has(path, "[never]", TRUE) && !file_has(path, "[inherit]", TRUE);
}

gboolean stasis_kvm_log_may_be_huge(const char *directory)
{
    g_autofree char *enabled = g_build_filename(directory, "shmem_enabled", NULL);
    gboolean on = !file_has(enabled, "[never]", TRUE) && !file_has(enabled, "[deny]", TRUE);
    g_autoptr(GDir) sizes = g_dir_open(directory, 0, NULL);
    for (const char *name; !on && sizes != NULL && (name = g_dir_read_name(sizes)) != NULL;)
        on = g_str_has_prefix(name, "hugepages-") && has_size(directory, name);
    return on;
}

static gboolean has_shared_huge_pages(void)
{
    return stasis_kvm_log_may_be_huge("/sys/kernel/mm/transparent_hugepage") ||
           !file_has("/proc/meminfo", "ShmemHugePages:        0 kB", TRUE);
}

const char *stasis_kvm_log_why_slow(void)
{
    if (has_swap())
        return "swap is on";
    return has_shared_huge_pages() ? "shared memory may be in huge pages" : NULL;
}

static gboolean may_be_sparse(void)
{
    return stasis_kvm_log_why_slow() == NULL;
}

/* ---- opening ---- */

static void unmap_buffer(LogTracker *self)
{
    if (self->buffer != NULL)
        munmap(self->buffer, self->buffer_words * 8);
    self->buffer = NULL;
    self->buffer_words = 0;
    stasis_clear_fd(&self->buffer_fd);
}

static void log_close(StasisTracker *tracker, gboolean keep)
{
    LogTracker *self = (LogTracker *)tracker;
    if (self->shim != NULL && !keep)
        stasis_shim_call(self->shim, STASIS_SHIM_STOP, 0, 0, -1, NULL);
    stasis_shim_free(self->shim);
    if (self->async != NULL)
        self->async->ops->close(self->async, keep);
    unmap_buffer(self);
    g_clear_pointer(&self->own.blocks, g_ptr_array_unref);
    g_free(self);
}

static void copy_blocks(LogTracker *self)
{
    self->own = *self->ram;
    self->own.blocks = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < self->ram->blocks->len; i++) {
        StasisRamBlock *block = g_memdup2(stasis_ram_block(self->ram, i), sizeof(StasisRamBlock));
        block->view_hva = 0;
        g_ptr_array_add(self->own.blocks, block);
    }
}

static gboolean is_split(const LogTracker *self, guint i)
{
    return stasis_ram_block(self->ram, i)->view_hva != 0;
}

static void set_sparse(LogTracker *self, gboolean sparse)
{
    self->sparse = sparse;
    for (guint i = 0; i < self->own.blocks->len; i++)
        stasis_uffd_async_set_sparse(self->async, i, sparse && is_split(self, i));
}

/* Learn the layout, and give the shim memory for the bitmaps. 0 or −errno. */
static int learn_layout(LogTracker *self)
{
    if (!stasis_shim_page_read(self->ram->pid, &self->page))
        return -EPROTO;
    if (self->buffer != NULL && self->buffer_words >= self->page.n_words)
        return 0;
    unmap_buffer(self);
    guint64 bytes = self->page.n_words * 8;
    if (bytes == 0 || bytes > MAX_BUFFER_BYTES)
        return -EPROTO;
    stasis_autofd int fd = memfd_create("stasis-harvest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    self->buffer = memory;
    self->buffer_words = self->page.n_words;
    self->buffer_fd = stasis_steal_fd(&fd);
    return stasis_shim_call(self->shim, STASIS_SHIM_BUFFER, 0, bytes, self->buffer_fd, NULL);
}

static StasisTracker *log_open(const StasisRam *ram, StasisQmp *qmp, GError **error)
{
    LogTracker *self = g_new0(LogTracker, 1);
    self->base.ops = &stasis_tracker_kvm_log;
    self->ram = ram;
    self->buffer_fd = -1;
    copy_blocks(self);
    self->shim = stasis_shim_connect(ram->pid, error);
    int r = self->shim != NULL ? learn_layout(self) : 0;
    if (r < 0)
        stasis_set_errno(error, -r, "share memory with the shim in QEMU %d", (int)ram->pid);
    /* Our being here follows every second mapping that comes; a hold is of another tracker. */
    if (self->shim != NULL && r == 0) {
        stasis_shim_call(self->shim, STASIS_SHIM_HOLD, 0, 0, -1, NULL);
        self->token = self->page.token;
        self->async = stasis_uffd_async_open(&self->own, qmp, error);
    }
    if (self->async == NULL) {
        log_close(&self->base, TRUE);
        return NULL;
    }
    set_sparse(self, self->page.state == STASIS_SHIM_ON && (self->page.note & NOTE_SPARSE) != 0);
    return &self->base;
}

/* ---- arming ---- */

/* What QEMU has in its page tables from loading or preallocating would be watched for nothing. A
 * locked mapping keeps them; that only takes longer to scan. */
static int empty_tables(LogTracker *self)
{
    int r = 0;
    for (guint i = 0; i < self->own.blocks->len && r == 0; i++)
        r = is_split(self, i) ? stasis_uffd_async_unregister(self->async, i) : 0;
    if (r == 0)
        stasis_shim_call(self->shim, STASIS_SHIM_DROP_TABLES, 0, 0, -1, NULL);
    for (guint i = 0; i < self->own.blocks->len && r == 0; i++)
        r = is_split(self, i) ? stasis_uffd_async_register(self->async, i) : 0;
    return r;
}

/* KVM's mappings may be watched still from when another tracker was in use. */
static void unwatch_views(LogTracker *self)
{
    g_autoptr(StasisUffd) uffd = stasis_uffd_find(self->ram->pid, STASIS_UFFD_ASYNC_FEATURES, NULL);
    for (guint i = 0; uffd != NULL && i < self->ram->blocks->len; i++) {
        StasisRamBlock block = *stasis_ram_block(self->ram, i);
        block.hva = block.view_hva;
        block.view_hva = 0;
        if (block.hva != 0)
            stasis_uffd_ram_unregister_block(uffd, &block);
    }
}

static gboolean log_arm(StasisTracker *tracker, GError **error)
{
    LogTracker *self = (LogTracker *)tracker;
    struct stasis_shim_reply reply;
    unwatch_views(self);
    set_sparse(self, may_be_sparse());
    int r = empty_tables(self);
    if (r < 0)
        return stasis_set_errno(error, -r, "watch QEMU's own mappings of RAM");
    r = stasis_shim_call(self->shim, STASIS_SHIM_START, 0, self->sparse ? NOTE_SPARSE : 0, -1,
                         &reply);
    if (r < 0)
        return stasis_set_errno(error, -r, "turn KVM's log on in QEMU %d", (int)self->ram->pid);
    self->token = reply.token;
    return self->async->ops->arm(self->async, error);
}

/* ---- harvesting ---- */

/* Move the bits from @first, the first of a word, of the words at @from into @to. Returns how many
 * words that were. */
static guint64 move_words(StasisBitmap *to, guint64 *from, guint64 first)
{
    guint64 n_whole = to->n_pages / 64, n_rest = to->n_pages % 64;
    from += first / 64;
    for (guint64 w = 0; (w = words_next(from, w, n_whole)) < n_whole; w++) {
        to->words[w] |= from[w];
        from[w] = 0;
    }
    if (n_rest == 0)
        return n_whole;
    guint64 mask = ((guint64)1 << n_rest) - 1;
    to->words[n_whole] |= from[n_whole] & mask;
    from[n_whole] &= ~mask;
    return n_whole + 1;
}

static void merge_bits(StasisBitmap *to, const guint64 *from, guint64 first)
{
    for (guint64 p = 0; p < to->n_pages; p++)
        if ((from[(first + p) / 64] >> (first + p) % 64) & 1)
            stasis_bitmap_set_range(to, p, 1);
}

/* Where block @i's bits are in the buffer: the first word of its range, and its first page there.
 * FALSE: KVM has no second mapping of it. */
static gboolean find_bits(const LogTracker *self, guint i, guint64 *ret_word, guint64 *ret_page)
{
    const StasisRamBlock *block = stasis_ram_block(self->ram, i);
    guint64 bytes = stasis_ram_block_pages(block) * PAGE;
    int at = stasis_shim_page_find(&self->page, block->hva, bytes);
    if (at < 0)
        return FALSE;
    *ret_word = self->page.ranges[at].result_words;
    *ret_page = (block->hva - self->page.ranges[at].address) / PAGE;
    return TRUE;
}

static void take_bits(LogTracker *self, StasisDirty *dirty)
{
    guint64 n_moved = 0, n_words = self->page.n_words;
    for (guint i = 0; i < dirty->n_blocks; i++) {
        guint64 word, page;
        if (!find_bits(self, i, &word, &page))
            continue;
        if (page % 64 == 0)
            n_moved += move_words(dirty->blocks[i], self->buffer + word, page);
        else
            merge_bits(dirty->blocks[i], self->buffer + word, page);
    }
    /* What is no block's. */
    for (guint64 w = n_moved < n_words ? 0 : n_words;
         (w = words_next(self->buffer, w, n_words)) < n_words; w++)
        self->buffer[w] = 0;
}

static int begin_harvest(LogTracker *self, gboolean rearm)
{
    return stasis_shim_begin(self->shim, STASIS_SHIM_HARVEST, rearm ? STASIS_SHIM_REARM : 0,
                             self->page.layout, -1);
}

static int end_harvest(LogTracker *self, StasisDirty *dirty)
{
    struct stasis_shim_reply reply;
    int r = stasis_shim_end(self->shim, STASIS_SHIM_HARVEST, &reply);
    if (r < 0)
        return r;
    self->token = reply.token;
    take_bits(self, dirty);
    return 0;
}

static int harvest_shim(LogTracker *self, StasisDirty *dirty, gboolean rearm)
{
    int r = begin_harvest(self, rearm);
    return r < 0 ? r : end_harvest(self, dirty);
}

/* What a reclaimed page hides, if swap has come since we armed. */
static void add_doubtful(LogTracker *self, StasisDirty *dirty)
{
    if (!self->sparse || !has_swap())
        return;
    for (guint i = 0; i < dirty->n_blocks; i++)
        if (is_split(self, i))
            stasis_bitmap_set_range(dirty->blocks[i], 0, dirty->blocks[i]->n_pages);
}

/* ---- keeping QEMU's own tables small ---- */

/* Before a stop: which tables it might drop. Whole ones, one after the other through all of RAM. */
static void choose_tables(LogTracker *self)
{
    self->n_drop_pages = 0;
    for (guint tries = 0; tries <= self->own.blocks->len; tries++) {
        guint64 n, n_found;
        if (is_split(self, self->drop_block) &&
            stasis_uffd_async_span_present(self->async, self->drop_block, self->drop_first,
                                           MAX_DROP_PAGES, &n, &n_found) == 0 &&
            n_found > 0 && n >= TABLE_PAGES) {
            self->n_drop_pages = n / TABLE_PAGES * TABLE_PAGES;
            return;
        }
        self->drop_block = (self->drop_block + 1) % self->own.blocks->len;
        self->drop_first = 0;
    }
}

/* The VM is stopped. What was written stays as it is: the tables up to the next such page go, and
 * the one that has it is passed over. Not while a part is lent: protection by another userfaultfd,
 * which looks like a page that was not written, would go with the tables, and QEMU's next write
 * there would fault nobody. */
static void drop_tables(LogTracker *self)
{
    const StasisRamBlock *block = stasis_ram_block(&self->own, self->drop_block);
    for (guint tries = 0; self->n_drop_pages > 0 && tries < MAX_DROPS; tries++) {
        guint64 n;
        if (stasis_uffd_async_span_unwritten(self->async, self->drop_block, self->drop_first,
                                             self->n_drop_pages, &n) < 0)
            return;
        n = n / TABLE_PAGES * TABLE_PAGES;
        if (n > 0 &&
            stasis_shim_call(self->shim, STASIS_SHIM_DROP_TABLES, (guint32)(n / TABLE_PAGES),
                             block->hva + self->drop_first * PAGE, -1, NULL) < 0)
            return;
        n = MIN(n + TABLE_PAGES, self->n_drop_pages);
        self->drop_first += n;
        self->n_drop_pages -= n;
    }
}

static gboolean log_harvest(StasisTracker *tracker, StasisDirty *dirty, gboolean rearm,
                            GError **error)
{
    LogTracker *self = (LogTracker *)tracker;
    int r = -EAGAIN;
    for (int i = 0; i < LAYOUT_TRIES && r == -EAGAIN; i++) {
        r = harvest_shim(self, dirty, rearm);
        int learnt = r == -EAGAIN ? learn_layout(self) : 0;
        r = learnt < 0 ? learnt : r;
    }
    if (r < 0)
        return stasis_set_errno(error, -r, "read KVM's log in QEMU %d", (int)self->ram->pid);
    guint64 t0 = stasis_now_us();
    if (!self->async->ops->harvest(self->async, dirty, rearm, error))
        return FALSE;
    if (self->sparse && stasis_now_us() - t0 > LONG_SCAN_US)
        choose_tables(self);
    add_doubtful(self, dirty);
    return TRUE;
}

static int log_harvest_stopped(StasisTracker *tracker, StasisDirty *dirty)
{
    LogTracker *self = (LogTracker *)tracker;
    /* The shim reads the log while we look at QEMU's own mapping. */
    int begun = begin_harvest(self, FALSE);
    int r = self->async->ops->harvest_stopped(self->async, dirty);
    int ended = begun < 0 ? begun : end_harvest(self, dirty);
    r = ended < 0 ? ended : r;
    if (r == 0)
        drop_tables(self);
    if (r == 0)
        add_doubtful(self, dirty);
    return r;
}

static void put_bits(LogTracker *self, guint64 word, guint64 page, const StasisBitmap *pages)
{
    guint64 first = 0, n;
    for (guint64 at = 0; stasis_bitmap_next_run(pages, at, G_MAXUINT64, &first, &n); at = first + n)
        for (guint64 p = page + first; p < page + first + n; p++)
            self->buffer[word + p / 64] |= (guint64)1 << p % 64;
}

static int log_give_back(StasisTracker *tracker, const StasisDirty *dirty)
{
    LogTracker *self = (LogTracker *)tracker;
    int r = 0;
    for (guint i = 0; i < dirty->n_blocks && r == 0; i++) {
        guint64 word, page;
        if (!find_bits(self, i, &word, &page))
            r = stasis_uffd_async_release(self->async, i, dirty->blocks[i]);
        else if (self->buffer != NULL)
            put_bits(self, word, page, dirty->blocks[i]);
        else
            r = -ENOMEM; /* learn_layout() failed */
    }
    if (r == 0)
        r = stasis_shim_call(self->shim, STASIS_SHIM_GIVE_BACK, 0, self->page.layout, -1, NULL);
    if (self->buffer != NULL)
        memset(self->buffer, 0, self->page.n_words * 8);
    return r;
}

/* KVM's mapping of a split block is in no userfaultfd of the tracker's, and KVM's log goes on. */
static int log_lend(StasisTracker *tracker, guint block, guint64 first, guint64 n)
{
    LogTracker *self = (LogTracker *)tracker;
    return self->async->ops->lend(self->async, block, first, n);
}

static int log_take_back(StasisTracker *tracker, guint block, guint64 first, guint64 n)
{
    LogTracker *self = (LogTracker *)tracker;
    return self->async->ops->take_back(self->async, block, first, n);
}

/* ---- between two checkpoints ---- */

static gboolean log_available(const StasisRam *ram)
{
    return ram != NULL && stasis_uffd_has_async() && stasis_shim_why_not(ram) == NULL;
}

static gboolean log_is_kept(const StasisRam *ram, guint64 token)
{
    struct stasis_shim_page page;
    if (token == 0 || !stasis_shim_page_read(ram->pid, &page) || page.state != STASIS_SHIM_ON ||
        page.token != token || ((page.note & NOTE_SPARSE) != 0 && !may_be_sparse()))
        return FALSE;
    g_autoptr(StasisUffd) uffd = stasis_uffd_find(ram->pid, STASIS_UFFD_ASYNC_FEATURES, NULL);
    LogTracker self = { .ram = ram };
    copy_blocks(&self);
    gboolean kept = uffd != NULL && stasis_uffd_ram_is_async(&self.own);
    g_ptr_array_unref(self.own.blocks);
    return kept;
}

static guint64 log_get_token(StasisTracker *tracker)
{
    return ((LogTracker *)tracker)->token;
}

static StasisShim *log_get_shim(StasisTracker *tracker)
{
    return ((LogTracker *)tracker)->shim;
}

const StasisTrackerOps stasis_tracker_kvm_log = {
    .name = "kvm-log",
    .synchronous = FALSE,
    .available = log_available,
    .is_kept = log_is_kept,
    .open = log_open,
    .arm = log_arm,
    .harvest = log_harvest,
    .harvest_stopped = log_harvest_stopped,
    .give_back = log_give_back,
    .lend = log_lend,
    .take_back = log_take_back,
    .get_token = log_get_token,
    .get_shim = log_get_shim,
    .close = log_close,
};
