/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what a guest writes to its console takes no more of the host's memory than it may, and
 * no VM's record from it; the last of it is there, where it was. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/tree.h"
#include "vmm/logs.h"
#include "vmm/registry.h"

#define LIMIT (128u << 10)
#define PIECE 4096u

static char *root;

static void keep_record(const char *name)
{
    g_autoptr(GError) error = NULL;
    StasisRecord record = { .name = (char *)name, .pid = 1, .qmp_path = (char *)"/q" };
    stasis_record_save(&record, &error);
    g_assert_no_error(error);
}

static char *log_of(const char *name, const char *file)
{
    return g_build_filename(root, name, file, NULL);
}

/* Appended to, as QEMU does, by the number of the piece; to its last one, or till it is full. */
static guint write_log(int fd, guint from, guint n)
{
    guint32 piece[PIECE / sizeof(guint32)];
    for (guint i = from; i < from + n; i++) {
        for (guint k = 0; k < G_N_ELEMENTS(piece); k++)
            piece[k] = i + 1;
        if (write(fd, piece, sizeof piece) != (ssize_t)sizeof piece)
            return i;
    }
    return from + n;
}

static int open_log(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static void check_bounded(int fd, guint n_pieces)
{
    struct stat st;
    guint32 piece[PIECE / sizeof(guint32)];
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, (off_t)n_pieces * PIECE);
    g_assert_cmpint(st.st_blocks * 512, <=, LIMIT + (64 << 10));
    for (guint i = n_pieces - LIMIT / PIECE; i < n_pieces; i++) {
        g_assert_cmpint(pread(fd, piece, PIECE, (off_t)i * PIECE), ==, PIECE);
        g_assert_cmpuint(piece[0], ==, i + 1);
        g_assert_cmpuint(piece[G_N_ELEMENTS(piece) - 1], ==, i + 1);
    }
}

static void test_bounded(void)
{
    keep_record("one");
    keep_record("two");
    g_autofree char *one = log_of("one", "console.log"), *two = log_of("two", "qemu.log");
    stasis_autofd int fd = open_log(one), other = open_log(two);
    g_assert_cmpuint(write_log(fd, 0, 300), ==, 300);
    g_assert_cmpuint(write_log(other, 0, 299), ==, 299);
    stasis_logs_bound("one");
    check_bounded(fd, 300);
    g_assert_cmpuint(write_log(fd, 300, 50), ==, 350); /* it goes on behind what was there */
    stasis_logs_bound(NULL);
    check_bounded(fd, 350);
    check_bounded(other, 299);
    stasis_record_remove("one", NULL);
    stasis_record_remove("two", NULL);
}

/* Nothing but logs, and nothing where a link leads. */
static void test_no_link(void)
{
    struct stat st;
    keep_record("one");
    g_autofree char *path = log_of("one", "console.log");
    g_autofree char *aim = g_build_filename(root, "aim", NULL);
    stasis_autofd int fd = open_log(aim);
    write_log(fd, 0, 300);
    g_assert_cmpint(symlink(aim, path), ==, 0);
    stasis_logs_bound(NULL);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(st.st_blocks * 512, >=, 300 * PIECE);
    stasis_record_remove("one", NULL);
    g_unlink(aim);
}

/* One guest has filled the whole file system: the record of another VM can be written. */
static void test_full(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("logs", root, "tmpfs", 0, "size=2m,mode=700") < 0) {
        g_test_skip("nothing can be mounted");
        return;
    }
    keep_record("one");
    keep_record("two");
    g_autofree char *path = log_of("one", "console.log");
    stasis_autofd int fd = open_log(path);
    g_assert_cmpuint(write_log(fd, 0, 1000), <, 1000);
    keep_record("two");
    stasis_clear_fd(&fd);
    g_assert_cmpint(umount(root), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    root = g_dir_make_tmp("stasis-logs-XXXXXX", NULL);
    g_setenv("STASIS_RUNTIME_DIR", root, TRUE);
    g_autofree char *limit = g_strdup_printf("%u", LIMIT);
    g_setenv("STASIS_LOG_BYTES", limit, TRUE);
    g_test_add_func("/vmm/logs/bounded", test_bounded);
    g_test_add_func("/vmm/logs/no-link", test_no_link);
    g_test_add_func("/vmm/logs/full", test_full);
    int r = g_test_run();
    stasis_remove_tree(root);
    g_free(root);
    return r;
}
