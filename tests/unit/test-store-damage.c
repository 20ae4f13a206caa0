/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: any flipped bit and any truncation of an image's files is found, and never crashes us.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/io.h"
#include "test-store-util.h"

static const char *const files[] = { "manifest.json", "index", "pages", "vmstate", "machine.json" };

typedef struct {
    char *path;
    StasisStore *store;
    char *base; /* full */
    char *tip;  /* incremental to base */
    guint8 expected[TEST_PAGES * STASIS_PAGE_BYTES];
} Fixture;

static void setup(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    f->store = test_make_store(&f->path);
    f->base = test_small_image(f->store, NULL, 10, &error);
    g_assert_no_error(error);
    f->tip = test_small_image(f->store, f->base, 20, &error);
    g_assert_no_error(error);
    test_small_content(20, f->expected);
    test_assert_small(f->store, f->tip, 20);
}

static void teardown(Fixture *f, gconstpointer unused)
{
    test_assert_small(f->store, f->tip, 20); /* each damage was repaired */
    stasis_store_unref(f->store);
    test_remove_tree(f->path);
    g_free(f->path);
    g_free(f->base);
    g_free(f->tip);
}

/* verify() of the tip must find it; a reader may not notice, but then has the right content. */
static void assert_found(Fixture *f, const char *file, guint64 offset)
{
    g_autoptr(GError) error = NULL;
    if (stasis_store_verify(f->store, f->tip, NULL, NULL, NULL, &error))
        g_error("%s: damage at offset %" G_GUINT64_FORMAT " was not found", file, offset);
    if (!g_error_matches(error, STASIS_ERROR, STASIS_ERROR_CORRUPT))
        g_error("%s, offset %" G_GUINT64_FORMAT ": %s", file, offset, error->message);
    g_assert_nonnull(strstr(error->message, file));
    g_assert_null(strchr(error->message, '\n'));
    g_autofree guint8 *data = test_read_small(f->store, f->tip, NULL);
    if (data != NULL)
        g_assert_cmpmem(data, sizeof(f->expected), f->expected, sizeof(f->expected));
}

static int open_file(Fixture *f, const char *id, const char *file, guint64 *ret_size)
{
    g_autofree char *path = g_build_filename(f->path, "images", id, file, NULL);
    struct stat st;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    *ret_size = (guint64)st.st_size;
    return fd;
}

static void flip(int fd, guint64 offset, guint bit)
{
    guint8 byte;
    g_assert_cmpint(stasis_pread_all(fd, &byte, 1, (off_t)offset), ==, 0);
    byte ^= (guint8)(1u << bit);
    g_assert_cmpint(stasis_pwrite_all(fd, &byte, 1, (off_t)offset), ==, 0);
}

/* Every byte of every file of both images, one bit of each; every bit of the tip's manifest. */
static void test_flips(Fixture *f, gconstpointer unused)
{
    const char *const ids[] = { f->base, f->tip };
    for (guint i = 0; i < G_N_ELEMENTS(ids); i++) {
        for (guint k = 0; k < G_N_ELEMENTS(files); k++) {
            guint64 size;
            stasis_autofd int fd = open_file(f, ids[i], files[k], &size);
            g_assert_cmpuint(size, >, 0);
            guint n_bits = ids[i] == f->tip && k == 0 ? 8 : 1;
            for (guint64 n = 0; n < size * n_bits; n++) {
                guint bit = n_bits == 8 ? n % 8 : n % 7;
                flip(fd, n / n_bits, bit);
                assert_found(f, files[k], n / n_bits);
                flip(fd, n / n_bits, bit);
            }
        }
    }
}

static void test_truncations(Fixture *f, gconstpointer unused)
{
    const char *const ids[] = { f->base, f->tip };
    for (guint i = 0; i < G_N_ELEMENTS(ids); i++) {
        for (guint k = 0; k < G_N_ELEMENTS(files); k++) {
            guint64 size;
            stasis_autofd int fd = open_file(f, ids[i], files[k], &size);
            g_autofree guint8 *data = g_malloc(size);
            g_assert_cmpint(stasis_pread_all(fd, data, size, 0), ==, 0);
            for (guint64 len = size; len > 0; len--) {
                g_assert_cmpint(ftruncate(fd, (off_t)len - 1), ==, 0);
                assert_found(f, files[k], len - 1);
            }
            g_assert_cmpint(stasis_pwrite_all(fd, data, size, 0), ==, 0);
            g_assert_cmpint(ftruncate(fd, (off_t)size + 1), ==, 0);
            assert_found(f, files[k], size);
            g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
        }
    }
}

/* Cut short while it is being read: an error, not a signal. */
static void test_truncated_under_reader(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(f->store, f->tip, &error);
    g_assert_no_error(error);
    guint64 size;
    stasis_autofd int fd = open_file(f, f->tip, "pages", &size);
    g_autofree guint8 *saved = g_malloc(size);
    g_assert_cmpint(stasis_pread_all(fd, saved, size, 0), ==, 0);
    g_assert_cmpint(ftruncate(fd, 10), ==, 0);
    guint8 page[STASIS_PAGE_BYTES];
    g_assert_false(stasis_image_reader_read_pages(reader, 0, 0, 1, page, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_cmpint(stasis_pwrite_all(fd, saved, size, 0), ==, 0);
}

/* Not a file at all, in place of each file: refused, without waiting for a FIFO's writer. */
static void test_not_a_file(Fixture *f, gconstpointer unused)
{
    for (guint k = 0; k < G_N_ELEMENTS(files); k++) {
        g_autofree char *path = g_build_filename(f->path, "images", f->tip, files[k], NULL);
        g_autofree char *aside = g_strconcat(path, ".aside", NULL);
        g_assert_cmpint(rename(path, aside), ==, 0);
        assert_found(f, files[k], 0);
        g_assert_cmpint(mkfifo(path, 0600), ==, 0);
        assert_found(f, files[k], 0);
        g_assert_cmpint(unlink(path), ==, 0);
        g_assert_cmpint(mkdir(path, 0700), ==, 0);
        assert_found(f, files[k], 0);
        g_assert_cmpint(rmdir(path), ==, 0);
        g_assert_cmpint(rename(aside, path), ==, 0);
    }
}

/* Each file exchanged for that of another whole image; and the whole images exchanged. */
static void test_exchanged(Fixture *f, gconstpointer unused)
{
    g_autofree char *base = g_build_filename(f->path, "images", f->base, NULL);
    g_autofree char *tip = g_build_filename(f->path, "images", f->tip, NULL);
    for (guint k = 0; k < G_N_ELEMENTS(files); k++) {
        g_autofree char *a = g_build_filename(base, files[k], NULL);
        g_autofree char *b = g_build_filename(tip, files[k], NULL);
        g_autofree char *x = NULL, *y = NULL;
        g_assert_true(g_file_get_contents(a, &x, NULL, NULL));
        g_assert_true(g_file_get_contents(b, &y, NULL, NULL));
        if (g_strcmp0(x, y) == 0)
            continue; /* vmstate and machine.json are the same in both */
        g_assert_cmpint(renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE), ==, 0);
        assert_found(f, files[k], 0);
        g_assert_cmpint(renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE), ==, 0);
    }
    g_assert_cmpint(renameat2(AT_FDCWD, base, AT_FDCWD, tip, RENAME_EXCHANGE), ==, 0);
    assert_found(f, "manifest.json", 0);
    g_assert_cmpuint(test_count(f->store), ==, 0);
    g_assert_cmpint(renameat2(AT_FDCWD, base, AT_FDCWD, tip, RENAME_EXCHANGE), ==, 0);
}

/* A parent that is whole by itself, with a right digest, but not the one the child was made on. */
static void test_other_parent(Fixture *f, gconstpointer unused)
{
    g_autofree char *path = g_build_filename(f->path, "images", f->base, "manifest.json", NULL);
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_autofree char *body = g_strdup(text);
    *strstr(body, "  \"digest\" : \"sha256:") = '\0';
    memcpy(strstr(body, "\"small\""), "\"SMALL\"", 7);
    g_autofree char *hex = g_compute_checksum_for_string(G_CHECKSUM_SHA256, body, -1);
    g_autofree char *forged = g_strdup_printf("%s  \"digest\" : \"sha256:%s\"\n}\n", body, hex);
    g_assert_true(g_file_set_contents(path, forged, -1, NULL));
    test_assert_small(f->store, f->base, 10);
    assert_found(f, f->base, 0);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

/* Who trusts what he has written himself is given it as it is. What is sealed is found out anyhow.
 */
static void test_trusted(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    guint8 page[STASIS_PAGE_BYTES];
    guint64 size;
    gboolean sealed = g_getenv("STASIS_TEST_SEALED") != NULL;
    stasis_autofd int fd = open_file(f, f->tip, "pages", &size);
    StasisImageReader *reader = stasis_image_reader_open(f->store, f->tip, &error);
    g_assert_no_error(error);
    flip(fd, size - 1, 0); /* in page 3, which is raw */
    g_assert_false(stasis_image_reader_read_pages(reader, 0, 3, 1, page, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_clear_error(&error);
    stasis_image_reader_trust(reader);
    g_assert_cmpint(stasis_image_reader_read_pages(reader, 0, 3, 1, page, &error), ==, !sealed);
    if (sealed)
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    page[STASIS_PAGE_BYTES - 1] ^= 1;
    if (!sealed)
        g_assert_cmpmem(page, sizeof(page), f->expected + 3 * STASIS_PAGE_BYTES, sizeof(page));
    flip(fd, size - 1, 0);
    stasis_image_reader_free(reader);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/store/damage/" name, Fixture, NULL, setup, func, teardown)
    ADD("flips", test_flips);
    ADD("truncations", test_truncations);
    ADD("truncated-under-reader", test_truncated_under_reader);
    ADD("not-a-file", test_not_a_file);
    ADD("trusted", test_trusted);
    ADD("exchanged", test_exchanged);
    ADD("other-parent", test_other_parent);
    return g_test_run();
}
