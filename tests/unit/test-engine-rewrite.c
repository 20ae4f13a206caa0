/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: the pages asked for become the image's and no other does, in shared memory and in
 * private, kept or read again, whatever was there before. */
#include "engine/rollback/rewrite.h"

#include <sys/mman.h>

#include "test-store-util.h"

#define N_PAGES 1400u /* enough for a run of zero pages that becomes a hole */
#define ZERO_FIRST 700u
#define N_ZERO 600u
#define SIZE ((guint64)N_PAGES * STASIS_PAGE_BYTES)

/* This process as the VM: one shared block with a descriptor, one private. */
typedef struct {
    char *path;
    StasisStore *store;
    StasisImageReader *reader;
    StasisRam ram;
    StasisRamBlock blocks[2];
    guint8 *memory[2];
    guint8 *content[2]; /* the image's */
} Fixture;

static void make_content(guint8 *content, guint32 seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    for (guint i = 0; i < N_PAGES; i++)
        if (i < ZERO_FIRST || i >= ZERO_FIRST + N_ZERO)
            memset(content + i * STASIS_PAGE_BYTES, (gint)g_rand_int_range(rand, 0, 256),
                   STASIS_PAGE_BYTES);
}

static void make_image(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(f->store, NULL, &error);
    /* The image's order is not the machine's. */
    const char *const names[] = { "zram", "aram" };
    for (guint b = 0; b < 2; b++)
        stasis_image_writer_add_block(writer, names[b], SIZE, &error);
    for (guint b = 0; b < 2; b++) {
        const guint8 *content = f->content[1 - b];
        for (guint page = 0, n; page < N_PAGES; page += n) {
            n = MIN(N_PAGES - page, STASIS_EXTENT_PAGES);
            gboolean zero = page == ZERO_FIRST;
            n = zero ? N_ZERO : page < ZERO_FIRST ? MIN(n, ZERO_FIRST - page) : n;
            test_add(writer, b, page, n, zero ? STASIS_STORED_ZERO : STASIS_STORED_LZ4,
                     content + page * STASIS_PAGE_BYTES, &error);
            g_assert_no_error(error);
        }
    }
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    f->reader = stasis_image_reader_open(f->store, info->id, &error);
    g_assert_no_error(error);
}

static void set_up(Fixture *f, gconstpointer data)
{
    f->store = test_make_store(&f->path);
    f->ram.pid = getpid();
    f->ram.pagemap_fd = -1;
    f->ram.total_bytes = 2 * SIZE;
    f->ram.blocks = g_ptr_array_new();
    for (guint i = 0; i < 2; i++) {
        gboolean shared = i == 0;
        int fd = shared ? memfd_create("ram", MFD_CLOEXEC) : -1;
        g_assert_true(!shared || ftruncate(fd, SIZE) == 0);
        f->memory[i] = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
                            shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
        f->blocks[i] = (StasisRamBlock){
            .name = (char *)(shared ? "aram" : "zram"),
            .hva = (guint64)(gsize)f->memory[i],
            .size_bytes = SIZE,
            .max_bytes = SIZE,
            .page_bytes = STASIS_PAGE_BYTES,
            .backing = shared ? STASIS_BACKING_MEMFD : STASIS_BACKING_ANONYMOUS,
            .shared = shared,
            .fd = fd,
            .source_fd = -1,
        };
        g_ptr_array_add(f->ram.blocks, &f->blocks[i]);
        f->content[i] = g_malloc0(SIZE);
        make_content(f->content[i], i + 1);
    }
    make_image(f);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    stasis_image_reader_free(f->reader);
    stasis_store_unref(f->store);
    test_remove_tree(f->path);
    g_free(f->path);
    g_ptr_array_unref(f->ram.blocks);
    for (guint i = 0; i < 2; i++) {
        munmap(f->memory[i], SIZE);
        g_free(f->content[i]);
    }
    close(f->blocks[0].fd);
}

static StasisRewrite *new_rewrite(Fixture *f, guint64 cache_bytes)
{
    g_autoptr(GError) error = NULL;
    StasisRewrite *rewrite = stasis_rewrite_new(&f->ram, f->reader, cache_bytes, &error);
    g_assert_no_error(error);
    return rewrite;
}

static const guint8 *page_of(guint8 *const *memory, guint i)
{
    return memory[i / N_PAGES] + (gsize)(i % N_PAGES) * STASIS_PAGE_BYTES;
}

/* Random pages are asked for, time and again; all others must stay as they are. */
static void put_random(Fixture *f, guint64 cache_bytes, gboolean prefetch, gboolean compare)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    g_autoptr(StasisRewrite) rewrite = new_rewrite(f, cache_bytes);
    g_autoptr(StasisDirty) pages = stasis_dirty_new(&f->ram);
    for (guint round = 0; round < 5; round++) {
        guint64 written = 0;
        stasis_dirty_clear(pages);
        for (guint i = 0; i < 2; i++)
            memset(f->memory[i], 0xee, SIZE);
        for (guint i = 0; i < 2 * N_PAGES; i++)
            if (g_rand_boolean(rand) || (round == 4 && i % N_PAGES >= ZERO_FIRST))
                stasis_bitmap_set_range(pages->blocks[i / N_PAGES], i % N_PAGES, 1);
        guint64 n_read = 0;
        if (prefetch)
            stasis_rewrite_prefetch(rewrite, pages, &n_read, &error);
        g_assert_no_error(error);
        if (prefetch && round == 0)
            g_assert_cmpuint(n_read, >, 500);
        stasis_rewrite_put(rewrite, pages, compare, &written, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(written, <=, stasis_dirty_count(pages));
        g_assert_cmpuint(written, >, stasis_dirty_count(pages) * 9 / 10);
        for (guint i = 0; i < 2 * N_PAGES; i++) {
            const guint8 *now = page_of(f->memory, i), *image = page_of(f->content, i);
            gboolean asked = stasis_bitmap_test(pages->blocks[i / N_PAGES], i % N_PAGES);
            if (asked)
                g_assert_cmpint(memcmp(now, image, STASIS_PAGE_BYTES), ==, 0);
            else
                g_assert_true(now[0] == 0xee && now[STASIS_PAGE_BYTES - 1] == 0xee);
        }
    }
}

static void test_put(Fixture *f, gconstpointer data)
{
    put_random(f, 64 << 20, TRUE, FALSE);
    put_random(f, 64 << 20, FALSE, FALSE);
    put_random(f, 0, TRUE, FALSE);
    put_random(f, 300 * STASIS_PAGE_BYTES, TRUE, FALSE);
    put_random(f, 64 << 20, TRUE, TRUE);
}

/* Comparing finds what differs and nothing else, and makes no memory where there is none. */
static void test_compare(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisRewrite) rewrite = new_rewrite(f, 64 << 20);
    g_autoptr(StasisDirty) differs = stasis_dirty_new(&f->ram);
    for (guint i = 0; i < 2; i++)
        for (guint page = 0; page < N_PAGES; page++)
            if (page < ZERO_FIRST || page >= ZERO_FIRST + N_ZERO)
                memcpy(f->memory[i] + page * STASIS_PAGE_BYTES,
                       f->content[i] + page * STASIS_PAGE_BYTES, STASIS_PAGE_BYTES);
    struct stat before, after;
    fstat(f->blocks[0].fd, &before);
    stasis_rewrite_compare(rewrite, differs, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stasis_dirty_count(differs), ==, 0);
    fstat(f->blocks[0].fd, &after);
    g_assert_cmpint(before.st_blocks, ==, after.st_blocks);
    const guint changed[] = { 0, 255, 256, ZERO_FIRST + 3, N_PAGES - 1 };
    for (guint i = 0; i < G_N_ELEMENTS(changed); i++)
        f->memory[i % 2][changed[i] * STASIS_PAGE_BYTES + 17] ^= 1;
    stasis_rewrite_compare(rewrite, differs, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stasis_dirty_count(differs), ==, G_N_ELEMENTS(changed));
    for (guint i = 0; i < G_N_ELEMENTS(changed); i++)
        g_assert_true(stasis_bitmap_test(differs->blocks[i % 2], changed[i]));
}

/* A long run of zero pages gives its memory back. */
static void test_hole(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisRewrite) rewrite = new_rewrite(f, 64 << 20);
    g_autoptr(StasisDirty) pages = stasis_dirty_new(&f->ram);
    struct stat st;
    guint64 written;
    memset(f->memory[0], 0xee, SIZE);
    stasis_dirty_set_all(pages);
    stasis_rewrite_prefetch(rewrite, pages, NULL, &error);
    stasis_rewrite_put(rewrite, pages, FALSE, &written, &error);
    g_assert_no_error(error);
    fstat(f->blocks[0].fd, &st); /* before anything is read: that would make pages again */
    g_assert_cmpint(st.st_blocks * 512, <=, (N_PAGES - N_ZERO) * STASIS_PAGE_BYTES);
    g_assert_cmpmem(f->memory[0], SIZE, f->content[0], SIZE);
    /* The private block is written through QEMU, the shared one is not. */
    g_assert_true(stasis_rewrite_is_tracked(rewrite, pages));
    stasis_bitmap_clear(pages->blocks[1]);
    g_assert_false(stasis_rewrite_is_tracked(rewrite, pages));
}

static void test_refusal(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    f->blocks[1].size_bytes = f->blocks[1].max_bytes = SIZE - STASIS_PAGE_BYTES;
    g_assert_null(stasis_rewrite_new(&f->ram, f->reader, 0, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(error->message, "zram"));
    g_clear_error(&error);
    g_ptr_array_set_size(f->ram.blocks, 1);
    g_assert_null(stasis_rewrite_new(&f->ram, f->reader, 0, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/engine/rewrite/" name, Fixture, NULL, set_up, func, tear_down)
    ADD("put", test_put);
    ADD("compare", test_compare);
    ADD("hole", test_hole);
    ADD("refusal", test_refusal);
    return g_test_run();
}
