/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: reads and writes are whole or an error, and a file that is replaced is seen as the old
 * or the new one, never as part of either. */
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stasis/error.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "base/fd.h"
#include "test-store-util.h"

#define LEN 300000u

/* ---- pipes that give little at a time, and signals in between ---- */

typedef struct {
    int fd;
    const guint8 *data;
} Trickle;

static gpointer trickle(gpointer data)
{
    const Trickle *source = data;
    for (gsize done = 0, n; done < LEN; done += n) {
        n = MIN(1 + done % 1777, LEN - done);
        g_assert_cmpint(write(source->fd, source->data + done, n), ==, n);
    }
    return NULL;
}

static gpointer drink(gpointer data)
{
    const Trickle *sink = data;
    g_autofree guint8 *got = g_malloc(LEN);
    for (gsize done = 0; done < LEN;) {
        ssize_t n = read(sink->fd, got + done, MIN(1 + done % 1777, LEN - done));
        g_assert_cmpint(n, >, 0);
        done += (gsize)n;
    }
    g_assert_cmpmem(got, LEN, sink->data, LEN);
    return NULL;
}

static void on_alarm(int signal)
{
}

/* Without SA_RESTART, so that calls that wait end with EINTR: in this thread only. */
static void interrupt_often(gboolean on)
{
    struct sigaction action = { .sa_handler = on_alarm };
    sigaction(SIGALRM, &action, NULL);
    struct itimerval timer = { .it_interval = { 0, on ? 300 : 0 },
                               .it_value = { 0, on ? 300 : 0 } };
    g_assert_cmpint(setitimer(ITIMER_REAL, &timer, NULL), ==, 0);
}

static GThread *start_unsignalled(GThreadFunc func, gpointer data)
{
    sigset_t alarms, before;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarms, &before);
    GThread *thread = g_thread_new("peer", func, data);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return thread;
}

static void test_short_counts(void)
{
    g_autofree guint8 *data = g_malloc(LEN);
    g_autofree guint8 *got = g_malloc0(LEN);
    test_fill(data, LEN, 1);
    int in[2], out[2];
    g_assert_cmpint(pipe2(in, O_CLOEXEC), ==, 0);
    g_assert_cmpint(pipe2(out, O_CLOEXEC), ==, 0);
    GThread *source = start_unsignalled(trickle, &(Trickle){ in[1], data });
    GThread *sink = start_unsignalled(drink, &(Trickle){ out[0], data });
    interrupt_often(TRUE);
    g_assert_cmpint(stasis_read_all(in[0], got, LEN), ==, 0);
    g_assert_cmpint(stasis_write_all(out[1], got, LEN), ==, 0);
    interrupt_often(FALSE);
    g_thread_join(source);
    g_thread_join(sink);
    g_assert_cmpmem(got, LEN, data, LEN);
    /* The other end goes in the middle. */
    g_assert_cmpint(write(in[1], data, 10), ==, 10);
    close(in[1]);
    g_assert_cmpint(stasis_read_all(in[0], got, 11), ==, -ENODATA);
    g_assert_cmpint(stasis_read_all(in[0], got, 0), ==, 0);
    signal(SIGPIPE, SIG_IGN);
    close(out[0]);
    g_assert_cmpint(stasis_write_all(out[1], data, 10), ==, -EPIPE);
    close(in[0]);
    close(out[1]);
    g_assert_cmpint(stasis_read_all(-1, got, 1), ==, -EBADF);
    g_assert_cmpint(stasis_write_all(-1, got, 1), ==, -EBADF);
}

static void test_positioned(void)
{
    stasis_autofd int fd = memfd_create("io", MFD_CLOEXEC);
    g_autofree guint8 *data = g_malloc(LEN);
    g_autofree guint8 *got = g_malloc0(LEN);
    test_fill(data, LEN, 2);
    g_assert_cmpint(stasis_pwrite_all(fd, data, LEN, 5000), ==, 0);
    g_assert_cmpint(stasis_pread_all(fd, got, LEN, 5000), ==, 0);
    g_assert_cmpmem(got, LEN, data, LEN);
    g_assert_cmpint(stasis_pread_all(fd, got, LEN, 5001), ==, -ENODATA);
    g_assert_cmpint(stasis_pread_all(fd, got, 1, LEN + 5000), ==, -ENODATA);
    g_assert_cmpint(stasis_pread_all(fd, got, 0, LEN + 9000), ==, 0);
    g_assert_cmpint(lseek(fd, 0, SEEK_CUR), ==, 0);
    stasis_autofd int read_only = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(stasis_pwrite_all(read_only, data, 1, 0), ==, -EBADF);
    /* A write that gets half of the way is an error, not a short count. */
    stasis_autofd int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(stasis_write_all(full, data, 1), ==, -ENOSPC);
}

/* ---- files ---- */

static int open_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static guint count_names(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    guint n = 0;
    while (g_dir_read_name(dir) != NULL)
        n++;
    return n;
}

typedef struct {
    int dir_fd;
    gint quit;
} Rewriter;

/* Contents of different lengths, each of one letter. */
static gpointer rewrite(gpointer data)
{
    Rewriter *rewriter = data;
    char text[9000];
    for (guint i = 0; !g_atomic_int_get(&rewriter->quit); i++) {
        g_autoptr(GError) error = NULL;
        memset(text, 'a' + (int)(i % 26), sizeof(text));
        stasis_write_file_at(rewriter->dir_fd, "f", text, 100 + i % 26 * 300, FALSE, &error);
        g_assert_no_error(error);
    }
    return NULL;
}

static void test_replaced_whole(void)
{
    g_autofree char *path = test_make_dir();
    stasis_autofd int dir_fd = open_dir(path);
    Rewriter rewriter = { .dir_fd = dir_fd };
    g_autoptr(GError) error = NULL;
    g_assert_true(stasis_write_file_at(dir_fd, "f", "", 0, TRUE, &error));
    GThread *thread = g_thread_new("rewrite", rewrite, &rewriter);
    guint n_changes = 0;
    char last = 0;
    for (guint i = 0; i < 200000 && n_changes < 300; i++) {
        size_t len = 0;
        g_autofree char *text = stasis_read_file_at(dir_fd, "f", 100000, &len, &error);
        g_assert_no_error(error);
        g_assert_cmpint(text[len], ==, '\0');
        if (len == 0)
            continue;
        g_assert_cmpuint(len, ==, 100 + (gsize)(text[0] - 'a') * 300);
        for (size_t c = 1; c < len; c++)
            g_assert_cmpint(text[c], ==, text[0]);
        n_changes += text[0] != last;
        last = text[0];
    }
    g_atomic_int_set(&rewriter.quit, TRUE);
    g_thread_join(thread);
    g_assert_cmpuint(n_changes, >, 1);
    g_assert_cmpuint(count_names(path), ==, 1);
    struct stat st;
    g_assert_cmpint(fstatat(dir_fd, "f", &st, 0), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);
    test_remove_tree(path);
}

static void test_write_fails(void)
{
    g_autofree char *path = test_make_dir();
    stasis_autofd int dir_fd = open_dir(path);
    g_autoptr(GError) error = NULL;
    /* Where a directory of that name is in the way nothing is left beside it. */
    g_assert_cmpint(mkdirat(dir_fd, "taken", 0700), ==, 0);
    g_assert_false(stasis_write_file_at(dir_fd, "taken", "x", 1, TRUE, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, "taken"));
    g_assert_cmpuint(count_names(path), ==, 1);
    g_clear_error(&error);
    g_assert_false(stasis_write_file_at(dir_fd, "no/where", "x", 1, FALSE, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, "No such file"));
    test_remove_tree(path);
}

static void assert_read_fails(int dir_fd, const char *name, size_t max, int code)
{
    g_autoptr(GError) error = NULL;
    size_t len = 77;
    g_assert_null(stasis_read_file_at(dir_fd, name, max, &len, &error));
    g_assert_error(error, STASIS_ERROR, code);
    g_assert_nonnull(strstr(error->message, name));
    g_assert_null(strchr(error->message, '\n'));
    g_assert_cmpuint(len, ==, 77);
}

static void test_read_limit(void)
{
    g_autofree char *path = test_make_dir();
    stasis_autofd int dir_fd = open_dir(path);
    g_autoptr(GError) error = NULL;
    g_assert_true(stasis_write_file_at(dir_fd, "ten", "0123456789", 10, FALSE, &error));
    g_autofree char *whole = stasis_read_file_at(dir_fd, "ten", 10, NULL, &error);
    g_assert_cmpstr(whole, ==, "0123456789");
    assert_read_fails(dir_fd, "ten", 9, STASIS_ERROR_CORRUPT);
    assert_read_fails(dir_fd, "none", 9, STASIS_ERROR_FAILED);
    /* A sparse file of terabytes costs no memory. */
    stasis_autofd int huge = openat(dir_fd, "huge", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    g_assert_cmpint(ftruncate(huge, (off_t)1 << 42), ==, 0);
    assert_read_fails(dir_fd, "huge", 1 << 20, STASIS_ERROR_CORRUPT);
    g_assert_cmpint(mkdirat(dir_fd, "directory", 0700), ==, 0);
    assert_read_fails(dir_fd, "directory", 1 << 20, STASIS_ERROR_CORRUPT);
    test_remove_tree(path);
}

static void test_errno(void)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(stasis_set_errno(&error, ENOENT, "open %s %d", "x", 3));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_assert_cmpstr(error->message, ==, "open x 3: No such file or directory");
    g_clear_error(&error);
    g_assert_false(stasis_set_cancelled(&error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CANCELLED);
    g_assert_false(stasis_set_errno(NULL, ENOENT, "nobody listens"));
}

static void test_fd_guard(void)
{
    int kept = -1, number = -1;
    {
        stasis_autofd int fd = memfd_create("guard", MFD_CLOEXEC);
        stasis_autofd int other = dup(fd);
        number = fd;
        kept = stasis_steal_fd(&other);
        g_assert_cmpint(other, ==, -1);
    }
    g_assert_cmpint(fcntl(number, F_GETFD), ==, -1);
    g_assert_cmpint(fcntl(kept, F_GETFD), !=, -1);
    int cleared = kept;
    stasis_clear_fd(&cleared);
    g_assert_cmpint(cleared, ==, -1);
    g_assert_cmpint(fcntl(kept, F_GETFD), ==, -1);
    stasis_clear_fd(&cleared);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/io/short-counts", test_short_counts);
    g_test_add_func("/base/io/positioned", test_positioned);
    g_test_add_func("/base/io/replaced-whole", test_replaced_whole);
    g_test_add_func("/base/io/write-fails", test_write_fails);
    g_test_add_func("/base/io/read-limit", test_read_limit);
    g_test_add_func("/base/io/errno", test_errno);
    g_test_add_func("/base/io/fd-guard", test_fd_guard);
    return g_test_run();
}
