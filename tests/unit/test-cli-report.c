/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a report replaces a file and nothing else: devices, pipes and links stay what they are;
 * what can't be written is known before the work. */
#include "cli/report-file.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <glib/gstdio.h>

static char *dir;

static char *path_of(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

static gboolean write_to(const char *path)
{
    g_autoptr(GError) error = NULL;
    gboolean ok = cli_write_report(path, "text", 4, &error);
    g_assert_true(ok == (error == NULL));
    return ok;
}

static void assert_holds(const char *path)
{
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "text");
}

static void test_links(void)
{
    g_autofree char *first = path_of("first"), *second = path_of("second"), *file = path_of("file");
    g_assert_cmpint(symlink("second", first), ==, 0);
    g_assert_cmpint(symlink(file, second), ==, 0);
    for (guint i = 0; i < 2; i++) { /* the second time the file is there */
        g_assert_true(write_to(first));
        assert_holds(file);
        g_assert_true(g_file_test(first, G_FILE_TEST_IS_SYMLINK) &&
                      g_file_test(second, G_FILE_TEST_IS_SYMLINK));
    }
}

/* A descriptor's place, by a link, too, is where others write on. */
static void test_descriptor(void)
{
    g_autofree char *file = path_of("told"), *link = path_of("stdout"), *all = NULL;
    int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    g_autofree char *place = g_strdup_printf("/dev/fd/%d", fd);
    g_autofree char *target = g_strdup_printf("/proc/self/fd/%d", fd);
    g_assert_cmpint(symlink(target, link), ==, 0);
    g_assert_cmpint(write(fd, "1", 1), ==, 1);
    g_assert_true(write_to(place));
    g_assert_cmpint(write(fd, "2", 1), ==, 1);
    g_assert_true(write_to(link));
    g_assert_cmpint(write(fd, "3", 1), ==, 1);
    close(fd);
    g_assert_true(g_file_get_contents(file, &all, NULL, NULL));
    g_assert_cmpstr(all, ==, "1text2text3");
}

static void test_special(void)
{
    g_autofree char *fifo = path_of("fifo"), *node = path_of("null");
    struct stat st;
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    int reader = open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    g_assert_true(write_to(fifo));
    char got[8];
    g_assert_cmpint(read(reader, got, sizeof got), ==, 4);
    close(reader);
    g_assert_true(stat(fifo, &st) == 0 && S_ISFIFO(st.st_mode));
    if (mknod(node, S_IFCHR | 0666, makedev(1, 3)) != 0 || !write_to(node)) {
        g_test_skip("no device node can be made here");
        return;
    }
    g_assert_true(stat(node, &st) == 0 && S_ISCHR(st.st_mode));
}

static gboolean may_go_to(const char *path)
{
    const char *const argv[] = { "stasis", "ci-run", "--junit", path, "--", "true", NULL };
    CliCall call = { 0 };
    g_autoptr(GError) error = NULL;
    g_assert_true(cli_parse(&call, argv, &error));
    gboolean ok = cli_check_report(&call, "junit", &error);
    g_assert_true(ok == (error == NULL));
    g_assert_true(cli_check_report(&call, "console", &error)); /* is not given */
    g_hash_table_unref(call.values);
    g_strfreev(call.args);
    return ok;
}

static void test_check(void)
{
    g_autofree char *file = path_of("new"), *none = path_of("none/new"), *fifo = path_of("fifo");
    g_assert_true(may_go_to(file) && may_go_to(fifo) && may_go_to("/dev/null"));
    g_assert_false(may_go_to(none) || may_go_to(dir) || may_go_to("/proc/x"));
    g_assert_false(write_to(none));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("report-XXXXXX", NULL);
    g_test_add_func("/cli/report/links", test_links);
    g_test_add_func("/cli/report/special", test_special);
    g_test_add_func("/cli/report/descriptor", test_descriptor);
    g_test_add_func("/cli/report/check", test_check);
    int failed = g_test_run();
    static const char *const names[] = {
        "told", "stdout", "first", "second", "file", "fifo", "null"
    };
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = path_of(names[i]);
        g_unlink(path);
    }
    g_rmdir(dir);
    g_free(dir);
    return failed;
}
