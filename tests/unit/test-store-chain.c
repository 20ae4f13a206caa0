/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: every image of a chain reads back exactly what was written last, however it overlaps. */
#include <errno.h>
#include <fcntl.h>
#include <stasis/store.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"
#include "test-store-util.h"

#define CHAIN 3u
#define N_BLOCKS 2u
#define MAX_PAGES 150u

/* RAM in memory, and its images. The second block ends within a page. */
typedef struct {
    GRand *rand;
    guint64 size[N_BLOCKS];
    guint n_pages[N_BLOCKS];
    guint8 *now[N_BLOCKS];
    guint8 *at[CHAIN][N_BLOCKS];
    char *id[CHAIN];
} Model;

static guint below(Model *model, guint n)
{
    return (guint)g_rand_int_range(model->rand, 0, (gint32)n);
}

static void model_init(Model *model, guint32 seed)
{
    memset(model, 0, sizeof(*model));
    model->rand = g_rand_new_with_seed(seed);
    for (guint b = 0; b < N_BLOCKS; b++) {
        model->n_pages[b] = 1 + below(model, MAX_PAGES);
        model->size[b] = (guint64)model->n_pages[b] * STASIS_PAGE_BYTES;
        model->now[b] = g_malloc0(model->size[b]);
    }
    model->size[1] -= below(model, STASIS_PAGE_BYTES);
}

static void model_clear(Model *model)
{
    g_rand_free(model->rand);
    for (guint b = 0; b < N_BLOCKS; b++)
        g_free(model->now[b]);
    for (guint i = 0; i < CHAIN; i++) {
        g_free(model->id[i]);
        for (guint b = 0; b < N_BLOCKS; b++)
            g_free(model->at[i][b]);
    }
}

static void write_random_extent(Model *model, StasisImageWriter *writer)
{
    g_autoptr(GError) error = NULL;
    guint b = below(model, N_BLOCKS), first = below(model, model->n_pages[b]);
    guint n = 1 + below(model, MIN(model->n_pages[b] - first, STASIS_EXTENT_PAGES));
    StasisStoredAs as = below(model, 4);
    if (as == STASIS_STORED_ZERO)
        n = 1 + below(model, model->n_pages[b] - first);
    guint8 *ram = model->now[b] + (size_t)first * STASIS_PAGE_BYTES;
    memset(ram, 0, (size_t)n * STASIS_PAGE_BYTES);
    for (guint i = 0; as != STASIS_STORED_ZERO && i < 40 * n; i++)
        ram[below(model, n * STASIS_PAGE_BYTES)] = (guint8)below(model, 256);
    /* What lies behind the block's end belongs to nobody: written with rubbish, read as zero. */
    test_add(writer, b, first, n, as, ram, &error);
    g_assert_no_error(error);
    memset(model->now[b] + model->size[b], 0,
           (size_t)model->n_pages[b] * STASIS_PAGE_BYTES - model->size[b]);
}

static void write_image(Model *model, StasisStore *store, guint layer)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer =
        stasis_image_writer_new(store, layer > 0 ? model->id[layer - 1] : NULL, &error);
    g_assert_no_error(error);
    for (guint b = 0; b < N_BLOCKS; b++) {
        const char *name = b == 0 ? "pc.ram" : "/rom@etc/acpi/tables";
        g_assert_cmpint(stasis_image_writer_add_block(writer, name, model->size[b], &error), ==, b);
    }
    for (guint b = 0; layer == 0 && b < N_BLOCKS; b++)
        test_add(writer, b, 0, model->n_pages[b], STASIS_STORED_ZERO, NULL, &error);
    g_assert_no_error(error);
    guint n = below(model, 60);
    for (guint i = 0; i < n; i++)
        write_random_extent(model, writer);
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    model->id[layer] = g_strdup(info->id);
    for (guint b = 0; b < N_BLOCKS; b++)
        model->at[layer][b] =
            g_memdup2(model->now[b], (size_t)model->n_pages[b] * STASIS_PAGE_BYTES);
}

static void check_block(Model *model, StasisImageReader *reader, guint layer, guint b)
{
    g_autoptr(GError) error = NULL;
    guint n_pages = model->n_pages[b];
    const guint8 *expected = model->at[layer][b];
    size_t len = (size_t)n_pages * STASIS_PAGE_BYTES;
    g_autofree guint8 *data = g_malloc(len);
    stasis_image_reader_read_pages(reader, b, 0, n_pages, data, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(data, len, expected, len);
    for (guint i = 0; i < 10; i++) {
        guint first = below(model, n_pages), n = 1 + below(model, n_pages - first);
        stasis_image_reader_read_pages(reader, b, first, n, data, &error);
        g_assert_no_error(error);
        g_assert_cmpint(memcmp(data, expected + (size_t)first * STASIS_PAGE_BYTES,
                               (size_t)n * STASIS_PAGE_BYTES),
                        ==, 0);
    }
    guint64 run;
    for (guint64 page = 0; page < n_pages; page += run) {
        gboolean zero;
        stasis_image_reader_locate(reader, b, page, &run, &zero, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(run, >, 0);
        g_assert_cmpuint(page + run, <=, n_pages);
        for (guint64 i = page * STASIS_PAGE_BYTES; zero && i < (page + run) * STASIS_PAGE_BYTES;
             i++)
            g_assert_cmpuint(expected[i], ==, 0);
    }
    gboolean zero;
    g_assert_false(stasis_image_reader_locate(reader, b, n_pages, &run, &zero, NULL));
    g_assert_false(stasis_image_reader_read_pages(reader, b, n_pages - 1, 2, data, NULL));
    g_assert_false(stasis_image_reader_read_pages(reader, b, 1, G_MAXUINT64, data, NULL));
}

static void test_random_chains(void)
{
    g_autofree char *path = NULL;
    StasisStore *store = test_make_store(&path);
    guint n = g_test_thorough() ? 2000 : 200;
    for (guint seed = 0; seed < n; seed++) {
        g_autoptr(GError) error = NULL;
        Model model;
        model_init(&model, seed);
        for (guint layer = 0; layer < CHAIN; layer++)
            write_image(&model, store, layer);
        for (guint layer = 0; layer < CHAIN; layer++) {
            g_autoptr(StasisImageReader) reader =
                stasis_image_reader_open(store, model.id[layer], &error);
            g_assert_no_error(error);
            for (guint b = 0; b < N_BLOCKS; b++)
                check_block(&model, reader, layer, b);
        }
        stasis_store_verify(store, model.id[CHAIN - 1], NULL, NULL, NULL, &error);
        g_assert_no_error(error);
        for (guint layer = CHAIN; layer > 0; layer--)
            stasis_store_delete(store, model.id[layer - 1], &error);
        g_assert_no_error(error);
        model_clear(&model);
    }
    g_assert_cmpuint(test_count(store), ==, 0);
    stasis_store_unref(store);
    test_remove_tree(path);
}

/* Where reading fails, if not 0. */
static off_t unreadable;

/* In the place of the C library's. */
ssize_t pread(int fd, void *buf, size_t len, off_t offset)
{
    if (unreadable != 0 && unreadable >= offset && unreadable < offset + (off_t)len) {
        errno = EIO;
        return -1;
    }
    return pread64(fd, buf, len, offset);
}

/* An image whose parts of RAM were rewritten many times gives the dead bytes back to the disk. */
static void test_dead_bytes(void)
{
    g_autofree char *path = NULL;
    StasisStore *store = test_make_store(&path);
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, &error);
    g_assert_no_error(error);
    stasis_image_writer_add_block(writer, "ram", STASIS_EXTENT_BYTES, &error);
    g_autofree guint8 *plain = g_malloc(STASIS_EXTENT_BYTES);
    for (guint i = 0; i < 64; i++) {
        test_fill(plain, STASIS_EXTENT_BYTES, i);
        test_add(writer, 0, 0, STASIS_EXTENT_PAGES, STASIS_STORED_RAW, plain, &error);
        g_assert_no_error(error);
    }
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(info->data_pages, ==, STASIS_EXTENT_PAGES);
    g_assert_cmpuint(info->stored_bytes, <, 2 * STASIS_EXTENT_BYTES);
    g_autofree char *pages = g_build_filename(path, "images", info->id, "pages", NULL);
    struct stat st;
    g_assert_cmpint(stat(pages, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 64 * STASIS_EXTENT_BYTES);
    g_assert_cmpint(st.st_blocks * 512, <, 4 * STASIS_EXTENT_BYTES);
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, info->id, &error);
    g_autofree guint8 *data = g_malloc(STASIS_EXTENT_BYTES);
    stasis_image_reader_read_pages(reader, 0, 0, STASIS_EXTENT_PAGES, data, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(data, STASIS_EXTENT_BYTES, plain, STASIS_EXTENT_BYTES);
    /* A bit that flips where nothing is any more is found too. */
    g_assert_true(stasis_store_verify(store, info->id, NULL, NULL, NULL, &error));
    stasis_autofd int fd = open(pages, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(stasis_pwrite_all(fd, "\1", 1, 12345), ==, 0);
    g_assert_false(stasis_store_verify(store, info->id, NULL, NULL, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_clear_error(&error);
    /* What can't be read is no such bit. */
    unreadable = 12345;
    g_assert_false(stasis_store_verify(store, info->id, NULL, NULL, NULL, &error));
    unreadable = 0;
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, g_strerror(EIO)));
    stasis_store_unref(store);
    test_remove_tree(path);
}

/* Of all extents that some record is of, each once. */
static guint64 live_bytes(const StasisLayer *layer)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    guint64 bytes = 0;
    for (guint b = 0; b < layer->manifest->blocks->len; b++)
        for (guint64 i = 0; i < layer->index.blocks[b].n_records; i++) {
            const StasisIndexRecord *r =
                &layer->index.records[layer->index.blocks[b].first_record + i];
            if (r->stored_len > 0 && g_hash_table_add(seen, GSIZE_TO_POINTER(r->offset + 1)))
                bytes += r->stored_len;
        }
    return bytes;
}

/* Far more extents than pages, as a stream may have them: neither memory nor the disk grows with
 * that, and the last of each page counts. */
static void test_many_extents(void)
{
    g_autofree char *path = NULL;
    StasisStore *store = test_make_store(&path);
    g_autoptr(GError) error = NULL;
    Model model;
    model_init(&model, 9);
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, &error);
    g_assert_no_error(error);
    for (guint b = 0; b < N_BLOCKS; b++)
        stasis_image_writer_add_block(writer, b == 0 ? "a" : "b", model.size[b], &error);
    for (guint b = 0; b < N_BLOCKS; b++)
        test_add(writer, b, 0, model.n_pages[b], STASIS_STORED_ZERO, NULL, &error);
    g_assert_no_error(error);
    guint most = 0;
    guint64 most_bytes = 0;
    for (guint i = 0; i < 15000; i++) {
        struct stat st;
        write_random_extent(&model, writer);
        most = MAX(most, writer->records->len);
        g_assert_cmpint(fstat(writer->pages_fd, &st), ==, 0);
        most_bytes = MAX(most_bytes, (guint64)st.st_blocks * 512);
    }
    g_assert_cmpuint(most, <, 5000);
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    g_test_message("%u records, %" G_GUINT64_FORMAT " KiB", most, most_bytes >> 10);
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, info->id, &error);
    g_assert_no_error(error);
    model.id[0] = g_strdup(info->id);
    for (guint b = 0; b < N_BLOCKS; b++) {
        gsize len = (gsize)model.n_pages[b] * STASIS_PAGE_BYTES;
        model.at[0][b] = g_memdup2(model.now[b], len);
        check_block(&model, reader, 0, b);
    }
    /* What is dead is zero, and counted. */
    g_assert_true(stasis_store_verify(store, info->id, NULL, NULL, NULL, &error));
    g_autoptr(StasisLayer) layer = stasis_layer_open(store, info->id, &error);
    g_assert_no_error(error);
    const StasisDataFile *data = &layer->manifest->data[0];
    g_assert_cmpuint(data->dead_bytes + live_bytes(layer), ==, data->size);
    g_assert_cmpuint(data->hole_bytes, <=, data->dead_bytes);
    g_assert_cmpuint(most_bytes, <, data->size / 2);
    model_clear(&model);
    stasis_store_unref(store);
    test_remove_tree(path);
}

#define N_THREADS 4u
#define PER_THREAD 1024u

typedef struct {
    StasisImageWriter *writer;
    guint number;
} Job;

static void fill_extent(guint8 *plain, guint number)
{
    for (guint i = 0; i < STASIS_EXTENT_BYTES / 4; i++)
        ((guint32 *)(void *)plain)[i] = number * 2654435761u + i / 5;
}

static gpointer add_extents(gpointer data)
{
    Job *job = data;
    g_autofree guint8 *plain = g_malloc(STASIS_EXTENT_BYTES);
    for (guint i = 0; i < PER_THREAD; i++) {
        guint extent = i * N_THREADS + job->number;
        fill_extent(plain, extent);
        g_autoptr(GError) error = NULL;
        test_add(job->writer, 0, (guint64)extent * STASIS_EXTENT_PAGES, STASIS_EXTENT_PAGES,
                 STASIS_STORED_RAW, plain, &error);
        g_assert_no_error(error);
    }
    return NULL;
}

static void test_threads(void)
{
    g_autofree char *path = NULL;
    StasisStore *store = test_make_store(&path);
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, &error);
    g_assert_no_error(error);
    guint64 size = (guint64)N_THREADS * PER_THREAD * STASIS_EXTENT_BYTES;
    stasis_image_writer_add_block(writer, "ram", size, &error);
    Job jobs[N_THREADS];
    GThread *threads[N_THREADS];
    guint64 start = stasis_now_us();
    for (guint i = 0; i < N_THREADS; i++) {
        jobs[i] = (Job){ writer, i };
        threads[i] = g_thread_new("add", add_extents, &jobs[i]);
    }
    for (guint i = 0; i < N_THREADS; i++)
        g_thread_join(threads[i]);
    guint64 added = stasis_now_us();
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    guint64 committed = stasis_now_us();
    g_assert_cmpuint(info->data_pages, ==, size / STASIS_PAGE_BYTES);
    stasis_store_verify(store, info->id, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    guint64 verified = stasis_now_us();
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, info->id, &error);
    g_autofree guint8 *plain = g_malloc(STASIS_EXTENT_BYTES);
    g_autofree guint8 *data = g_malloc(STASIS_EXTENT_BYTES);
    for (guint i = 0; i < N_THREADS * PER_THREAD; i++) {
        fill_extent(plain, i);
        stasis_image_reader_read_pages(reader, 0, (guint64)i * STASIS_EXTENT_PAGES,
                                       STASIS_EXTENT_PAGES, data, &error);
        g_assert_no_error(error);
        g_assert_cmpmem(data, STASIS_EXTENT_BYTES, plain, STASIS_EXTENT_BYTES);
    }
    double n = N_THREADS * PER_THREAD;
    g_test_message("raw 64 KiB extents: add %.0f/s (%.0f MiB/s), commit %.1f ms, verify %.0f/s",
                   n * 1e6 / (double)(added - start), n / 16 * 1e6 / (double)(added - start),
                   (double)(committed - added) / 1e3, n * 1e6 / (double)(verified - committed));
    stasis_store_unref(store);
    test_remove_tree(path);
}

static void test_refusals(void)
{
    g_autofree char *path = NULL;
    StasisStore *store = test_make_store(&path);
    g_autoptr(GError) error = NULL;
    g_autofree char *base = test_small_image(store, NULL, 1, &error);
    g_assert_no_error(error);
    guint8 page[STASIS_PAGE_BYTES] = { 1 };

    g_autoptr(StasisImageWriter) on_top = stasis_image_writer_new(store, base, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stasis_image_writer_add_block(on_top, "pc.ram", 4096, NULL), ==, -1);
    g_assert_cmpint(stasis_image_writer_add_block(on_top, "vga", TEST_PAGES * 4096, NULL), ==, -1);
    test_add_parts(on_top);
    g_assert_null(stasis_image_writer_commit(on_top, NULL));
    g_clear_pointer(&on_top, stasis_image_writer_free);

    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stasis_image_writer_add_block(writer, "a", 0, NULL), ==, -1);
    g_assert_cmpint(stasis_image_writer_add_block(writer, "a", 3 * 4096, NULL), ==, 0);
    g_assert_cmpint(stasis_image_writer_add_block(writer, "a", 3 * 4096, NULL), ==, -1);
    StasisStoredAs raw = STASIS_STORED_RAW;
    g_assert_false(stasis_image_writer_add_extent(writer, 1, 0, 1, raw, page, 4096, NULL));
    g_assert_false(stasis_image_writer_add_extent(writer, 0, 3, 1, raw, page, 4096, NULL));
    g_assert_false(stasis_image_writer_add_extent(writer, 0, 2, G_MAXUINT64, 0, NULL, 0, NULL));
    g_assert_false(stasis_image_writer_add_extent(writer, 0, 0, 1, raw, page, 4095, NULL));
    g_assert_false(stasis_image_writer_add_extent(writer, 0, 0, 1, 9, page, 4096, NULL));
    g_assert_true(stasis_image_writer_add_extent(writer, 0, 0, 2, 0, NULL, 0, NULL));
    g_assert_null(stasis_image_writer_commit(writer, &error)); /* no parts */
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_clear_error(&error);
    test_add_parts(writer);
    g_assert_null(stasis_image_writer_commit(writer, &error)); /* page 2 is missing */
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_clear_pointer(&writer, stasis_image_writer_free);
    g_assert_cmpuint(test_count(store), ==, 1);
    g_assert_cmpuint(test_count_tmp(path), ==, 0);
    stasis_store_unref(store);
    test_remove_tree(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store/chain/random", test_random_chains);
    g_test_add_func("/store/chain/dead-bytes", test_dead_bytes);
    g_test_add_func("/store/chain/many-extents", test_many_extents);
    g_test_add_func("/store/chain/threads", test_threads);
    g_test_add_func("/store/chain/refusals", test_refusals);
    return g_test_run();
}
