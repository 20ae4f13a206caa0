/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: an incremental image of processes stores the pages that its parent does not have, is
 * whole whatever is deleted, and a changed byte, or a map that leads nowhere, is found. */
#include "store/internal.h"
#include "store/proc-image-manifest.h"
#include "store/proc-image-pages.h"
#include "test-store-process.h"

#define PAGE STASIS_PROC_PAGE_BYTES
#define N_PAGES 100u

static void fill_page(guint8 *page, guint32 salt)
{
    for (guint i = 0; i < PAGE / 4; i++)
        ((guint32 *)(gpointer)page)[i] = salt * 2654435761u + i;
}

/* In pieces that are no pages. */
static gboolean add_pages(StasisProcImageWriter *writer, const char *name, const guint8 *pages,
                          gsize size, GError **error)
{
    if (!stasis_proc_image_writer_begin(writer, name, error))
        return FALSE;
    for (gsize at = 0; at < size; at += 1000)
        if (!stasis_proc_image_writer_add(writer, pages + at, MIN(1000, size - at), error))
            return FALSE;
    return stasis_proc_image_writer_end(writer, NULL, error);
}

static StasisProcessImageInfo *commit(StasisStore *store, const char *parent, const guint8 *pages)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisProcessImageInfo) info = test_process_info();
    g_autoptr(StasisProcImageWriter) writer = stasis_proc_image_writer_new(store, &error);
    g_autoptr(GBytes) text = g_bytes_new_static("abc", 3);
    g_assert_true(parent == NULL || stasis_proc_image_writer_set_parent(writer, parent, &error));
    g_assert_true(stasis_proc_image_writer_add_part(writer, "inventory.img", text, &error));
    g_assert_true(add_pages(writer, "pages-1.img", pages, N_PAGES / 2 * PAGE, &error));
    g_assert_true(
        add_pages(writer, "pages-2.img", pages + N_PAGES / 2 * PAGE, N_PAGES / 2 * PAGE, &error));
    StasisProcessImageInfo *listed = stasis_proc_image_writer_commit(writer, info, NULL, &error);
    g_assert_no_error(error);
    g_assert_true(listed->parent == NULL || g_strcmp0(listed->parent, parent) == 0);
    g_assert_cmpuint(listed->size_bytes, ==, 3 + N_PAGES * PAGE);
    return listed;
}

static gboolean compare(const StasisProcImageFile *file, guint64 offset, const guint8 *bytes,
                        gsize n, gpointer user_data, GError **error)
{
    const guint8 *pages = user_data;
    pages += strcmp(file->name, "pages-2.img") == 0 ? N_PAGES / 2 * PAGE : 0;
    g_assert_cmpmem(bytes, n, pages + offset, n);
    return TRUE;
}

static void check(StasisStore *store, const char *id, const guint8 *pages)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisProcImageReader) reader = stasis_proc_image_reader_open(store, id, &error);
    guint found = 0;
    for (guint i = 0; i < reader->files->len; i++) {
        const StasisProcImageFile *file = g_ptr_array_index(reader->files, i);
        if (!stasis_proc_pages_is_pages(file->name) || !stasis_proc_image_file_is_criu(file))
            continue;
        found++;
        g_assert_true(stasis_proc_image_reader_read(reader, i, compare, (gpointer)pages, &error));
    }
    g_assert_cmpuint(found, ==, 2);
    g_assert_true(stasis_store_verify_process(store, id, NULL, NULL, NULL, &error));
    g_assert_no_error(error);
}

static void test_chain(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree guint8 *a = g_malloc(N_PAGES * PAGE), *b = NULL, *c = NULL;
    for (guint i = 0; i < N_PAGES; i++)
        fill_page(a + i * PAGE, i);
    b = g_memdup2(a, N_PAGES * PAGE);
    fill_page(b + 7 * PAGE, 1000);
    fill_page(b + 30 * PAGE, 1001);
    memcpy(b + 20 * PAGE, a, PAGE); /* moved */
    c = g_memdup2(b, N_PAGES * PAGE);
    fill_page(c + 7 * PAGE, 1002);
    g_autoptr(StasisProcessImageInfo) first = commit(store, NULL, a);
    g_autoptr(StasisProcessImageInfo) second = commit(store, first->id, b);
    g_autoptr(StasisProcessImageInfo) third = commit(store, second->id, c);
    g_autoptr(StasisProcessImageInfo) same = commit(store, third->id, c);
    g_assert_cmpuint(first->stored_bytes, >=, N_PAGES * PAGE);
    g_assert_cmpuint(second->stored_bytes, >=, 2 * PAGE);
    g_assert_cmpuint(second->stored_bytes, <, 3 * PAGE);
    g_assert_cmpuint(third->stored_bytes, <, 2 * PAGE);
    g_assert_cmpuint(same->stored_bytes, <, PAGE);
    check(store, first->id, a);
    check(store, second->id, b);
    check(store, third->id, c);
    g_assert_true(stasis_store_delete_process(store, first->id, NULL));
    check(store, second->id, b);
    check(store, third->id, c);
    g_assert_true(stasis_store_delete_process(store, third->id, NULL));
    check(store, second->id, b);
    check(store, same->id, c);
    g_autoptr(StasisProcessImageInfo) after = commit(store, same->id, b);
    check(store, after->id, b);
    g_assert_cmpstr(after->parent, ==, same->id);
    test_remove_tree(path);
}

#define MAX_SOURCES 64

/* However long a chain, a restore has few files to open: each of these would be in one more. */
static void test_long_chain(void)
{
    g_setenv("STASIS_PROC_SOURCES", G_STRINGIFY(MAX_SOURCES), TRUE);
    g_autofree char *path = NULL, *last = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree guint8 *pages = g_malloc(N_PAGES * PAGE);
    guint n_whole = 0;
    for (guint i = 0; i < N_PAGES; i++)
        fill_page(pages + i * PAGE, i);
    for (guint i = 0; i < 80; i++) {
        fill_page(pages + i * PAGE, 1000 + i);
        g_autoptr(StasisProcessImageInfo) info = commit(store, last, pages);
        n_whole += info->parent == NULL;
        g_free(last);
        last = g_strdup(info->id);
    }
    g_unsetenv("STASIS_PROC_SOURCES");
    g_assert_cmpuint(n_whole, ==, 2); /* the first, and one on the way */
    g_autoptr(StasisProcImageReader) reader = stasis_proc_image_reader_open(store, last, NULL);
    g_assert_cmpuint(stasis_proc_pages_n_sources(reader), <=, MAX_SOURCES + 1);
    check(store, last, pages);
    test_remove_tree(path);
}

static void test_refused(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree guint8 *pages = g_malloc0(N_PAGES * PAGE);
    g_autoptr(StasisProcessImageInfo) first = commit(store, NULL, pages);
    g_autoptr(StasisProcImageWriter) writer = stasis_proc_image_writer_new(store, &error);
    g_assert_false(
        stasis_proc_image_writer_set_parent(writer, "01aaaaaaaaaaaaaaaaaaaaaaaa", &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_true(stasis_proc_image_writer_set_parent(writer, first->id, &error));
    g_assert_false(stasis_proc_image_writer_begin(writer, "own.pages", NULL));
    g_assert_false(stasis_proc_image_writer_begin(writer, "pages-1.img.map", NULL));
    g_assert_false(add_pages(writer, "pages-1.img", pages, PAGE + 1, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    test_remove_tree(path);
}

static void test_damage(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree guint8 *pages = g_malloc0(N_PAGES * PAGE);
    static const char *const files[] = { "own.pages", "pages-1.img.map", "pages-2.img.map" };
    g_autoptr(StasisProcessImageInfo) first = commit(store, NULL, pages);
    for (guint i = 0; i < N_PAGES; i += 2)
        fill_page(pages + i * PAGE, i);
    g_autoptr(StasisProcessImageInfo) second = commit(store, first->id, pages);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *file = g_build_filename(path, "processes", second->id, files[i], NULL);
        g_autofree char *whole = NULL;
        gsize len;
        g_assert_true(g_file_get_contents(file, &whole, &len, NULL));
        for (gsize at = 0; at < len; at += 1 + len / 60) {
            g_autoptr(GError) error = NULL;
            whole[at] ^= 0x10;
            g_assert_true(g_file_set_contents(file, whole, (gssize)len, NULL));
            g_assert_false(
                stasis_store_verify_process(store, second->id, NULL, NULL, NULL, &error));
            g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
            whole[at] ^= 0x10;
        }
        g_assert_true(g_file_set_contents(file, whole, (gssize)len, NULL));
        check(store, second->id, pages);
    }
    test_remove_tree(path);
}

/* A parent that is damaged is none: the image is whole without it, and so is the next on top. */
static void test_damaged_parent(void)
{
    static const char *const files[] = { "pages-1.img", "manifest.json" };
    g_autofree guint8 *pages = g_malloc(N_PAGES * PAGE);
    test_fill(pages, N_PAGES * PAGE, 5);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = NULL;
        g_autoptr(GError) error = NULL;
        g_autoptr(StasisStore) store = test_make_store(&path);
        g_autoptr(StasisProcessImageInfo) parent = commit(store, NULL, pages);
        g_autofree char *file =
            g_build_filename(path, STASIS_PROCESS_DIR, parent->id, files[i], NULL);
        g_assert_cmpint(truncate(file, 100), ==, 0);
        g_autoptr(StasisProcessImageInfo) info = test_process_info();
        g_autoptr(StasisProcImageWriter) writer = stasis_proc_image_writer_new(store, &error);
        g_assert_false(stasis_proc_image_writer_set_parent(writer, parent->id, &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        g_clear_error(&error);
        g_assert_true(add_pages(writer, "pages-1.img", pages, N_PAGES / 2 * PAGE, &error));
        g_assert_true(add_pages(writer, "pages-2.img", pages + N_PAGES / 2 * PAGE,
                                N_PAGES / 2 * PAGE, &error));
        g_autoptr(StasisProcessImageInfo) listed =
            stasis_proc_image_writer_commit(writer, info, NULL, &error);
        g_assert_no_error(error);
        g_assert_null(listed->parent);
        check(store, listed->id, pages);
        g_autofree char *made = g_build_filename(path, STASIS_PROCESS_DIR, listed->id, NULL);
        g_autoptr(GDir) dir = g_dir_open(made, 0, NULL);
        guint n = 0;
        while (g_dir_read_name(dir) != NULL)
            n++;
        g_assert_cmpuint(n, ==, 3); /* with the manifest */
        g_autoptr(StasisProcessImageInfo) next = commit(store, listed->id, pages);
        g_assert_cmpstr(next->parent, ==, listed->id);
        test_remove_tree(path);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/process/pages/chain", test_chain);
    g_test_add_func("/process/pages/long-chain", test_long_chain);
    g_test_add_func("/process/pages/refused", test_refused);
    g_test_add_func("/process/pages/damage", test_damage);
    g_test_add_func("/process/pages/damaged-parent", test_damaged_parent);
    return g_test_run();
}
