/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: the disks of a VM go when nobody wants them, and not because it can't be told who does.
 */
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <engine/disks/vm-disks.h>

#include "test-store-util.h"

/* As a maker that was killed left it; @mark: what vm.json is a link to, or NULL. */
static char *make_left(const char *parent, const char *name, const char *mark)
{
    char *dir = g_build_filename(parent, name, NULL);
    g_autofree char *file = g_build_filename(dir, "vm.json", NULL);
    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    g_assert_true(mark == NULL || symlink(mark, file) == 0);
    return dir;
}

static void make_disks(StasisStore *store)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) none = g_ptr_array_new();
    StasisVmDisksWanted wanted = { .store = store, .notes = none, .vm_name = "web" };
    StasisVmDisks *disks = stasis_vm_disks_new(&wanted, NULL, &error);
    g_assert_no_error(error);
    stasis_vm_disks_free(disks);
}

static void test_unreadable(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree char *parent = g_build_filename(path, "disks", NULL);
    g_autofree char *left = make_left(parent, "left.x7Gh2a", NULL);
    g_autofree char *wanted = make_left(parent, "web.K3mn0q", "vm.json"); /* for ever */
    make_disks(store);
    g_assert_false(g_file_test(left, G_FILE_TEST_EXISTS));
    g_assert_true(g_file_test(wanted, G_FILE_TEST_EXISTS));
    test_remove_tree(path);
}

/* ---- where others have files, too ---- */

static char *put(const char *dir, const char *name, const char *text)
{
    char *path = g_build_filename(dir, name, NULL);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    return path;
}

/* @mark: what vm.json says, or NULL. With a disk's file and a mark of that content. */
static char *make_marked(const char *parent, const char *name, const char *mark)
{
    char *dir = make_left(parent, name, NULL);
    g_free(put(dir, "disk-0.qcow2", "disk"));
    if (mark != NULL)
        g_free(put(dir, "vm.json", mark));
    return dir;
}

#define MARK(temporary, pid) \
    "{\"vm\": \"web\", \"pid\": " pid ", \"start_time\": 1, \"temporary\": " temporary "}"

static gboolean is_whole(const char *dir)
{
    g_autofree char *disk = g_build_filename(dir, "disk-0.qcow2", NULL);
    return g_file_test(disk, G_FILE_TEST_IS_REGULAR);
}

static void make_disks_in(StasisStore *store, const char *dir)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) none = g_ptr_array_new();
    StasisVmDisksWanted wanted = { .store = store, .notes = none, .vm_name = "web", .dir = dir };
    g_autoptr(StasisVmDisks) disks = stasis_vm_disks_new(&wanted, NULL, &error);
    g_assert_no_error(error);
    /* It is ours from the first on. */
    g_autofree char *mark = g_build_filename(disks->dir, "vm.json", NULL);
    g_assert_true(g_file_test(mark, G_FILE_TEST_IS_REGULAR));
}

static void test_elsewhere(void)
{
    static const struct {
        const char *name, *mark;
        gboolean left;
    } dirs[] = { { "windows", NULL, FALSE },
                 { "backups.x7Gh2a", NULL, FALSE },
                 { "web.K3mn0q", "", FALSE },
                 { "web.K3mn1q", "{\"temporary\": true}", FALSE },
                 { "web.K3mn2q", MARK("false", "2147483647"), FALSE },
                 { "web", MARK("true", "2147483647"), FALSE },
                 { "web.K3mn3q", MARK("true", "2147483647"), TRUE } };
    g_autofree char *path = NULL, *parent = test_make_dir();
    g_autoptr(StasisStore) store = test_make_store(&path);
    for (guint i = 0; i < G_N_ELEMENTS(dirs); i++)
        g_free(make_marked(parent, dirs[i].name, dirs[i].mark));
    make_disks_in(store, parent);
    for (guint i = 0; i < G_N_ELEMENTS(dirs); i++) {
        g_autofree char *dir = g_build_filename(parent, dirs[i].name, NULL);
        g_test_message("%s", dirs[i].name);
        g_assert_cmpint(is_whole(dir), ==, !dirs[i].left);
        g_assert_cmpint(g_file_test(dir, G_FILE_TEST_EXISTS), ==, !dirs[i].left);
    }
    test_remove_tree(parent);
    test_remove_tree(path);
}

static void test_only_ours(void)
{
    static const char *const ours[] = { "disk-0.qcow2", "disk-12.base", "vm.json", ".vm.json.17",
                                        "disk-0.qcow2.stasis-01jq4z7k2m01jq4z7k2m01jq4z" };
    static const char *const others[] = {
        "disk-a.qcow2",     "disk-0.raw",  "disk-0",
        "disk-0.qcow2.bak", "disk-.qcow2", "disk-0.base.stasis-01jq4z7k2m01jq4z7k2m01jq4z",
        ".vm.json.swp"
    };
    g_autofree char *parent = test_make_dir(), *dir = make_left(parent, "web.x7Gh2a", NULL);
    for (guint i = 0; i < G_N_ELEMENTS(ours); i++)
        g_free(put(dir, ours[i], "x"));
    for (guint i = 0; i < G_N_ELEMENTS(others); i++)
        g_free(put(dir, others[i], "x"));
    stasis_vm_disks_remove(dir);
    for (guint i = 0; i < G_N_ELEMENTS(ours); i++) {
        g_autofree char *gone = g_build_filename(dir, ours[i], NULL);
        g_test_message("%s", ours[i]);
        g_assert_false(g_file_test(gone, G_FILE_TEST_EXISTS));
    }
    for (guint i = 0; i < G_N_ELEMENTS(others); i++) {
        g_autofree char *kept = g_build_filename(dir, others[i], NULL);
        g_test_message("%s", others[i]);
        g_assert_true(g_file_test(kept, G_FILE_TEST_EXISTS));
    }
    test_remove_tree(parent);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/engine/vm-disks/unreadable", test_unreadable);
    g_test_add_func("/engine/vm-disks/elsewhere", test_elsewhere);
    g_test_add_func("/engine/vm-disks/only-ours", test_only_ours);
    return g_test_run();
}
