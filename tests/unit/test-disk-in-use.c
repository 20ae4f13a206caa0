/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a disk file that somebody has locked is seen to be in use, and one that a guest could
 * have made look like something else is not believed. */
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stasis/error.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "disk/in-use.h"

#define HEAD 104

static char *make_file(const guint8 *head, gsize len)
{
    g_autoptr(GError) error = NULL;
    char *path = NULL;
    int fd = g_file_open_tmp("stasis-disk-XXXXXX", &path, &error);
    g_assert_no_error(error);
    g_assert_cmpint(write(fd, head, len), ==, len);
    g_assert_cmpint(ftruncate(fd, 4096), ==, 0);
    close(fd);
    return path;
}

static void check_guess(const guint8 *head, gsize len, const char *expected)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = make_file(head, len);
    const char *format = stasis_disk_guess_format(path, &error);
    g_assert_cmpstr(format, ==, expected);
    if (expected == NULL)
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    else
        g_assert_no_error(error);
    g_unlink(path);
}

static void test_format(void)
{
    guint8 head[HEAD] = "QFI\xfb";
    head[7] = 3;
    check_guess(head, HEAD, "qcow2");
    head[79] = 1 << 2; /* a file for the data */
    check_guess(head, HEAD, NULL);
    head[7] = 2; /* that feature is of version 3 */
    check_guess(head, HEAD, "qcow2");
    head[15] = 104; /* a backing file's name */
    check_guess(head, HEAD, NULL);
    head[0] = 'X';
    check_guess(head, HEAD, "raw");
    g_autoptr(GError) error = NULL;
    g_assert_null(stasis_disk_guess_format("/nonexistent", &error));
    g_assert_nonnull(error);
}

static void test_short(void)
{
    g_autofree char *path = make_file((const guint8 *)"QFI\xfb", 4);
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(truncate(path, 4), ==, 0);
    g_assert_cmpstr(stasis_disk_guess_format(path, &error), ==, "raw");
    g_assert_no_error(error);
    g_unlink(path);
}

/* As QEMU locks: shared, on a byte that says what it does. */
static void test_locked(void)
{
    g_autofree char *path = make_file((const guint8 *)"x", 1);
    g_autoptr(GError) error = NULL;
    g_assert_true(stasis_disk_check_unused(path, &error));
    g_assert_no_error(error);
    stasis_autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 1 };
    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &lock), ==, 0);
    g_assert_false(stasis_disk_check_unused(path, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_BUSY);
    g_clear_error(&error);
    lock.l_type = F_UNLCK;
    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &lock), ==, 0);
    /* One who knows nothing of these locks. */
    g_assert_false(stasis_disk_check_unused(path, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_BUSY);
    g_clear_error(&error);
    stasis_clear_fd(&fd);
    g_assert_true(stasis_disk_check_unused(path, &error));
    g_assert_no_error(error);
    g_unlink(path);
}

static void test_no_disk(void)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(stasis_disk_check_unused("/dev/null", &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_clear_error(&error);
    g_assert_false(stasis_disk_check_unused("/nonexistent", &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/disk/in-use/format", test_format);
    g_test_add_func("/disk/in-use/short", test_short);
    g_test_add_func("/disk/in-use/locked", test_locked);
    g_test_add_func("/disk/in-use/no-disk", test_no_disk);
    return g_test_run();
}
