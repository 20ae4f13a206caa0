/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a disk exported as qcow2 is what the raw export is, to qemu-img's check without a fault,
 * and holds nothing for what is zero. */
#include <glib.h>
#include <glib/gstdio.h>
#include <stasis/error.h>
#include <stasis/export.h>
#include <string.h>
#include <sys/stat.h>

#include "test-store-util.h"

#define MIB ((guint64)1 << 20)
/* Three L2 tables, the second without an entry; it ends in the middle of a cluster and of a page.
 */
#define DISK_BYTES (1100 * MIB + 3 * 4096 + 512)
#define DISK_PAGES ((DISK_BYTES + 4095) / 4096)

static void put(StasisImageWriter *writer, guint64 page, guint32 seed)
{
    g_autoptr(GError) error = NULL;
    guint8 data[STASIS_PAGE_BYTES];
    test_fill(data, sizeof data, seed);
    if (page == DISK_PAGES - 1)
        memset(data + 512, 0, sizeof data - 512);
    test_add(writer, 1, page, 1, STASIS_STORED_RAW, data, &error);
    g_assert_no_error(error);
}

static char *make(StasisStore *store, gboolean empty)
{
    static const guint64 pages[] = { 0, 15, 16, 33, 131071, 262144 + 5, DISK_PAGES - 1 };
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, &error);
    g_assert_no_error(error);
    stasis_image_writer_add_block(writer, "ram", 4096, &error);
    g_assert_no_error(error);
    stasis_image_writer_add_disk(writer, "d", DISK_BYTES, &error);
    g_assert_no_error(error);
    test_add_parts(writer);
    test_add(writer, 0, 0, 1, STASIS_STORED_ZERO, NULL, &error);
    guint64 next = 0;
    for (guint i = 0; !empty && i < G_N_ELEMENTS(pages); i++) {
        if (pages[i] > next)
            test_add(writer, 1, next, pages[i] - next, STASIS_STORED_ZERO, NULL, &error);
        g_assert_no_error(error);
        put(writer, pages[i], 7 + i);
        next = pages[i] + 1;
    }
    if (next < DISK_PAGES)
        test_add(writer, 1, next, DISK_PAGES - next, STASIS_STORED_ZERO, NULL, &error);
    g_assert_no_error(error);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    return g_strdup(info->id);
}

static void run(const char *program, ...)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autofree char *out = NULL, *err = NULL;
    int status;
    va_list more;
    va_start(more, program);
    for (const char *word = program; word != NULL; word = va_arg(more, const char *))
        g_ptr_array_add(argv, (char *)word);
    va_end(more);
    g_ptr_array_add(argv, NULL);
    g_spawn_sync(NULL, (char **)argv->pdata, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, &err,
                 &status, &error);
    g_assert_no_error(error);
    if (status != 0)
        g_test_message("%s %s: %s%s", program, (char *)argv->pdata[1], out, err);
    g_assert_cmpint(status, ==, 0);
}

static char *export(StasisStore *store, const char *dir, const char *id, StasisExportFormat format)
{
    g_autoptr(GError) error = NULL;
    StasisExportOptions options = STASIS_EXPORT_OPTIONS_INIT;
    char *path = g_build_filename(dir, format == STASIS_EXPORT_QCOW2 ? "a.qcow2" : "a.raw", NULL);
    options.format = format;
    options.path = path;
    options.disk = "d";
    stasis_export(store, id, &options, NULL, &error);
    g_assert_no_error(error);
    return path;
}

static void check(gboolean empty, guint64 most_bytes)
{
    g_autofree char *dir = NULL;
    g_autoptr(StasisStore) store = test_make_store(&dir);
    g_autofree char *id = make(store, empty);
    g_autofree char *qcow2 = export(store, dir, id, STASIS_EXPORT_QCOW2);
    g_autofree char *raw = export(store, dir, id, STASIS_EXPORT_DISK);
    struct stat st;
    run("qemu-img", "check", "-q", "-f", "qcow2", qcow2, NULL);
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", qcow2, raw, NULL);
    g_assert_cmpint(g_stat(qcow2, &st), ==, 0);
    g_assert_cmpint(st.st_size, <=, (gint64)most_bytes);
    test_remove_tree(dir);
}

static void test_sparse(void)
{
    /* Six clusters of data, two L2 tables; header, L1 table, refcount block and table. */
    check(FALSE, 12 * 65536);
}

static void test_empty(void)
{
    check(TRUE, 4 * 65536);
}

static void test_which_disk(void)
{
    g_autofree char *dir = NULL;
    g_autoptr(StasisStore) store = test_make_store(&dir);
    g_autofree char *id = make(store, TRUE);
    g_autofree char *path = g_build_filename(dir, "no", NULL);
    g_autoptr(GError) error = NULL;
    StasisExportOptions options = STASIS_EXPORT_OPTIONS_INIT;
    options.format = STASIS_EXPORT_QCOW2;
    options.path = path;
    g_assert_false(stasis_export(store, id, &options, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_clear_error(&error);
    options.disk = "other";
    g_assert_false(stasis_export(store, id, &options, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    test_remove_tree(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/engine/qcow2/sparse", test_sparse);
    g_test_add_func("/engine/qcow2/empty", test_empty);
    g_test_add_func("/engine/qcow2/which-disk", test_which_disk);
    return g_test_run();
}
