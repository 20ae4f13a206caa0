/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: whatever pages go into the pipeline, through whichever codec and however many threads,
 * come back from the image byte for byte; a failure is told, and nothing that was handed over is
 * kept or forgotten. */
#include "copy/pipeline.h"

#include <stasis/error.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/fd.h"
#include "test-copy-ram.h"

#define N_A 777u
#define N_B 333u

static guint below(GRand *rand, guint n)
{
    return (guint)g_rand_int_range(rand, 0, (gint32)n);
}

typedef struct {
    gint n_done;
} Owner;

static void count_done(gpointer owner)
{
    g_atomic_int_inc(&((Owner *)owner)->n_done);
}

/* Push all of @block once, in runs of all lengths and kinds: read from the guest, captured by one
 * way or the other. Returns how many of them are captured. */
static gint push_all(StasisPipeline *pipeline, CopyRam *m, guint block, GRand *rand, Owner *owner,
                     GPtrArray *captured)
{
    gint n_captured = 0;
    for (guint64 first = 0, n; first < m->n_pages[block]; first += n) {
        n = 1 + below(rand, below(rand, 4) == 0 ? 300 : 20);
        n = MIN(n, m->n_pages[block] - first);
        StasisPageRun run = { .block = block, .first_page = first, .n_pages = n };
        guint kind = below(rand, 3);
        if (kind > 0) {
            gsize len = n * STASIS_PAGE_BYTES;
            guint8 *copy = g_memdup2(m->at[block] + first * STASIS_PAGE_BYTES, len);
            if (block == 1 && first + n == N_B)
                memset(copy + len - 1000, 0, 1000);
            g_ptr_array_add(captured, copy);
            run.data = copy;
            run.done = count_done;
            run.owner = owner;
            n_captured++;
        }
        (kind == 2 ? stasis_pipeline_push_now : stasis_pipeline_push)(pipeline, &run);
    }
    return n_captured;
}

static void test_roundtrip(gconstpointer data)
{
    StasisCodec codec = (StasisCodec)GPOINTER_TO_INT(data);
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autoptr(GRand) rand = g_rand_new_with_seed(3 + (guint32)codec);
    for (guint round = 0; round < 6; round++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GPtrArray) captured = g_ptr_array_new_with_free_func(g_free);
        CopyRam m;
        Owner owner = { 0 };
        copy_ram_init(&m, N_A, N_B);
        copy_fill(&m, 0, below(rand, 400), 1 + below(rand, N_A - 400), rand);
        copy_fill(&m, 1, 0, N_B, rand);
        g_autoptr(StasisImageWriter) writer = copy_writer(store, NULL, m.ram);
        StasisPipeline *pipeline = stasis_pipeline_new(m.ram, writer, codec, round);
        gint n = 0;
        for (guint b = 0; b < COPY_BLOCKS; b++)
            n += push_all(pipeline, &m, b, rand, &owner, captured);
        stasis_pipeline_drain(pipeline, &error);
        g_assert_no_error(error);
        g_assert_cmpint(owner.n_done, ==, n);
        g_assert_cmpuint(stasis_pipeline_get_bytes(pipeline), ==, (N_A + N_B) * STASIS_PAGE_BYTES);
        /* Some change and are pushed again: what is pushed later wins. */
        for (guint i = 0; i < 10; i++) {
            guint b = below(rand, 2), first = below(rand, (guint)m.n_pages[b]);
            guint len = 1 + below(rand, MIN(40, (guint)m.n_pages[b] - first));
            copy_fill(&m, b, first, len, rand);
            if (i == 5) {
                memset(m.at[b] + first * STASIS_PAGE_BYTES, 0, len * STASIS_PAGE_BYTES);
                stasis_pipeline_push_zero(pipeline, b, first, len, &error);
            } else {
                StasisPageRun run = { .block = b, .first_page = first, .n_pages = len };
                stasis_pipeline_push(pipeline, &run);
            }
            g_assert_true(stasis_pipeline_drain(pipeline, &error));
            g_assert_no_error(error);
        }
        stasis_pipeline_free(pipeline);
        g_autofree char *id = copy_commit(store, writer);
        copy_assert_image(store, id, &m);
        copy_ram_clear(&m);
    }
    test_remove_tree(path);
}

/* Zero pages take no room, and pages that no codec makes smaller little more than themselves. */
static void test_size(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    guint64 bytes[3];
    for (guint kind = 0; kind < 3; kind++) {
        g_autoptr(GError) error = NULL;
        CopyRam m;
        copy_ram_init(&m, 4096, 1);
        for (guint64 i = 0; kind > 0 && i < 4096; i++) {
            guint8 *page = m.at[0] + i * STASIS_PAGE_BYTES;
            if (kind == 2)
                test_fill(page, STASIS_PAGE_BYTES, (guint32)i);
            else
                memset(page, 7, STASIS_PAGE_BYTES);
        }
        g_autoptr(StasisImageWriter) writer = copy_writer(store, NULL, m.ram);
        g_autoptr(StasisPipeline) pipeline =
            stasis_pipeline_new(m.ram, writer, STASIS_CODEC_LZ4, 2);
        for (guint b = 0; b < COPY_BLOCKS; b++)
            stasis_pipeline_push(pipeline, &(StasisPageRun){ .block = b, .n_pages = m.n_pages[b] });
        g_assert_true(stasis_pipeline_drain(pipeline, &error));
        g_autofree char *id = copy_commit(store, writer);
        g_autoptr(StasisImageInfo) info = stasis_store_get_image(store, id, &error);
        bytes[kind] = info->stored_bytes;
        g_assert_cmpuint(info->zero_pages, ==, kind == 0 ? 4097 : 1);
        copy_ram_clear(&m);
    }
    g_test_message("%" G_GUINT64_FORMAT " zero, %" G_GUINT64_FORMAT " alike, %" G_GUINT64_FORMAT
                   " random",
                   bytes[0], bytes[1], bytes[2]);
    g_assert_cmpuint(bytes[0], <, 4096);
    g_assert_cmpuint(bytes[1], <, 4096 * STASIS_PAGE_BYTES / 20);
    g_assert_cmpuint(bytes[2], <, 4096 * STASIS_PAGE_BYTES / 50 * 51);
    test_remove_tree(path);
}

/* Memory that can't be read: the block is named, whatever comes after is dropped, and captured
 * pages are given back all the same. */
static void test_unreadable(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autoptr(GError) error = NULL;
    CopyRam m;
    Owner owner = { 0 };
    copy_ram_init(&m, N_A, N_B);
    g_autoptr(StasisImageWriter) writer = copy_writer(store, NULL, m.ram);
    g_autoptr(StasisPipeline) pipeline = stasis_pipeline_new(m.ram, writer, STASIS_CODEC_LZ4, 2);
    StasisRamBlock *block = g_ptr_array_index(m.ram->blocks, 0);
    guint64 hva = block->hva;
    block->hva = 4096; /* nothing is mapped there */
    stasis_clear_fd(&m.ram->pagemap_fd);
    stasis_pipeline_push(pipeline, &(StasisPageRun){ .block = 0, .n_pages = 5 });
    g_assert_false(stasis_pipeline_drain(pipeline, &error));
    g_assert_nonnull(strstr(error->message, "RAM block a"));
    g_assert_true(stasis_pipeline_has_failed(pipeline));
    block->hva = hva;
    StasisPageRun run = {
        .block = 1, .n_pages = 1, .data = m.at[1], .done = count_done, .owner = &owner
    };
    for (guint i = 0; i < 600; i++)
        (i % 2 ? stasis_pipeline_push_now : stasis_pipeline_push)(pipeline, &run);
    g_clear_error(&error);
    g_assert_false(stasis_pipeline_drain(pipeline, &error));
    g_assert_nonnull(strstr(error->message, "RAM block a"));
    g_assert_cmpint(owner.n_done, ==, 600);
    copy_ram_clear(&m);
    test_remove_tree(path);
}

/* A disk that is full in the middle. */
static void test_disk_full(void)
{
    if (!g_test_subprocess()) {
        g_test_trap_subprocess(NULL, 0, 0);
        g_test_trap_assert_passed();
        return;
    }
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autoptr(GError) error = NULL;
    CopyRam m;
    Owner owner = { 0 };
    copy_ram_init(&m, N_A, N_B);
    test_fill(m.at[0], N_A * STASIS_PAGE_BYTES, 1);
    g_autoptr(StasisImageWriter) writer = copy_writer(store, NULL, m.ram);
    g_autoptr(StasisPipeline) pipeline = stasis_pipeline_new(m.ram, writer, STASIS_CODEC_ZSTD, 3);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = { 1 << 20, 1 << 20 };
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    for (guint i = 0; i < N_A; i++)
        stasis_pipeline_push(pipeline, &(StasisPageRun){ .first_page = i,
                                                         .n_pages = 1,
                                                         .data = m.at[0] + i * STASIS_PAGE_BYTES,
                                                         .done = count_done,
                                                         .owner = &owner });
    g_assert_false(stasis_pipeline_drain(pipeline, &error));
    g_assert_nonnull(error);
    g_assert_cmpint(owner.n_done, ==, N_A);
    test_add_parts(writer);
    g_clear_error(&error);
    g_assert_null(stasis_image_writer_commit(writer, &error));
    g_assert_nonnull(error);
    g_assert_cmpuint(test_count(store), ==, 0);
    copy_ram_clear(&m);
    test_remove_tree(path);
}

/* ---- nobody who may not wait waits ---- */

typedef struct {
    gint entered, leave, n_done;
} Gate;

static void wait_at_gate(gpointer owner)
{
    Gate *gate = owner;
    g_atomic_int_inc(&gate->n_done);
    g_atomic_int_set(&gate->entered, TRUE);
    while (!g_atomic_int_get(&gate->leave))
        g_usleep(100);
}

typedef struct {
    StasisPipeline *pipeline;
    StasisPageRun run;
    gint n_pushed;
} Pusher;

static gpointer push_many(gpointer data)
{
    Pusher *pusher = data;
    for (guint i = 0; i < 2000; i++) {
        stasis_pipeline_push(pusher->pipeline, &pusher->run);
        g_atomic_int_inc(&pusher->n_pushed);
    }
    return NULL;
}

static void test_queue(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autoptr(GError) error = NULL;
    CopyRam m;
    Gate gate = { 0 };
    copy_ram_init(&m, N_A, N_B);
    g_autoptr(StasisImageWriter) writer = copy_writer(store, NULL, m.ram);
    g_autoptr(StasisPipeline) pipeline = stasis_pipeline_new(m.ram, writer, STASIS_CODEC_LZ4, 1);
    StasisPageRun run = { .n_pages = 1, .data = m.at[0], .done = wait_at_gate, .owner = &gate };
    stasis_pipeline_push(pipeline, &run);
    guint64 deadline = stasis_now_us() + 120000000;
    while (!g_atomic_int_get(&gate.entered))
        g_assert_cmpuint(stasis_now_us(), <, deadline);
    /* The one thread stands at the gate: push() waits for room, push_now() doesn't. */
    Pusher pusher = { pipeline, { .n_pages = 1 }, 0 };
    GThread *thread = g_thread_new("push", push_many, &pusher);
    gint before = -1;
    while (before != g_atomic_int_get(&pusher.n_pushed)) {
        before = g_atomic_int_get(&pusher.n_pushed);
        g_usleep(100000);
    }
    g_assert_cmpint(before, <, 2000);
    for (guint i = 0; i < 3000; i++)
        stasis_pipeline_push_now(pipeline, &run);
    g_atomic_int_set(&gate.leave, TRUE);
    g_thread_join(thread);
    g_assert_true(stasis_pipeline_drain(pipeline, &error));
    g_assert_cmpint(pusher.n_pushed, ==, 2000);
    g_assert_cmpint(gate.n_done, ==, 3001);
    copy_ram_clear(&m);
    test_remove_tree(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/copy/pipeline/lz4", GINT_TO_POINTER(STASIS_CODEC_LZ4), test_roundtrip);
    g_test_add_data_func("/copy/pipeline/zstd", GINT_TO_POINTER(STASIS_CODEC_ZSTD), test_roundtrip);
    g_test_add_data_func("/copy/pipeline/none", GINT_TO_POINTER(STASIS_CODEC_NONE), test_roundtrip);
    g_test_add_func("/copy/pipeline/size", test_size);
    g_test_add_func("/copy/pipeline/unreadable", test_unreadable);
    g_test_add_func("/copy/pipeline/disk-full", test_disk_full);
    g_test_add_func("/copy/pipeline/queue", test_queue);
    return g_test_run();
}
