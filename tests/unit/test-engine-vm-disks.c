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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/engine/vm-disks/unreadable", test_unreadable);
    return g_test_run();
}
