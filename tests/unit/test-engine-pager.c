/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: whoever waits for a VM's RAM is told that its QEMU has ended, where it has, and else
 * that its pager has. */
#include <glib/gstdio.h>
#include <stasis/error.h>
#include <string.h>
#include <unistd.h>

#include "engine/restore/pager.h"
#include "test-store-util.h"

static void check_told(StasisRecord *record, gint code, const char *words)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(stasis_pager_wait(record, NULL, NULL, NULL, &error));
    g_assert_error(error, STASIS_ERROR, code);
    g_assert_nonnull(strstr(error->message, words));
}

static void test_ended(void)
{
    g_autofree char *dir = test_make_dir(), *vm = g_build_filename(dir, "web", NULL);
    g_autofree char *task = g_build_filename(vm, "pager.json", NULL);
    StasisRecord record = { .name = (char *)"web", .pid = getpid() };
    g_setenv("STASIS_RUNTIME_DIR", dir, TRUE);
    g_assert_cmpint(g_mkdir(vm, 0700), ==, 0);
    g_assert_true(g_file_set_contents(task, "{}", -1, NULL));
    record.start_time = stasis_process_start_time(record.pid);
    check_told(&record, STASIS_ERROR_FAILED, "pager.log");
    record.start_time++;
    check_told(&record, STASIS_ERROR_NOT_FOUND, "QEMU has ended");
    test_remove_tree(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pager/ended", test_ended);
    return g_test_run();
}
