/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The known pages are cut into chunks, each with its place in our memory, before the stop; threads
 * take chunk after chunk by one atomic counter. Shared RAM is mapped here and its known pages are
 * made present, so that copying them is a plain memcpy.
 */
#include "copy/capture.h"

#include <errno.h>
#include <semaphore.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/io.h"
#include "track/uffd-ram.h"

/* How much is copied between two looks at the clock: 0.05 ms or so. */
#define CHUNK_PAGES 64u
#define POPULATE_BYTES (64u << 20)
#define MAX_HELPERS 7

typedef struct {
    guint block;
    guint64 first_page, n_pages;
    guint8 *data; /* NULL: zero pages */
} Run;

struct _StasisCapture {
    const StasisRam *ram;
    StasisDirty *known;
    guint8 **mapped; /* of each block, or NULL */

    guint8 *memory;
    gsize memory_bytes;
    guint64 max_pages, n_pages;
    Run *runs; /* behind the pages: the known ones, then the others */
    guint64 max_runs, n_runs, n_known;

    guint n_helpers;
    GThread *helpers[MAX_HELPERS];
    sem_t go, done;
    guint64 next;        /* known run to be taken; atomic */
    guint64 deadline_us; /* atomic, 0: none */
    gint result;         /* first −errno of any thread; atomic */
    gboolean started, quit;
};

/* ---- memory ---- */

static gboolean no_memory(gsize len, int errnum, GError **error)
{
    if (errnum == ECANCELED)
        return stasis_set_cancelled(error);
    return stasis_set_errno(error, errnum, "%" G_GSIZE_FORMAT " MiB for captured pages", len >> 20);
}

/* Large pages where there are any, and all of it touched: in the stop it shall not fault. Kernels
 * before 5.14 can't be asked for that; there the pages are touched one by one. */
static int populate(guint8 *memory, gsize len, GCancellable *cancellable)
{
    madvise(memory, len, MADV_HUGEPAGE);
    for (gsize done = 0, n; done < len; done += n) {
        n = MIN(len - done, POPULATE_BYTES);
        if (cancellable != NULL && g_cancellable_is_cancelled(cancellable))
            return -ECANCELED;
        if (madvise(memory + done, n, MADV_POPULATE_WRITE) == 0)
            continue;
        if (errno != EINVAL)
            return -errno;
        for (gsize at = 0; at < n; at += STASIS_PAGE_BYTES)
            ((volatile guint8 *)memory)[done + at] = 0;
    }
    return 0;
}

static gboolean get_memory(StasisCapture *capture, GCancellable *cancellable, GError **error)
{
    gsize pages_bytes = MAX(capture->max_pages, 1) * STASIS_PAGE_BYTES;
    gsize len = pages_bytes + capture->max_runs * sizeof(Run);
    guint8 *memory =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return no_memory(len, errno, error);
    capture->memory = memory;
    capture->memory_bytes = len;
    capture->runs = (Run *)(void *)(memory + pages_bytes);
    int r = populate(memory, len, cancellable);
    return r == 0 || no_memory(len, -r, error);
}

/* ---- the known pages ---- */

/* See a shared block as QEMU sees it. Reading a hole of shared memory this way would fill it. A
 * block that is not mapped is read by system calls. */
static void map_block(StasisCapture *capture, guint index)
{
    const StasisRamBlock *block = stasis_ram_block(capture->ram, index);
    const StasisBitmap *known = capture->known->blocks[index];
    guint64 first, n;
    if (!block->shared || block->fd < 0 || block->page_bytes > STASIS_PAGE_BYTES ||
        !stasis_bitmap_next_run(known, 0, 1, &first, &n))
        return;
    guint8 *mapped =
        mmap(NULL, block->size_bytes, PROT_READ, MAP_SHARED, block->fd, (off_t)block->fd_offset);
    if (mapped == MAP_FAILED)
        return;
    capture->mapped[index] = mapped;
    for (guint64 at = 0; stasis_bitmap_next_run(known, at, G_MAXUINT64, &first, &n); at = first + n)
        madvise(mapped + first * STASIS_PAGE_BYTES, n * STASIS_PAGE_BYTES, MADV_POPULATE_READ);
}

static guint8 *place(StasisCapture *capture, guint64 n)
{
    guint8 *data = capture->memory + capture->n_pages * STASIS_PAGE_BYTES;
    capture->n_pages += n;
    return data;
}

static void lay_out_known(StasisCapture *capture)
{
    for (guint i = 0; i < capture->known->n_blocks; i++) {
        guint64 first, n;
        for (guint64 at = 0;
             stasis_bitmap_next_run(capture->known->blocks[i], at, CHUNK_PAGES, &first, &n);
             at = first + n)
            capture->runs[capture->n_runs++] = (Run){ i, first, n, place(capture, n) };
    }
    capture->n_known = capture->n_runs;
}

/* ---- copying ---- */

static int copy_run(const StasisCapture *capture, const Run *run)
{
    const StasisRamBlock *block = stasis_ram_block(capture->ram, run->block);
    guint64 offset = run->first_page * STASIS_PAGE_BYTES;
    guint64 want = run->n_pages * STASIS_PAGE_BYTES, len = MIN(want, block->size_bytes - offset);
    memset(run->data + len, 0, want - len);
    if (capture->mapped[run->block] == NULL)
        return stasis_ram_read(capture->ram, block, offset, run->data, len);
    memcpy(run->data, capture->mapped[run->block] + offset, len);
    return 0;
}

static void fail(StasisCapture *capture, int r)
{
    gint expected = 0;
    __atomic_compare_exchange_n(&capture->result, &expected, r, FALSE, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
}

static gboolean is_late(guint64 deadline_us)
{
    return deadline_us != 0 && stasis_now_us() > deadline_us;
}

static void copy_known(StasisCapture *capture)
{
    while (__atomic_load_n(&capture->result, __ATOMIC_ACQUIRE) == 0) {
        guint64 i = __atomic_fetch_add(&capture->next, 1, __ATOMIC_RELAXED);
        if (i >= capture->n_known)
            return;
        int r = is_late(__atomic_load_n(&capture->deadline_us, __ATOMIC_RELAXED))
                    ? -ETIME
                    : copy_run(capture, &capture->runs[i]);
        if (r < 0)
            fail(capture, r);
    }
}

static void wait_for(sem_t *sem)
{
    while (sem_wait(sem) < 0 && errno == EINTR)
        ;
}

static gpointer helper(gpointer data)
{
    StasisCapture *capture = data;
    wait_for(&capture->go);
    if (!capture->quit)
        copy_known(capture);
    sem_post(&capture->done);
    return NULL;
}

/* ---- life ---- */

StasisCapture *stasis_capture_new(const StasisRam *ram, const StasisDirty *known, gboolean present,
                                  guint64 extra_pages, GCancellable *cancellable, GError **error)
{
    StasisCapture *capture = g_new0(StasisCapture, 1);
    guint64 n_known = stasis_dirty_count(known);
    capture->ram = ram;
    capture->known = stasis_dirty_new(ram);
    stasis_dirty_or(capture->known, known);
    capture->mapped = g_new0(guint8 *, ram->blocks->len);
    capture->max_pages = n_known + extra_pages;
    /* A run is at least a page, or a hole between two of them. */
    capture->max_runs = 2 * capture->max_pages + 4096;
    sem_init(&capture->go, 0, 0);
    sem_init(&capture->done, 0, 0);
    if (!get_memory(capture, cancellable, error)) {
        stasis_capture_free(capture);
        return NULL;
    }
    lay_out_known(capture);
    for (guint i = 0; i < known->n_blocks && present; i++)
        map_block(capture, i);
    guint wanted = CLAMP(g_get_num_processors() - 1, 1, MAX_HELPERS);
    for (guint i = 0; i < wanted; i++) {
        GThread *thread = g_thread_try_new("stasis-capture", helper, capture, NULL);
        if (thread != NULL)
            capture->helpers[capture->n_helpers++] = thread;
    }
    return capture;
}

void stasis_capture_free(StasisCapture *capture)
{
    if (capture == NULL)
        return;
    if (!capture->started) {
        capture->quit = TRUE;
        stasis_capture_start(capture);
    }
    for (guint i = 0; i < capture->n_helpers; i++)
        g_thread_join(capture->helpers[i]);
    for (guint i = 0; i < capture->ram->blocks->len; i++)
        if (capture->mapped[i] != NULL)
            munmap(capture->mapped[i], stasis_ram_block(capture->ram, i)->size_bytes);
    if (capture->memory != NULL)
        munmap(capture->memory, capture->memory_bytes);
    sem_destroy(&capture->go);
    sem_destroy(&capture->done);
    stasis_dirty_free(capture->known);
    g_free(capture->mapped);
    g_free(capture);
}

/* ---- in the stop ---- */

void stasis_capture_start(StasisCapture *capture)
{
    capture->started = TRUE;
    for (guint i = 0; i < capture->n_helpers; i++)
        sem_post(&capture->go);
}

/* Untouched memory: one run without data, however long. 0 pages when it is none. */
static guint64 capture_hole(StasisCapture *capture, guint index, guint64 first, guint64 n)
{
    const StasisRamBlock *block = stasis_ram_block(capture->ram, index);
    guint64 offset = first * STASIS_PAGE_BYTES;
    guint64 len = MIN(n * STASIS_PAGE_BYTES, block->size_bytes - offset), same = len;
    if (!stasis_ram_is_hole(capture->ram, block, offset, len, &same))
        return 0;
    guint64 pages = same == len ? n : same / STASIS_PAGE_BYTES;
    if (pages > 0)
        capture->runs[capture->n_runs++] = (Run){ index, first, pages, NULL };
    return pages;
}

static int capture_run(StasisCapture *capture, guint index, guint64 first, guint64 n)
{
    if (n > capture->max_pages - capture->n_pages)
        return -ENOBUFS;
    Run *run = &capture->runs[capture->n_runs];
    *run = (Run){ index, first, n, capture->memory + capture->n_pages * STASIS_PAGE_BYTES };
    /* Not by way of the mapping: these pages were not made present there. */
    const StasisRamBlock *block = stasis_ram_block(capture->ram, index);
    guint64 offset = first * STASIS_PAGE_BYTES, want = n * STASIS_PAGE_BYTES;
    guint64 len = MIN(want, block->size_bytes - offset);
    int r = stasis_ram_read(capture->ram, block, offset, run->data, len);
    if (r < 0)
        return r;
    memset(run->data + len, 0, want - len);
    capture->n_runs++;
    capture->n_pages += n;
    return 0;
}

static int capture_rest(StasisCapture *capture, guint index, StasisBitmap *dirty,
                        guint64 deadline_us)
{
    guint64 first, n, done;
    for (guint64 at = 0; stasis_bitmap_next_run(dirty, at, G_MAXUINT64, &first, &n);
         at = first + done) {
        if (is_late(deadline_us))
            return -ETIME;
        if (capture->n_runs == capture->max_runs)
            return -ENOBUFS;
        done = n >= CHUNK_PAGES ? capture_hole(capture, index, first, n) : 0;
        if (done == 0) {
            done = MIN(n, CHUNK_PAGES);
            int r = capture_run(capture, index, first, done);
            if (r < 0)
                return r;
        }
        stasis_bitmap_clear_range(dirty, first, done);
    }
    return 0;
}

int stasis_capture_finish(StasisCapture *capture, StasisDirty *dirty, guint64 deadline_us)
{
    __atomic_store_n(&capture->deadline_us, deadline_us, __ATOMIC_RELAXED);
    copy_known(capture);
    for (guint i = 0; i < capture->n_helpers; i++)
        wait_for(&capture->done);
    stasis_dirty_subtract(dirty, capture->known);
    int r = __atomic_load_n(&capture->result, __ATOMIC_ACQUIRE);
    for (guint i = 0; i < dirty->n_blocks && r == 0; i++)
        r = capture_rest(capture, i, dirty->blocks[i], deadline_us);
    return r;
}

/* ---- afterwards ---- */

void stasis_capture_give_back(const StasisCapture *capture, StasisDirty *dirty)
{
    for (guint64 i = 0; i < capture->n_runs; i++)
        stasis_bitmap_set_range(dirty->blocks[capture->runs[i].block], capture->runs[i].first_page,
                                capture->runs[i].n_pages);
}

gboolean stasis_capture_push(StasisCapture *capture, StasisPipeline *pipeline,
                             GCancellable *cancellable, GError **error)
{
    for (guint64 i = 0; i < capture->n_runs; i++) {
        const Run *run = &capture->runs[i];
        if (cancellable != NULL && g_cancellable_is_cancelled(cancellable))
            return stasis_set_cancelled(error);
        if (run->data != NULL)
            stasis_pipeline_push(pipeline, &(StasisPageRun){ .block = run->block,
                                                             .first_page = run->first_page,
                                                             .n_pages = run->n_pages,
                                                             .data = run->data });
        else if (!stasis_pipeline_push_zero(pipeline, run->block, run->first_page, run->n_pages,
                                            error))
            return FALSE;
    }
    return stasis_pipeline_drain(pipeline, error);
}
