/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "copy/capture.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/io.h"
#include "track/uffd-ram.h"

/* How much is copied between two looks at the clock: 0.1 ms or so. */
#define STEP_PAGES 256u
#define POPULATE_BYTES (64u << 20)

typedef struct {
    guint block;
    guint64 first_page, n_pages;
    const guint8 *data; /* NULL: zero pages */
} Run;

struct _StasisCapture {
    const StasisRam *ram;
    guint8 *memory;
    gsize memory_bytes;
    guint64 max_pages, n_pages;
    Run *runs; /* behind the pages */
    guint64 max_runs, n_runs;
};

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

static gboolean no_memory(gsize len, int errnum, GError **error)
{
    if (errnum == ECANCELED)
        return stasis_set_cancelled(error);
    return stasis_set_errno(error, errnum, "%" G_GSIZE_FORMAT " MiB for captured pages", len >> 20);
}

StasisCapture *stasis_capture_new(const StasisRam *ram, guint64 max_pages,
                                  GCancellable *cancellable, GError **error)
{
    /* A run is at least a page, or a hole between two of them. */
    guint64 max_runs = 2 * max_pages + 4096;
    gsize len = MAX(max_pages, 1) * STASIS_PAGE_BYTES + max_runs * sizeof(Run);
    guint8 *memory =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        no_memory(len, errno, error);
        return NULL;
    }
    int r = populate(memory, len, cancellable);
    if (r < 0) {
        no_memory(len, -r, error);
        munmap(memory, len);
        return NULL;
    }
    StasisCapture *capture = g_new0(StasisCapture, 1);
    capture->ram = ram;
    capture->memory = memory;
    capture->memory_bytes = len;
    capture->max_pages = max_pages;
    capture->max_runs = max_runs;
    capture->runs = (Run *)(memory + MAX(max_pages, 1) * STASIS_PAGE_BYTES);
    return capture;
}

void stasis_capture_free(StasisCapture *capture)
{
    if (capture == NULL)
        return;
    munmap(capture->memory, capture->memory_bytes);
    g_free(capture);
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
    const StasisRamBlock *block = stasis_ram_block(capture->ram, index);
    guint8 *dst = capture->memory + capture->n_pages * STASIS_PAGE_BYTES;
    guint64 offset = first * STASIS_PAGE_BYTES, want = n * STASIS_PAGE_BYTES;
    guint64 len = MIN(want, block->size_bytes - offset);
    int r = stasis_ram_read(capture->ram, block, offset, dst, len);
    if (r < 0)
        return r;
    memset(dst + len, 0, want - len);
    capture->runs[capture->n_runs++] = (Run){ index, first, n, dst };
    capture->n_pages += n;
    return 0;
}

static int capture_block(StasisCapture *capture, guint index, StasisBitmap *dirty,
                         guint64 deadline_us)
{
    guint64 first, n, done;
    for (guint64 at = 0; stasis_bitmap_next_run(dirty, at, G_MAXUINT64, &first, &n);
         at = first + done) {
        if (deadline_us != 0 && stasis_now_us() > deadline_us)
            return -ETIME;
        if (capture->n_runs == capture->max_runs)
            return -ENOBUFS;
        done = n >= STEP_PAGES ? capture_hole(capture, index, first, n) : 0;
        if (done == 0) {
            done = MIN(n, STEP_PAGES);
            if (done > capture->max_pages - capture->n_pages)
                return -ENOBUFS;
            int r = capture_run(capture, index, first, done);
            if (r < 0)
                return r;
        }
        stasis_bitmap_clear_range(dirty, first, done);
    }
    return 0;
}

int stasis_capture_pages(StasisCapture *capture, StasisDirty *dirty, guint64 deadline_us)
{
    int r = 0;
    for (guint i = 0; i < dirty->n_blocks && r == 0; i++)
        r = capture_block(capture, i, dirty->blocks[i], deadline_us);
    return r;
}

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
