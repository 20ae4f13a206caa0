/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what is captured is the memory of that moment, in bounded room and time; what is not
 * captured stays marked, so that nothing is taken for saved that is not. */
#include "copy/capture.h"

#include <errno.h>
#include <stasis/error.h>

#include "test-copy-ram.h"

#define N_A 3000u
#define N_B 1500u

/* Used by all captures in turn. */
static StasisCapturePool pool;

static guint below(GRand *rand, guint n)
{
    return (guint)g_rand_int_range(rand, 0, (gint32)n);
}

/* Data in some places, never touched memory in others. */
static void make_ram(CopyRam *m, GRand *rand)
{
    copy_ram_init(m, N_A, N_B);
    for (guint i = 0; i < 6; i++) {
        guint b = i % 2, first = below(rand, (guint)m->n_pages[b] - 200);
        copy_fill(m, b, first, 1 + below(rand, 200), rand);
    }
    copy_fill(m, 1, N_B - 1, 1, rand);
}

static void mark_randomly(StasisDirty *dirty, const CopyRam *m, GRand *rand)
{
    for (guint i = 0; i < 30; i++) {
        guint b = below(rand, 2), first = below(rand, (guint)m->n_pages[b]);
        guint n = 1 + below(rand, MIN(i % 5 == 0 ? 1000u : 20u, (guint)m->n_pages[b] - first));
        stasis_bitmap_set_range(dirty->blocks[b], first, n);
    }
}

static void assert_same(const StasisDirty *a, const StasisDirty *b)
{
    for (guint i = 0; i < a->n_blocks; i++) {
        gsize len = (a->blocks[i]->n_pages + 63) / 64 * 8;
        g_assert_cmpmem(a->blocks[i]->words, len, b->blocks[i]->words, len);
    }
}

/* Make ready for pages @known, and room for more, then take @dirty, or with @begin first the known
 * pages; −errno or 0. */
static int take(StasisCapture **ret_capture, const CopyRam *m, const StasisDirty *known,
                guint64 extra, gboolean begin, StasisDirty *dirty, guint64 deadline_us)
{
    g_autoptr(GError) error = NULL;
    *ret_capture = stasis_capture_new(m->ram, known, TRUE, extra, &pool, NULL, &error);
    g_assert_no_error(error);
    if (begin)
        stasis_capture_start(*ret_capture);
    guint64 n_before = stasis_dirty_count(dirty), n = 0;
    int r = stasis_capture_take_stopped(*ret_capture, dirty, deadline_us, &n);
    if (!begin)
        g_assert_cmpuint(n, ==, n_before - stasis_dirty_count(dirty));
    return r;
}

/* Some of @dirty, of all sizes. */
static StasisDirty *know_some(const CopyRam *m, const StasisDirty *dirty, GRand *rand, guint kind)
{
    StasisDirty *known = stasis_dirty_new(m->ram);
    if (kind % 3 == 1)
        stasis_dirty_or(known, dirty);
    if (kind % 3 == 2) {
        g_autoptr(StasisDirty) some = stasis_dirty_new(m->ram);
        mark_randomly(some, m, rand);
        stasis_dirty_intersect(known, dirty, some);
    }
    return known;
}

static void change(CopyRam *m, const StasisDirty *dirty, GRand *rand)
{
    for (guint b = 0; b < COPY_BLOCKS; b++)
        for (guint64 i = 0; i < m->n_pages[b]; i++)
            if (stasis_bitmap_test(dirty->blocks[b], i) && below(rand, 4) > 0)
                copy_fill(m, b, i, 1, rand);
}

/* Pages that were taken before, were holes before, or are new. */
static void take_again(StasisCapture *capture, CopyRam *m, GRand *rand)
{
    g_autoptr(StasisDirty) dirty = stasis_dirty_new(m->ram);
    mark_randomly(dirty, m, rand);
    change(m, dirty, rand);
    g_assert_cmpint(stasis_capture_take_running(capture, dirty), ==, 0);
    g_assert_cmpuint(stasis_dirty_count(dirty), ==, 0);
}

/* All of RAM first, then random sets of it that changed, some several times; the image is the
 * memory at the last capture, whatever is written after it. */
static void test_moment(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autoptr(GRand) rand = g_rand_new_with_seed(5);
    g_autoptr(GError) error = NULL;
    g_autofree char *parent = NULL;
    CopyRam m;
    make_ram(&m, rand);
    for (guint round = 0; round < 9; round++) {
        g_autoptr(StasisDirty) dirty = stasis_dirty_new(m.ram);
        if (round == 0)
            stasis_dirty_set_all(dirty);
        else
            mark_randomly(dirty, &m, rand);
        if (round > 0)
            change(&m, dirty, rand);
        g_autoptr(StasisDirty) known = know_some(&m, dirty, rand, round);
        g_autoptr(StasisCapture) capture = NULL;
        g_assert_cmpint(take(&capture, &m, known, N_A + N_B, round % 2 == 0, dirty, 0), ==, 0);
        g_assert_cmpuint(stasis_dirty_count(dirty), ==, 0);
        for (guint again = 0; again < round % 4; again++)
            take_again(capture, &m, rand);
        guint8 *then[COPY_BLOCKS];
        for (guint b = 0; b < COPY_BLOCKS; b++) {
            then[b] = g_memdup2(m.at[b], m.n_pages[b] * STASIS_PAGE_BYTES);
            memset(m.at[b], 0xdd, m.n_pages[b] * STASIS_PAGE_BYTES);
        }
        g_autoptr(StasisImageWriter) writer = copy_writer(store, parent, m.ram);
        g_autoptr(StasisPipeline) pipeline =
            stasis_pipeline_new(m.ram, writer, STASIS_CODEC_LZ4, 2);
        stasis_capture_push(capture, pipeline, NULL, &error);
        g_assert_no_error(error);
        g_clear_pointer(&pipeline, stasis_pipeline_free);
        for (guint b = 0; b < COPY_BLOCKS; b++) {
            memcpy(m.at[b], then[b], m.n_pages[b] * STASIS_PAGE_BYTES);
            g_free(then[b]);
        }
        g_free(parent);
        parent = copy_commit(store, writer);
        g_clear_pointer(&writer, stasis_image_writer_free);
        copy_assert_image(store, parent, &m);
    }
    copy_ram_clear(&m);
    test_remove_tree(path);
}

/* What was captured makes an image of what is in memory now. */
static void assert_in_image(StasisStore *store, StasisCapture *capture, CopyRam *m)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer = copy_writer(store, NULL, m->ram);
    g_autoptr(StasisPipeline) pipeline = stasis_pipeline_new(m->ram, writer, STASIS_CODEC_LZ4, 2);
    g_assert_true(stasis_capture_push(capture, pipeline, NULL, &error));
    g_autofree char *id = copy_commit(store, writer);
    copy_assert_image(store, id, m);
}

/* Untouched memory takes no room, is not touched by the capture, and is zero in the image. */
static void test_holes(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autoptr(GError) error = NULL;
    g_autofree guint8 *resident = g_malloc0(N_A);
    CopyRam m;
    copy_ram_init(&m, N_A, N_B);
    test_fill(m.at[0] + 1000 * STASIS_PAGE_BYTES, 10 * STASIS_PAGE_BYTES, 1);
    test_fill(m.at[1] + 1000 * STASIS_PAGE_BYTES, 10 * STASIS_PAGE_BYTES, 2);
    g_autoptr(StasisDirty) dirty = stasis_dirty_new(m.ram);
    stasis_dirty_set_all(dirty);
    g_autoptr(StasisDirty) known = stasis_dirty_new(m.ram);
    stasis_bitmap_set_range(known->blocks[1], 1002, 5);
    g_autoptr(StasisCapture) capture = NULL;
    g_assert_cmpint(take(&capture, &m, known, 400, FALSE, dirty, 0), ==, 0);
    g_assert_cmpint(mincore(m.at[1], N_B * STASIS_PAGE_BYTES, resident), ==, 0);
    guint n_there = 0;
    for (guint i = 0; i < N_B; i++)
        n_there += resident[i] & 1;
    g_assert_cmpuint(n_there, <, 40);
    assert_in_image(store, capture, &m);
    g_clear_pointer(&capture, stasis_capture_free);
    copy_ram_clear(&m);
    test_remove_tree(path);
}

/* Memory that was taken and is given back to the host before the stop, as by a balloon, is zero in
 * the image, also where the run that vanished begins before what was taken. */
static void test_given_back(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autoptr(GError) error = NULL;
    CopyRam m;
    copy_ram_init(&m, N_A, N_B);
    StasisRamBlock *block = g_ptr_array_index(m.ram->blocks, 1);
    g_autoptr(StasisDirty) dirty = stasis_dirty_new(m.ram);
    g_autoptr(StasisDirty) known = stasis_dirty_new(m.ram);
    for (guint b = 0; b < COPY_BLOCKS; b++) {
        memset(m.at[b] + 64 * STASIS_PAGE_BYTES, 0x41, 64 * STASIS_PAGE_BYTES);
        stasis_bitmap_set_range(dirty->blocks[b], 64, 64);
    }
    g_autoptr(StasisCapture) capture =
        stasis_capture_new(m.ram, known, TRUE, 400, &pool, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stasis_capture_take_running(capture, dirty), ==, 0);
    madvise(m.at[0], 128 * STASIS_PAGE_BYTES, MADV_DONTNEED);
    g_assert_cmpint(fallocate(block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                              128 * STASIS_PAGE_BYTES),
                    ==, 0);
    stasis_dirty_set_all(dirty);
    g_assert_cmpint(stasis_capture_take_stopped(capture, dirty, 0, NULL), ==, 0);
    assert_in_image(store, capture, &m);
    g_clear_pointer(&capture, stasis_capture_free);
    copy_ram_clear(&m);
    test_remove_tree(path);
}

/* Room for some only: the rest stays marked, and what was captured can be marked again. */
static void test_no_room(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(6);
    CopyRam m;
    make_ram(&m, rand);
    memset(m.at[0], 1, N_A * STASIS_PAGE_BYTES);
    for (guint room = 0, kind = 0; room < 1500; room = room * 2 + 1, kind += 2) {
        g_autoptr(StasisDirty) dirty = stasis_dirty_new(m.ram);
        mark_randomly(dirty, &m, rand);
        g_autoptr(StasisDirty) known = know_some(&m, dirty, rand, kind);
        stasis_bitmap_set_range(dirty->blocks[0], 500, 2200);
        stasis_bitmap_clear_range(known->blocks[0], 500, 2200);
        g_autoptr(StasisDirty) before = stasis_dirty_new(m.ram);
        g_autoptr(StasisDirty) captured = stasis_dirty_new(m.ram);
        stasis_dirty_or(before, dirty);
        g_autoptr(StasisCapture) capture = NULL;
        g_assert_cmpint(take(&capture, &m, known, room, kind % 4 == 0, dirty, 0), ==, -ENOBUFS);
        stasis_capture_give_back(capture, captured);
        g_assert_cmpuint(stasis_dirty_count(captured), <=, room + stasis_dirty_count(known));
        g_assert_cmpuint(stasis_dirty_count(captured) + stasis_dirty_count(dirty), ==,
                         stasis_dirty_count(before));
        stasis_capture_give_back(capture, dirty);
        assert_same(dirty, before);
    }
    copy_ram_clear(&m);
}

/* Single pages with holes between them can't exhaust the list of runs before the room. */
static void test_many_runs(void)
{
    CopyRam m;
    copy_ram_init(&m, 60000, 1);
    for (guint kind = 0; kind < 2; kind++) {
        g_autoptr(StasisDirty) dirty = stasis_dirty_new(m.ram);
        for (guint64 i = 0; i < 60000; i += 2)
            stasis_bitmap_set_range(dirty->blocks[0], i, 1);
        g_autoptr(StasisDirty) known = know_some(&m, dirty, NULL, kind);
        g_autoptr(StasisCapture) capture = NULL;
        g_assert_cmpint(take(&capture, &m, known, kind ? 0 : 30000, TRUE, dirty, 0), ==, 0);
        g_assert_cmpuint(stasis_dirty_count(dirty), ==, 0);
    }
    copy_ram_clear(&m);
}

/* Out of time, or memory that is gone: an error, after which everything can be marked again. */
static void test_fails(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    CopyRam m;
    make_ram(&m, rand);
    StasisRamBlock *block = g_ptr_array_index(m.ram->blocks, 0);
    close(m.ram->pagemap_fd);
    m.ram->pagemap_fd = -1;
    for (guint kind = 0; kind < 6; kind++) {
        g_autoptr(StasisDirty) dirty = stasis_dirty_new(m.ram);
        g_autoptr(StasisDirty) before = stasis_dirty_new(m.ram);
        mark_randomly(dirty, &m, rand);
        stasis_bitmap_set_range(dirty->blocks[0], 0, 1);
        stasis_dirty_or(before, dirty);
        g_autoptr(StasisDirty) known = know_some(&m, dirty, rand, kind);
        g_autoptr(StasisCapture) capture = NULL;
        block->hva = kind < 3 ? (guint64)m.at[0] : 4096;
        int r = take(&capture, &m, known, N_A + N_B, kind % 2, dirty, kind < 3 ? 1 : 0);
        g_assert_cmpint(r, ==, kind < 3 ? -ETIME : -EFAULT);
        stasis_capture_give_back(capture, dirty);
        assert_same(dirty, before);
    }
    block->hva = (guint64)m.at[0];
    copy_ram_clear(&m);
}

/* Made ready but never used; more memory than there can be; an impatient user. */
static void test_not_taken(void)
{
    g_autoptr(GError) error = NULL;
    CopyRam m;
    copy_ram_init(&m, 500, 500);
    g_autoptr(StasisDirty) known = stasis_dirty_new(m.ram);
    stasis_bitmap_set_range(known->blocks[0], 0, 300);
    for (guint i = 0; i < 20; i++) {
        StasisCapture *capture = stasis_capture_new(m.ram, known, TRUE, 10, &pool, NULL, &error);
        g_assert_no_error(error);
        stasis_capture_free(capture);
    }
    g_assert_null(stasis_capture_new(m.ram, known, TRUE, (guint64)1 << 40, &pool, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_clear_error(&error);
    g_autoptr(GCancellable) cancelled = g_cancellable_new();
    g_cancellable_cancel(cancelled);
    stasis_capture_pool_clear(&pool);
    g_assert_null(stasis_capture_new(m.ram, known, TRUE, 1000, &pool, cancelled, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CANCELLED);
    g_assert_null(pool.memory); /* which would not be touched */
    copy_ram_clear(&m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/copy/capture/moment", test_moment);
    g_test_add_func("/copy/capture/holes", test_holes);
    g_test_add_func("/copy/capture/given-back", test_given_back);
    g_test_add_func("/copy/capture/no-room", test_no_room);
    g_test_add_func("/copy/capture/many-runs", test_many_runs);
    g_test_add_func("/copy/capture/fails", test_fails);
    g_test_add_func("/copy/capture/not-taken", test_not_taken);
    int r = g_test_run();
    stasis_capture_pool_clear(&pool);
    return r;
}
