/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is to be taken is cut into chunks, contiguous in the guest and in our memory; threads take
 * chunk after chunk by one atomic counter. Shared RAM is mapped here and its expected pages are
 * made present, so that copying them is a plain memcpy.
 */
#include "copy/capture.h"

#include <errno.h>
#include <semaphore.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/io.h"
#include "track/uffd-ram.h"

/* How much is copied between two looks at the clock: 0.05 ms or so. */
#define CHUNK_PAGES 64u
#define PUSH_PAGES 256u
#define POPULATE_BYTES (64u << 20)
#define MAX_HELPERS 7
/* A pool keeps no more than this. */
#define MAX_POOL_BYTES ((gsize)256 << 20)

typedef struct {
    guint block;
    guint64 first_page, n_pages;
    guint64 place; /* in memory, in pages */
} Chunk;

struct _StasisCapture {
    const StasisRam *ram;
    StasisDirty *expected;      /* they have the first n_expected places */
    StasisDirty *taken;         /* in memory, or on the way there */
    StasisDirty *holes;         /* untouched in the guest: zero */
    guint8 **mapped;            /* of each block, or NULL */
    StasisCaptureMap *own_maps; /* of each block that the pool has no room for */
    guint32 **places;           /* of each block, of each page: its place + 1, or 0 */

    StasisCapturePool *pool;
    guint8 *memory;
    gsize memory_bytes;
    guint64 max_pages, n_pages, n_expected;
    Chunk *chunks;               /* behind the pages */
    guint64 n_chunks, n_planned; /* pages, with holes */

    guint n_helpers;
    GThread *helpers[MAX_HELPERS];
    sem_t go, done;
    guint64 next;        /* chunk to be taken; atomic */
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

static gboolean map_memory(StasisCapture *capture, gsize len, GCancellable *cancellable,
                           GError **error)
{
    guint8 *memory =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return no_memory(len, errno, error);
    int r = populate(memory, len, cancellable);
    if (r < 0) {
        munmap(memory, len); /* none for the pool: the next stop would fault it in */
        return no_memory(len, -r, error);
    }
    capture->memory = memory;
    capture->memory_bytes = len;
    return TRUE;
}

static gboolean get_memory(StasisCapture *capture, GCancellable *cancellable, GError **error)
{
    gsize pages_bytes = MAX(capture->max_pages, 1) * STASIS_PAGE_BYTES;
    gsize len = pages_bytes + (capture->max_pages + 1) * sizeof(Chunk);
    StasisCapturePool *pool = capture->pool;
    if (pool != NULL && pool->bytes >= len) {
        capture->memory = g_steal_pointer(&pool->memory);
        capture->memory_bytes = pool->bytes;
        pool->bytes = 0;
    } else if (!map_memory(capture, len, cancellable, error)) {
        return FALSE;
    }
    capture->chunks = (Chunk *)(void *)(capture->memory + pages_bytes);
    return TRUE;
}

static void unmap(void *memory, gsize bytes)
{
    if (memory != NULL)
        munmap(memory, bytes);
}

static void drop_map(StasisCaptureMap *map)
{
    unmap(map->address, map->bytes);
    stasis_bitmap_free(map->present);
    *map = (StasisCaptureMap){ 0 };
}

void stasis_capture_pool_clear(StasisCapturePool *pool)
{
    unmap(pool->memory, pool->bytes);
    for (guint i = 0; i < STASIS_CAPTURE_MAX_MAPS; i++)
        drop_map(&pool->maps[i]);
    *pool = (StasisCapturePool){ 0 };
}

static void put_memory(StasisCapture *capture)
{
    StasisCapturePool *pool = capture->pool;
    guint8 *memory = g_steal_pointer(&capture->memory);
    if (pool != NULL && capture->memory_bytes > pool->bytes &&
        capture->memory_bytes <= MAX_POOL_BYTES) {
        unmap(pool->memory, pool->bytes);
        pool->memory = memory;
        pool->bytes = capture->memory_bytes;
    } else {
        unmap(memory, capture->memory_bytes);
    }
}

static gboolean is_late(guint64 deadline_us)
{
    return deadline_us != 0 && stasis_now_us() > deadline_us;
}

/* ---- places ---- */

/* The pool's mapping of this file, or its entry for a new one; NULL: it has none. */
static StasisCaptureMap *find_map(StasisCapturePool *pool, const struct stat *st,
                                  const StasisRamBlock *block)
{
    StasisCaptureMap *unused = NULL;
    for (guint i = 0; pool != NULL && i < STASIS_CAPTURE_MAX_MAPS; i++) {
        StasisCaptureMap *map = &pool->maps[i];
        if (map->address == NULL)
            unused = map;
        else if (map->dev == st->st_dev && map->inode == st->st_ino &&
                 map->offset == block->fd_offset && map->bytes == block->size_bytes)
            return map;
    }
    return unused;
}

static gboolean make_map(StasisCaptureMap *map, const struct stat *st, const StasisRamBlock *block)
{
    void *address =
        mmap(NULL, block->size_bytes, PROT_READ, MAP_SHARED, block->fd, (off_t)block->fd_offset);
    if (address == MAP_FAILED)
        return FALSE;
    *map = (StasisCaptureMap){ st->st_dev,       st->st_ino,
                               block->fd_offset, block->size_bytes,
                               address,          stasis_bitmap_new(stasis_ram_block_pages(block)) };
    return TRUE;
}

/* Into the page tables; what is there already takes half as long again. */
static void make_present(StasisCaptureMap *map, const StasisBitmap *pages)
{
    g_autoptr(StasisBitmap) missing = stasis_bitmap_new(pages->n_pages);
    stasis_bitmap_copy(missing, pages);
    stasis_bitmap_subtract(missing, map->present);
    guint64 first = 0, n;
    for (guint64 at = 0; stasis_bitmap_next_run(missing, at, G_MAXUINT64, &first, &n);
         at = first + n)
        madvise(map->address + first * STASIS_PAGE_BYTES, n * STASIS_PAGE_BYTES,
                MADV_POPULATE_READ);
    stasis_bitmap_or(map->present, missing);
}

/* See a shared block as QEMU sees it. Reading a hole of shared memory this way would fill it. A
 * block that is not mapped is read by system calls. */
static void map_block(StasisCapture *capture, guint index)
{
    const StasisRamBlock *block = stasis_ram_block(capture->ram, index);
    const StasisBitmap *expected = capture->expected->blocks[index];
    guint64 first, n;
    struct stat st;
    if (!block->shared || block->fd < 0 || block->page_bytes > STASIS_PAGE_BYTES ||
        !stasis_bitmap_next_run(expected, 0, 1, &first, &n) || fstat(block->fd, &st) < 0)
        return;
    StasisCaptureMap *map = find_map(capture->pool, &st, block);
    map = map != NULL ? map : &capture->own_maps[index];
    if (map->address != NULL || make_map(map, &st, block)) {
        make_present(map, expected);
        capture->mapped[index] = map->address;
    }
}

/* Pages from @first on, up to @n, whose places follow one another; the first one gets a place if it
 * has none, and so do the others then. 0 when there is no place left. */
static guint64 find_places(StasisCapture *capture, guint index, guint64 first, guint64 n)
{
    guint32 *places = &capture->places[index][first];
    guint64 same = 0;
    if (places[0] == 0) {
        n = MIN(n, capture->max_pages - capture->n_pages);
        while (same < n && places[same] == 0)
            places[same++] = (guint32)++capture->n_pages;
        return same;
    }
    while (same < n && places[same] == places[0] + same)
        same++;
    return same;
}

/* Untouched memory, however long, takes no place. 0 pages when it is none. It may have been data
 * when it was taken before (a balloon gives memory back): what was copied then counts no more. */
static guint64 take_hole(StasisCapture *capture, guint index, guint64 first, guint64 n)
{
    const StasisRamBlock *block = stasis_ram_block(capture->ram, index);
    guint64 offset = first * STASIS_PAGE_BYTES;
    guint64 len = MIN(n * STASIS_PAGE_BYTES, block->size_bytes - offset), same = len;
    if (n < CHUNK_PAGES || capture->places[index][first] != 0 ||
        !stasis_ram_is_hole(capture->ram, block, offset, len, &same))
        return 0;
    guint64 pages = same == len ? n : same / STASIS_PAGE_BYTES;
    stasis_bitmap_set_range(capture->holes->blocks[index], first, pages);
    stasis_bitmap_clear_range(capture->taken->blocks[index], first, pages);
    return pages;
}

/* Cut @dirty into chunks, clearing it. −ENOBUFS when places run out: the rest stays set. */
static int plan_block(StasisCapture *capture, guint index, StasisBitmap *dirty, guint64 deadline_us)
{
    guint64 first, n, done;
    for (guint64 at = 0; stasis_bitmap_next_run(dirty, at, G_MAXUINT64, &first, &n);
         at = first + done) {
        if (is_late(deadline_us))
            return -ETIME;
        done = take_hole(capture, index, first, n);
        if (done == 0) {
            done = find_places(capture, index, first, MIN(n, CHUNK_PAGES));
            if (done == 0)
                return -ENOBUFS;
            capture->chunks[capture->n_chunks++] =
                (Chunk){ index, first, done, capture->places[index][first] - 1 };
            stasis_bitmap_set_range(capture->taken->blocks[index], first, done);
            stasis_bitmap_clear_range(capture->holes->blocks[index], first, done);
        }
        stasis_bitmap_clear_range(dirty, first, done);
        capture->n_planned += done;
    }
    return 0;
}

static int plan(StasisCapture *capture, StasisDirty *dirty, guint64 deadline_us)
{
    int r = 0;
    capture->n_chunks = capture->n_planned = 0;
    capture->next = 0;
    for (guint i = 0; i < dirty->n_blocks && r == 0; i++)
        r = plan_block(capture, i, dirty->blocks[i], deadline_us);
    return r;
}

/* ---- copying ---- */

static int copy_chunk(const StasisCapture *capture, const Chunk *chunk)
{
    const StasisRamBlock *block = stasis_ram_block(capture->ram, chunk->block);
    guint8 *data = capture->memory + chunk->place * STASIS_PAGE_BYTES;
    guint64 offset = chunk->first_page * STASIS_PAGE_BYTES;
    guint64 want = chunk->n_pages * STASIS_PAGE_BYTES, len = MIN(want, block->size_bytes - offset);
    memset(data + len, 0, want - len);
    /* Pages that were not expected were not made present in the mapping. */
    if (capture->mapped[chunk->block] == NULL || chunk->place >= capture->n_expected)
        return stasis_ram_read(capture->ram, block, offset, data, len);
    memcpy(data, capture->mapped[chunk->block] + offset, len);
    return 0;
}

static void fail(StasisCapture *capture, int r)
{
    gint expected = 0;
    __atomic_compare_exchange_n(&capture->result, &expected, r, FALSE, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
}

static void copy_chunks(StasisCapture *capture)
{
    while (__atomic_load_n(&capture->result, __ATOMIC_ACQUIRE) == 0) {
        guint64 i = __atomic_fetch_add(&capture->next, 1, __ATOMIC_RELAXED);
        if (i >= capture->n_chunks)
            return;
        int r = is_late(__atomic_load_n(&capture->deadline_us, __ATOMIC_RELAXED))
                    ? -ETIME
                    : copy_chunk(capture, &capture->chunks[i]);
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
    for (;;) {
        wait_for(&capture->go);
        if (capture->quit)
            return NULL;
        copy_chunks(capture);
        sem_post(&capture->done);
    }
}

static void wake_helpers(StasisCapture *capture)
{
    for (guint i = 0; i < capture->n_helpers; i++)
        sem_post(&capture->go);
}

/* Help them to the end. */
static int join(StasisCapture *capture)
{
    copy_chunks(capture);
    for (guint i = 0; i < capture->n_helpers; i++)
        wait_for(&capture->done);
    return __atomic_load_n(&capture->result, __ATOMIC_ACQUIRE);
}

void stasis_capture_start(StasisCapture *capture)
{
    capture->started = TRUE;
    wake_helpers(capture);
}

int stasis_capture_take_running(StasisCapture *capture, StasisDirty *dirty)
{
    int planned = plan(capture, dirty, 0);
    copy_chunks(capture);
    return planned < 0 ? planned : __atomic_load_n(&capture->result, __ATOMIC_ACQUIRE);
}

int stasis_capture_take_stopped(StasisCapture *capture, StasisDirty *dirty, guint64 deadline_us,
                                guint64 *ret_n_pages)
{
    __atomic_store_n(&capture->deadline_us, deadline_us, __ATOMIC_RELAXED);
    if (capture->started) {
        capture->started = FALSE;
        int r = join(capture);
        stasis_dirty_or(capture->taken, capture->expected);
        stasis_dirty_subtract(dirty, capture->expected);
        if (r < 0)
            return r;
    }
    int planned = plan(capture, dirty, deadline_us);
    if (ret_n_pages != NULL)
        *ret_n_pages = capture->n_planned;
    wake_helpers(capture);
    int copied = join(capture);
    return planned < 0 ? planned : copied;
}

/* ---- life ---- */

static void get_helpers(StasisCapture *capture)
{
    guint wanted = CLAMP(g_get_num_processors() - 1, 1, MAX_HELPERS);
    for (guint i = 0; i < wanted; i++) {
        GThread *thread = g_thread_try_new("stasis-capture", helper, capture, NULL);
        if (thread != NULL)
            capture->helpers[capture->n_helpers++] = thread;
    }
}

StasisCapture *stasis_capture_new(const StasisRam *ram, const StasisDirty *expected,
                                  gboolean present, guint64 extra_pages, StasisCapturePool *pool,
                                  GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisCapture) capture = g_new0(StasisCapture, 1);
    sem_init(&capture->go, 0, 0);
    sem_init(&capture->done, 0, 0);
    capture->ram = ram;
    capture->pool = pool;
    capture->expected = stasis_dirty_new(ram);
    capture->taken = stasis_dirty_new(ram);
    capture->holes = stasis_dirty_new(ram);
    capture->mapped = g_new0(guint8 *, ram->blocks->len);
    capture->own_maps = g_new0(StasisCaptureMap, ram->blocks->len);
    capture->places = g_new0(guint32 *, ram->blocks->len);
    capture->max_pages = stasis_dirty_count(expected) + extra_pages;
    if (!get_memory(capture, cancellable, error))
        return NULL;
    stasis_dirty_or(capture->expected, expected);
    for (guint i = 0; i < expected->n_blocks; i++) {
        /* Zeroed memory that nobody touches costs nothing. */
        capture->places[i] = g_new0(guint32, expected->blocks[i]->n_pages + 1);
        if (present)
            map_block(capture, i);
        for (guint64 at = 0, first, n;
             stasis_bitmap_next_run(expected->blocks[i], at, CHUNK_PAGES, &first, &n);
             at = first + n)
            capture->chunks[capture->n_chunks++] =
                (Chunk){ i, first, find_places(capture, i, first, n),
                         capture->places[i][first] - 1 };
    }
    capture->n_expected = capture->n_pages;
    get_helpers(capture);
    return g_steal_pointer(&capture);
}

void stasis_capture_free(StasisCapture *capture)
{
    if (capture == NULL)
        return;
    capture->quit = TRUE;
    wake_helpers(capture);
    for (guint i = 0; i < capture->n_helpers; i++)
        g_thread_join(capture->helpers[i]);
    for (guint i = 0; i < capture->ram->blocks->len; i++) {
        drop_map(&capture->own_maps[i]);
        g_free(capture->places[i]);
    }
    put_memory(capture);
    sem_destroy(&capture->go);
    sem_destroy(&capture->done);
    stasis_dirty_free(capture->expected);
    stasis_dirty_free(capture->taken);
    stasis_dirty_free(capture->holes);
    g_free(capture->mapped);
    g_free(capture->own_maps);
    g_free(capture->places);
    g_free(capture);
}

guint64 stasis_capture_get_bytes(const StasisCapture *capture)
{
    return capture->max_pages * STASIS_PAGE_BYTES;
}

/* ---- afterwards ---- */

void stasis_capture_drop(StasisCapture *capture, const StasisDirty *pages)
{
    stasis_dirty_subtract(capture->taken, pages);
    stasis_dirty_subtract(capture->holes, pages);
}

void stasis_capture_give_back(const StasisCapture *capture, StasisDirty *dirty)
{
    stasis_dirty_or(dirty, capture->taken);
    stasis_dirty_or(dirty, capture->holes);
    if (capture->started)
        stasis_dirty_or(dirty, capture->expected);
}

static gboolean push_block(StasisCapture *capture, guint index, StasisPipeline *pipeline,
                           GCancellable *cancellable, GError **error)
{
    guint64 first, n;
    for (guint64 at = 0;
         stasis_bitmap_next_run(capture->holes->blocks[index], at, G_MAXUINT64, &first, &n);
         at = first + n)
        if (!stasis_pipeline_push_zero(pipeline, index, first, n, error))
            return FALSE;
    for (guint64 at = 0;
         stasis_bitmap_next_run(capture->taken->blocks[index], at, PUSH_PAGES, &first, &n);
         at = first + n) {
        if (cancellable != NULL && g_cancellable_is_cancelled(cancellable))
            return stasis_set_cancelled(error);
        n = find_places(capture, index, first, n);
        guint64 place = capture->places[index][first] - 1;
        stasis_pipeline_push(
            pipeline, &(StasisPageRun){ .block = index,
                                        .first_page = first,
                                        .n_pages = n,
                                        .data = capture->memory + place * STASIS_PAGE_BYTES });
    }
    return TRUE;
}

gboolean stasis_capture_push(StasisCapture *capture, StasisPipeline *pipeline,
                             GCancellable *cancellable, GError **error)
{
    for (guint i = 0; i < capture->taken->n_blocks; i++)
        if (!push_block(capture, i, pipeline, cancellable, error))
            return FALSE;
    return stasis_pipeline_drain(pipeline, error);
}
