/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a pager does: serve the guest's page faults first, and between two of them move on through
 * RAM in the background. Zero pages are left to the kernel: what is still missing at the end reads
 * as zero once the blocks are unregistered.
 *
 * Source: userfaultfd(2), UFFDIO_COPY, UFFDIO_ZEROPAGE, UFFDIO_WAKE.
 */
#include <errno.h>
#include <poll.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "engine/restore/pager-file.h"
#include "engine/restore/pager-memory.h"
#include "track/shim-client.h"

#define MAX_MESSAGES 32
/* Rather wait for memory than leave the guest without its page. */
#define MEMORY_TRIES 600
#define MEMORY_WAIT_US 100000
#define PROGRESS_INTERVAL_US 200000
/* Threads that help with the sweep; fewer pages than this are not worth one. */
#define SWEEP_HELPERS 3u
#define SWEEP_ALONE 16u

typedef struct {
    const char *vm_name;
    GArray *blocks;
    StasisStore *store;
    StasisImageReader *reader;
    StasisUffd *uffd;
    int pidfd;
    guint8 *buffer; /* one unit of the largest block */
    gsize buffer_bytes;
    StasisPagerMemory *memory; /* or NULL */
    guint64 n_faults, start_us;
    guint64 done_bytes, total_bytes, reported_us;
} Pager;

static void pager_clear(Pager *pager)
{
    g_clear_pointer(&pager->memory, stasis_pager_memory_free);
    g_clear_pointer(&pager->reader, stasis_image_reader_free);
    g_clear_pointer(&pager->store, stasis_store_unref);
    g_clear_pointer(&pager->uffd, stasis_uffd_free);
    stasis_clear_fd(&pager->pidfd);
    g_clear_pointer(&pager->buffer, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Pager, pager_clear)

/* Bytes that are put in place at once: an extent, or a huge page. */
static guint64 unit_bytes(const StasisPagerBlock *block)
{
    return MAX(block->page_bytes, STASIS_EXTENT_BYTES);
}

static void wake(const Pager *pager, guint64 start, guint64 len)
{
    struct uffdio_range range = { start, len };
    ioctl(pager->uffd->fd, UFFDIO_WAKE, &range);
}

/* Who waits for what lies at @offset of @block now, in KVM's own mapping: the page is the object's,
 * so it is there, but only in QEMU's mapping did putting it in place wake anyone. */
static void wake_view(const Pager *pager, const StasisPagerBlock *block, guint64 offset,
                      guint64 len)
{
    if (block->view_hva != 0)
        wake(pager, block->view_hva + offset, len);
}

/* Place @len bytes of @buffer at @start, past pages that are there already. */
static int place(const Pager *pager, const guint8 *buffer, guint64 start, guint64 len,
                 guint64 page_bytes)
{
    guint tries = 0;
    for (guint64 done = 0; done < len;) {
        struct uffdio_copy copy = { .dst = start + done,
                                    .src = (guint64)buffer + done,
                                    .len = len - done };
        if (ioctl(pager->uffd->fd, UFFDIO_COPY, &copy) == 0)
            return 0;
        if (copy.copy > 0)
            done += (guint64)copy.copy;
        else if (errno == EEXIST)
            done += page_bytes;
        else if (errno == ENOMEM && tries++ < MEMORY_TRIES)
            g_usleep(MEMORY_WAIT_US);
        else if (errno != EAGAIN && errno != EINTR)
            return -errno;
    }
    wake(pager, start, len);
    return 0;
}

static int place_zero(const Pager *pager, guint64 start, guint64 len)
{
    struct uffdio_zeropage zero = { .range = { start, len } };
    if (ioctl(pager->uffd->fd, UFFDIO_ZEROPAGE, &zero) == 0)
        return 0;
    if (errno != EEXIST && errno != EAGAIN)
        return -errno;
    wake(pager, start, len);
    return 0;
}

static gboolean check_placed(const Pager *pager, int r, guint64 start, GError **error)
{
    /* ESRCH, ENOENT: QEMU ends. */
    if (r == 0 || r == -ESRCH || r == -ENOENT)
        return TRUE;
    return stasis_set_errno(error, -r, "VM %s: put a page at %#" G_GINT64_MODIFIER "x",
                            pager->vm_name, start);
}

/* Put the unit that has @offset in place, by way of @buffer. */
static gboolean fill_unit(const Pager *pager, guint8 *buffer, const StasisPagerBlock *block,
                          guint64 offset, GError **error)
{
    guint64 unit = unit_bytes(block), first = offset / unit * unit;
    guint64 len = MIN(unit, block->size_bytes - first);
    guint64 n_pages = (len + STASIS_PAGE_BYTES - 1) / STASIS_PAGE_BYTES;
    if (!stasis_image_reader_read_pages(pager->reader, block->image_block,
                                        first / STASIS_PAGE_BYTES, n_pages, buffer, error))
        return FALSE;
    len = (len + block->page_bytes - 1) / block->page_bytes * block->page_bytes;
    int r = place(pager, buffer, block->hva + first, len, block->page_bytes);
    wake_view(pager, block, first, len);
    return check_placed(pager, r, block->hva + first, error);
}

/* Where does the run of pages that are alike end? */
static gboolean is_zero_run(const Pager *pager, const StasisPagerBlock *block, guint64 offset,
                            guint64 *ret_end, GError **error)
{
    guint64 n;
    gboolean zero;
    if (!stasis_image_reader_locate(pager->reader, block->image_block, offset / STASIS_PAGE_BYTES,
                                    &n, &zero, error))
        return FALSE;
    *ret_end = zero ? offset + n * STASIS_PAGE_BYTES : offset;
    return TRUE;
}

/* The block that has @address in either of its mappings; *ret_offset in it. */
static const StasisPagerBlock *block_at(const Pager *pager, guint64 address, guint64 *ret_offset)
{
    for (guint i = 0; i < pager->blocks->len; i++) {
        const StasisPagerBlock *block = &g_array_index(pager->blocks, StasisPagerBlock, i);
        const guint64 starts[] = { block->hva, block->view_hva };
        for (guint m = 0; m < G_N_ELEMENTS(starts); m++) {
            *ret_offset = address - starts[m];
            if (starts[m] != 0 && address >= starts[m] && *ret_offset < block->size_bytes)
                return block;
        }
    }
    return NULL;
}

/* What the guest needs of @offset: one zero page, or all of the unit, which is read as one.
 * *ret_n_pages: how many that is. */
static gboolean bring(const Pager *pager, guint8 *buffer, const StasisPagerBlock *block,
                      guint64 offset, guint64 *ret_n_pages, GError **error)
{
    guint64 zero_end;
    if (!is_zero_run(pager, block, offset, &zero_end, error))
        return FALSE;
    *ret_n_pages = unit_bytes(block) / STASIS_PAGE_BYTES;
    if (zero_end == offset || block->page_bytes > STASIS_PAGE_BYTES)
        return fill_unit(pager, buffer, block, offset, error);
    *ret_n_pages = 1;
    int r = place_zero(pager, block->hva + offset, STASIS_PAGE_BYTES);
    wake_view(pager, block, offset, STASIS_PAGE_BYTES);
    return check_placed(pager, r, block->hva + offset, error);
}

static gboolean serve_fault(Pager *pager, guint64 address, GError **error)
{
    guint64 offset;
    const StasisPagerBlock *block = block_at(pager, address, &offset);
    if (block == NULL)
        return TRUE;
    guint64 n_pages, page = offset / STASIS_PAGE_BYTES;
    pager->n_faults++;
    if (!bring(pager, pager->buffer, block, page * STASIS_PAGE_BYTES, &n_pages, error))
        return FALSE;
    if (pager->memory != NULL)
        stasis_pager_memory_note(pager->memory, block->image_block, page / n_pages * n_pages);
    return TRUE;
}

/* Serve what waits now. *ret_gone: the VM has ended. */
static gboolean serve_faults(Pager *pager, gboolean *ret_gone, GError **error)
{
    struct uffd_msg messages[MAX_MESSAGES];
    struct pollfd fds[] = { { .fd = pager->uffd->fd, .events = POLLIN },
                            { .fd = pager->pidfd, .events = POLLIN } };
    while (poll(fds, 2, 0) > 0) {
        if (fds[1].revents != 0) {
            *ret_gone = TRUE;
            return TRUE;
        }
        ssize_t got = read(pager->uffd->fd, messages, sizeof(messages));
        if (got <= 0)
            return TRUE;
        for (ssize_t i = 0; i < got / (ssize_t)sizeof(messages[0]); i++)
            if (messages[i].event == UFFD_EVENT_PAGEFAULT &&
                !serve_fault(pager, messages[i].arg.pagefault.address, error))
                return FALSE;
    }
    return TRUE;
}

static const StasisPagerBlock *block_of_image(const Pager *pager, guint image_block)
{
    for (guint i = 0; i < pager->blocks->len; i++) {
        const StasisPagerBlock *block = &g_array_index(pager->blocks, StasisPagerBlock, i);
        if (block->image_block == image_block)
            return block;
    }
    return NULL;
}

/* ---- the sweep over what earlier VMs touched first, before anything else ---- */

typedef struct {
    const Pager *pager;
    guint n_known;
    gint next; /* atomic: the next page that nobody has taken */
} Sweep;

/* One page, the next in the order of touching. FALSE when there is none left, or it failed. */
static gboolean sweep_one(Sweep *sweep, guint8 *buffer, GError **error)
{
    guint i = (guint)g_atomic_int_add(&sweep->next, 1);
    if (i >= sweep->n_known)
        return FALSE;
    const StasisTouched *page = stasis_pager_memory_nth(sweep->pager->memory, i);
    const StasisPagerBlock *block = block_of_image(sweep->pager, page->block);
    guint64 n_pages;
    return block == NULL ||
           bring(sweep->pager, buffer, block, page->page * STASIS_PAGE_BYTES, &n_pages, error);
}

/* What a helper can't do is left to the others, who will say why. */
static gpointer sweep_thread(gpointer data)
{
    Sweep *sweep = data;
    g_autofree guint8 *buffer = g_malloc(sweep->pager->buffer_bytes);
    while (sweep_one(sweep, buffer, NULL))
        ;
    return NULL;
}

static gboolean prefetch(Pager *pager, gboolean *ret_gone, GError **error)
{
    GThread *helpers[SWEEP_HELPERS] = { NULL };
    Sweep sweep = { .pager = pager };
    sweep.n_known = pager->memory != NULL ? stasis_pager_memory_known(pager->memory) : 0;
    guint n_helpers = MIN(SWEEP_HELPERS, g_get_num_processors() - 1);
    for (guint i = 0; i < n_helpers && sweep.n_known > SWEEP_ALONE; i++)
        helpers[i] = g_thread_try_new("stasis-sweep", sweep_thread, &sweep, NULL);
    g_autoptr(GError) local = NULL;
    while (!*ret_gone && serve_faults(pager, ret_gone, &local) && !*ret_gone &&
           sweep_one(&sweep, pager->buffer, &local))
        ;
    g_atomic_int_set(&sweep.next, (gint)sweep.n_known);
    for (guint i = 0; i < SWEEP_HELPERS; i++)
        if (helpers[i] != NULL)
            g_thread_join(helpers[i]);
    if (local == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

/* For pager.log: what the guest had to wait for, and what it had not. */
static void say(const Pager *pager, const char *when)
{
    g_autofree char *line =
        g_strdup_printf("stasis-pager %s: %s: %" G_GUINT64_FORMAT
                        " faults, %u pages were known, %" G_GUINT64_FORMAT " us\n",
                        pager->vm_name, when, pager->n_faults,
                        pager->memory != NULL ? stasis_pager_memory_known(pager->memory) : 0,
                        stasis_now_us() - pager->start_us);
    stasis_write_all(STDERR_FILENO, line, strlen(line));
}

static void report(Pager *pager)
{
    guint64 now = stasis_now_us();
    if (now - pager->reported_us < PROGRESS_INTERVAL_US)
        return;
    pager->reported_us = now;
    stasis_pager_set_progress(pager->vm_name, pager->done_bytes, pager->total_bytes);
}

static gboolean fill_block(Pager *pager, const StasisPagerBlock *block, gboolean *ret_gone,
                           GError **error)
{
    guint64 unit = unit_bytes(block), next;
    for (guint64 at = 0; at < block->size_bytes && !*ret_gone; at = next) {
        guint64 zero_end;
        if (!serve_faults(pager, ret_gone, error) ||
            !is_zero_run(pager, block, at, &zero_end, error))
            return FALSE;
        next = at / unit * unit + unit;
        if (zero_end >= next || (zero_end > at && block->page_bytes == STASIS_PAGE_BYTES))
            next = MIN(zero_end, block->size_bytes);
        else if (!fill_unit(pager, pager->buffer, block, at, error))
            return FALSE;
        pager->done_bytes += MIN(next, block->size_bytes) - at;
        report(pager);
    }
    return TRUE;
}

static gboolean open_all(Pager *pager, const StasisPagerTask *task, GError **error)
{
    pager->pidfd = pidfd_open(task->pid, 0);
    if (pager->pidfd < 0 || stasis_process_start_time(task->pid) != task->start_time) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "VM %s: its QEMU has ended",
                    pager->vm_name);
        return FALSE;
    }
    pager->store = stasis_store_open(task->store_path, STASIS_STORE_EXISTING, error);
    if (pager->store == NULL)
        return FALSE;
    pager->reader = stasis_image_reader_open(pager->store, task->image, error);
    if (pager->reader == NULL)
        return FALSE;
    g_autoptr(GError) local = NULL;
    pager->uffd = stasis_uffd_find(task->pid, STASIS_UFFD_PAGER_FEATURES, &local);
    if (local == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

static void prepare_blocks(Pager *pager, const StasisPagerTask *task)
{
    guint64 largest = 0;
    pager->blocks = task->blocks;
    for (guint i = 0; i < task->blocks->len; i++) {
        const StasisPagerBlock *block = &g_array_index(task->blocks, StasisPagerBlock, i);
        largest = MAX(largest, unit_bytes(block));
        pager->total_bytes += block->size_bytes;
        /* An earlier pager may have taken faults and died: let them fault again. */
        wake(pager, block->hva, block->size_bytes);
        wake_view(pager, block, 0, block->size_bytes);
    }
    pager->buffer_bytes = largest;
    pager->buffer = g_malloc(largest);
}

/* RAM is complete: nothing of ours stays in QEMU. */
static gboolean finish(Pager *pager, const StasisPagerTask *task, GError **error)
{
    for (guint i = 0; i < task->blocks->len; i++) {
        const StasisPagerBlock *block = &g_array_index(task->blocks, StasisPagerBlock, i);
        stasis_uffd_unregister(pager->uffd, block->hva, block->size_bytes);
        if (block->view_hva != 0)
            stasis_uffd_unregister(pager->uffd, block->view_hva, block->size_bytes);
    }
    stasis_shim_unhold(task->pid);
    return stasis_uffd_drop(task->pid, STASIS_UFFD_PAGER_FEATURES, error) &&
           stasis_pager_task_remove(pager->vm_name, error);
}

gboolean stasis_pager_work(const char *vm_name, const StasisPagerTask *task, int ready_fd,
                           GError **error)
{
    g_auto(Pager) pager = { .vm_name = vm_name, .pidfd = -1 };
    if (!open_all(&pager, task, error))
        return FALSE;
    /* It is closed last of all: an earlier pager was done but for its own file. */
    if (pager.uffd == NULL) {
        stasis_write_all(ready_fd, "r", 1);
        return stasis_pager_task_remove(vm_name, error);
    }
    prepare_blocks(&pager, task);
    if (task->with_memory)
        pager.memory = stasis_pager_memory_new(pager.store, pager.reader);
    pager.start_us = stasis_now_us();
    stasis_write_all(ready_fd, "r", 1);
    gboolean gone = FALSE;
    if (!prefetch(&pager, &gone, error))
        return FALSE;
    stasis_write_all(ready_fd, "s", 1);
    say(&pager, "known pages are there");
    for (guint i = 0; i < task->blocks->len && !gone; i++)
        if (!fill_block(&pager, &g_array_index(task->blocks, StasisPagerBlock, i), &gone, error))
            return FALSE;
    if (!gone && !finish(&pager, task, error))
        return FALSE;
    say(&pager, gone ? "the VM has ended" : "all RAM is there");
    if (pager.memory != NULL)
        stasis_pager_memory_keep(pager.memory);
    return TRUE;
}
