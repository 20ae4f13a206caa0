/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what is kept beside an image is what the image holds, is there whole or not at all, goes
 * with the image, and is made again when it is gone or wrong. */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "store/cache.h"
#include "test-store-util.h"

typedef struct {
    char *path, *id;
    StasisStore *store;
    StasisImageReader *reader;
    GArray *blocks;
} Fixture;

static void set_up(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    f->store = test_make_store(&f->path);
    f->id = test_small_image(f->store, NULL, 7, &error);
    g_assert_no_error(error);
    f->reader = stasis_image_reader_open(f->store, f->id, &error);
    g_assert_no_error(error);
    guint first = 0;
    f->blocks = g_array_new(FALSE, FALSE, sizeof(guint));
    g_array_append_val(f->blocks, first);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    g_array_unref(f->blocks);
    stasis_image_reader_free(f->reader);
    stasis_store_unref(f->store);
    test_remove_tree(f->path);
    g_free(f->path);
    g_free(f->id);
}

static char *cached(Fixture *f, const char *what)
{
    return g_strdup_printf("%s/cache/%s%s", f->path, f->id, what);
}

static StasisTemplate *get(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    StasisTemplate *template =
        stasis_template_get(f->store, f->reader, f->blocks, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(template->blocks->len, ==, 1);
    return template;
}

static void assert_content(const StasisTemplate *template)
{
    guint8 expected[TEST_PAGES * STASIS_PAGE_BYTES], data[sizeof(expected) + 1];
    const StasisTemplateBlock *block = g_ptr_array_index(template->blocks, 0);
    test_small_content(7, expected);
    g_assert_cmpint(pread(block->fd, data, sizeof(data), 0), ==, sizeof(expected));
    g_assert_cmpmem(data, sizeof(expected), expected, sizeof(expected));
}

static void test_template(Fixture *f, gconstpointer unused)
{
    g_autoptr(StasisTemplate) made = get(f);
    g_assert_cmpuint(made->made_us, >, 0);
    assert_content(made);
    g_autoptr(StasisTemplate) found = get(f);
    g_assert_cmpuint(found->made_us, ==, 0);
    const StasisTemplateBlock *a = g_ptr_array_index(made->blocks, 0);
    const StasisTemplateBlock *b = g_ptr_array_index(found->blocks, 0);
    struct stat one, two;
    g_assert_true(fstat(a->fd, &one) == 0 && fstat(b->fd, &two) == 0);
    g_assert_cmpuint(one.st_ino, ==, two.st_ino);
    g_assert_true(g_file_test(b->path, G_FILE_TEST_IS_REGULAR));
    /* It is no image, and the image is as before. */
    g_assert_cmpuint(test_count(f->store), ==, 1);
    test_assert_small(f->store, f->id, 7);
}

/* Deleted at any time, cut short, of another image, or never to end: it is made again. */
static void test_made_again(Fixture *f, gconstpointer unused)
{
    static const char *const damages[] = { "rm -r", "truncate -s 5000", "rm", "echo '{}' >",
                                           "f() { rm $1; mkfifo $1; }; f" };
    static const char *const files[] = { ".ram", ".ram/ram-0", ".ram/template.json",
                                         ".ram/template.json", ".ram/template.json" };
    stasis_template_free(get(f));
    for (guint i = 0; i < G_N_ELEMENTS(damages); i++) {
        g_autofree char *file = cached(f, files[i]);
        g_autofree char *command = g_strdup_printf("%s '%s'", damages[i], file);
        g_assert_cmpint(system(command), ==, 0);
        g_autoptr(StasisTemplate) again = get(f);
        g_assert_cmpuint(again->made_us, >, 0);
        assert_content(again);
    }
}

/* A maker that was killed leaves its work aside; the next one removes it. */
static void test_leftovers(Fixture *f, gconstpointer unused)
{
    g_autofree char *aside = g_build_filename(f->path, "cache/tmp/x.ram", NULL);
    g_autofree char *half = g_build_filename(aside, "ram-0", NULL);
    g_autofree char *orphan =
        g_build_filename(f->path, "cache/00000000000000000000000001.ram", NULL);
    g_assert_cmpint(g_mkdir_with_parents(aside, 0700), ==, 0);
    g_assert_cmpint(g_mkdir_with_parents(orphan, 0700), ==, 0);
    g_autofree char *dotted = g_strdup_printf("%s/cache/.%s.touched.999999999", f->path, f->id);
    g_autofree char *fresh = g_strdup_printf("%s/cache/.%s.touched.999999998", f->path, f->id);
    g_assert_true(g_file_set_contents(half, "half", -1, NULL));
    g_assert_true(g_file_set_contents(dotted, "half", -1, NULL));
    struct timespec old[2] = { { time(NULL) - 7200, 0 }, { time(NULL) - 7200, 0 } };
    g_assert_cmpint(utimensat(AT_FDCWD, dotted, old, 0), ==, 0);
    g_assert_true(g_file_set_contents(fresh, "half", -1, NULL));
    stasis_template_free(get(f));
    g_assert_false(g_file_test(dotted, G_FILE_TEST_EXISTS));
    g_assert_true(g_file_test(fresh, G_FILE_TEST_EXISTS)); /* its writer may be elsewhere */
    g_assert_false(g_file_test(aside, G_FILE_TEST_EXISTS));
    g_assert_false(g_file_test(orphan, G_FILE_TEST_EXISTS));
}

static gpointer get_thread(gpointer data)
{
    return get(data);
}

static void test_two_at_once(Fixture *f, gconstpointer unused)
{
    GThread *threads[4];
    guint n_made = 0;
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
        threads[i] = g_thread_new("get", get_thread, f);
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++) {
        g_autoptr(StasisTemplate) template = g_thread_join(threads[i]);
        n_made += template->made_us > 0;
        assert_content(template);
    }
    g_assert_cmpuint(n_made, ==, 1);
}

static void test_damaged_image(Fixture *f, gconstpointer unused)
{
    g_autofree char *pages = g_strdup_printf("%s/images/%s/pages", f->path, f->id);
    stasis_autofd int fd = open(pages, O_WRONLY);
    g_assert_cmpint(pwrite(fd, "!", 1, 20), ==, 1);
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisTemplate) template =
        stasis_template_get(f->store, f->reader, f->blocks, NULL, NULL, NULL, &error);
    g_assert_null(template);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_autofree char *dir = cached(f, ".ram");
    g_assert_false(g_file_test(dir, G_FILE_TEST_EXISTS));
}

static GArray *some_pages(void)
{
    static const StasisTouched pages[] = { { 0, 3 }, { 0, 0 }, { 0, 5 } };
    GArray *array = g_array_new(FALSE, FALSE, sizeof(StasisTouched));
    g_array_append_vals(array, pages, G_N_ELEMENTS(pages));
    return array;
}

static void test_touched(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) pages = some_pages();
    g_assert_null(stasis_touched_load(f->store, f->reader, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_true(stasis_touched_save(f->store, f->reader, pages, &error));
    g_autoptr(GArray) loaded = stasis_touched_load(f->store, f->reader, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(loaded->len, ==, pages->len);
    for (guint i = 0; i < pages->len; i++)
        g_assert_cmpuint(g_array_index(loaded, StasisTouched, i).page, ==,
                         g_array_index(pages, StasisTouched, i).page);
}

/* Any bit flipped, anything cut off or added, or of another image: not used. */
static void test_touched_damage(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) pages = some_pages();
    g_autoptr(GBytes) bytes = stasis_touched_to_bytes(f->reader, pages, &error);
    gsize len;
    const guint8 *data = g_bytes_get_data(bytes, &len);
    for (gsize bit = 0; bit < len * 8; bit++) {
        g_autofree guint8 *copy = g_memdup2(data, len);
        copy[bit / 8] ^= (guint8)(1 << bit % 8);
        g_assert_null(stasis_touched_from_bytes(f->reader, copy, len, NULL));
    }
    for (gsize cut = 0; cut < len; cut++)
        g_assert_null(stasis_touched_from_bytes(f->reader, data, cut, NULL));
    StasisTouched outside = { 0, TEST_PAGES };
    g_array_append_val(pages, outside);
    g_autoptr(GBytes) beyond = stasis_touched_to_bytes(f->reader, pages, &error);
    data = g_bytes_get_data(beyond, &len);
    g_assert_null(stasis_touched_from_bytes(f->reader, data, len, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_nonnull(strstr(error->message, "number 3"));
    g_clear_error(&error);
    g_autofree char *other = test_small_image(f->store, NULL, 8, &error);
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(f->store, other, &error);
    data = g_bytes_get_data(bytes, &len);
    g_assert_null(stasis_touched_from_bytes(reader, data, len, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

static void test_goes_with_image(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) pages = some_pages();
    g_autofree char *ram = cached(f, ".ram"), *touched = cached(f, ".touched");
    g_autoptr(StasisTemplate) template = get(f);
    g_assert_true(stasis_touched_save(f->store, f->reader, pages, &error));
    g_assert_true(stasis_store_delete(f->store, f->id, &error));
    g_assert_no_error(error);
    g_assert_false(g_file_test(ram, G_FILE_TEST_EXISTS));
    g_assert_false(g_file_test(touched, G_FILE_TEST_EXISTS));
    /* Who has it open keeps it; a restore that ends now leaves nothing behind. */
    assert_content(template);
    g_assert_false(stasis_touched_save(f->store, f->reader, pages, NULL));
    g_assert_false(g_file_test(touched, G_FILE_TEST_EXISTS));
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*test)(Fixture *f, gconstpointer unused);
    } tests[] = {
        { "template", test_template },
        { "made-again", test_made_again },
        { "leftovers", test_leftovers },
        { "two-at-once", test_two_at_once },
        { "damaged-image", test_damaged_image },
        { "touched", test_touched },
        { "touched-damage", test_touched_damage },
        { "goes-with-image", test_goes_with_image },
    };
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *name = g_strconcat("/store/cache/", tests[i].name, NULL);
        g_test_add(name, Fixture, NULL, set_up, tests[i].test, tear_down);
    }
    return g_test_run();
}
