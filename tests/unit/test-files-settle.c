/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what comes out of a guest's disk is neither a device of the host's nor a program of its
 * root's, and goes nowhere but into the directory it is meant for. */
#include <errno.h>
#include <glib/gstdio.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/tree.h"
#include "engine/files/files-internal.h"

static char *root;

static char *at(const char *path)
{
    return g_build_filename(root, path, NULL);
}

static void make_dir(const char *path)
{
    g_autofree char *whole = at(path);
    g_assert_cmpint(g_mkdir_with_parents(whole, 0755), ==, 0);
}

static void make_file(const char *path, const char *text, mode_t mode)
{
    g_autofree char *whole = at(path);
    g_assert_true(g_file_set_contents(whole, text, -1, NULL));
    g_assert_cmpint(chmod(whole, mode), ==, 0);
}

static void make_link(const char *target, const char *path)
{
    g_autofree char *whole = at(path), *to = at(target);
    g_assert_cmpint(symlink(to, whole), ==, 0);
}

static void has(const char *path, const char *text)
{
    g_autofree char *whole = at(path), *found = NULL;
    g_assert_true(g_file_get_contents(whole, &found, NULL, NULL));
    g_assert_cmpstr(found, ==, text);
}

/* 0: nothing is there. */
static mode_t mode_of(const char *path)
{
    struct stat st;
    g_autofree char *whole = at(path);
    return lstat(whole, &st) == 0 ? st.st_mode : 0;
}

static gboolean settle(GError **error)
{
    g_autofree char *from = at("from"), *to = at("to");
    return stasis_files_settle(from, to, error);
}

static void begin(void)
{
    g_autofree char *to = at("to"), *from = at("from");
    stasis_remove_tree(from);
    stasis_remove_tree(to);
    make_dir("from");
    make_dir("to");
}

static void test_harmless(void)
{
    g_autoptr(GError) error = NULL;
    begin();
    make_dir("from/x/deep");
    make_file("from/x/su", "su", 06755);
    make_file("from/x/deep/file", "file", 0640);
    make_link("nothing", "from/x/deep/link");
    g_autofree char *fifo = at("from/x/deep/fifo"), *node = at("from/x/deep/node");
    g_autofree char *dir = at("from/x/deep"), *shut = at("from/x");
    g_assert_cmpint(mkfifo(fifo, 0666), ==, 0);
    if (mknod(node, S_IFCHR | 0666, makedev(1, 3)) < 0)
        g_test_message("no node can be made here: %s", g_strerror(errno));
    g_assert_cmpint(chmod(dir, 07777), ==, 0);
    g_assert_cmpint(chmod(shut, 0555), ==, 0);
    g_assert_true(settle(&error));
    g_assert_no_error(error);
    g_assert_cmpint(mode_of("to/x"), ==, S_IFDIR | 0555);
    g_assert_cmpint(mode_of("to/x/su"), ==, S_IFREG | 0755);
    g_assert_cmpint(mode_of("to/x/deep"), ==, S_IFDIR | 01777);
    g_assert_cmpint(mode_of("to/x/deep/file"), ==, S_IFREG | 0640);
    g_assert_cmpint(mode_of("to/x/deep/link") & S_IFMT, ==, S_IFLNK);
    g_assert_cmpint(mode_of("to/x/deep/fifo"), ==, 0);
    g_assert_cmpint(mode_of("to/x/deep/node"), ==, 0);
    g_autofree char *done = at("to/x");
    g_assert_cmpint(chmod(done, 0755), ==, 0);
}

/* What is in its place is replaced, not written through, and directories are added to. */
static void test_in_its_place(void)
{
    g_autoptr(GError) error = NULL;
    begin();
    make_file("outside", "outside", 0644);
    make_dir("to/x");
    make_file("to/x/old", "old", 0644);
    make_file("to/x/both", "before", 0644);
    make_link("outside", "to/x/link");
    make_dir("from/x");
    make_file("from/x/link", "new", 0644);
    make_file("from/x/both", "after", 0644);
    g_assert_true(settle(&error));
    g_assert_no_error(error);
    has("outside", "outside");
    has("to/x/link", "new");
    has("to/x/both", "after");
    has("to/x/old", "old");
    g_assert_cmpint(mode_of("to/x/link") & S_IFMT, ==, S_IFREG);
}

/* Where a link to a directory is in a directory's place, it is refused. */
static void test_through_a_link(void)
{
    g_autoptr(GError) error = NULL;
    begin();
    make_dir("elsewhere");
    make_link("elsewhere", "to/x");
    make_dir("from/x");
    make_file("from/x/file", "file", 0644);
    make_file("from/y", "other", 0644);
    g_assert_false(settle(&error));
    g_assert_nonnull(strstr(error->message, "make x"));
    has("to/y", "other"); /* which nothing keeps from it */
    g_assert_cmpint(mode_of("elsewhere/file"), ==, 0);
}

static void test_too_deep(void)
{
    g_autoptr(GError) error = NULL;
    begin();
    GString *path = g_string_new("from");
    for (guint i = 0; i < 250; i++)
        g_string_append(path, "/d");
    make_dir(path->str);
    g_string_free(path, TRUE);
    g_assert_false(settle(&error));
    g_assert_nonnull(strstr(error->message, "directories in another"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    root = g_dir_make_tmp("stasis-settle-XXXXXX", NULL);
    g_test_add_func("/files-settle/harmless", test_harmless);
    g_test_add_func("/files-settle/in-its-place", test_in_its_place);
    g_test_add_func("/files-settle/through-a-link", test_through_a_link);
    g_test_add_func("/files-settle/too-deep", test_too_deep);
    int r = g_test_run();
    int fd = open(root, O_RDONLY | O_DIRECTORY);
    if (fd >= 0 && stasis_empty_dir(fd, 400) == 0)
        g_rmdir(root);
    g_free(root);
    return r;
}
