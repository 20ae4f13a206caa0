/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a command that prints as it goes, for as long as it is let, ends when nobody can read
 * that any more, and its exit status says so. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/output.h"

typedef struct {
    gboolean first, second, cancelled;
    int exit_code;
} Seen;

/* Two lines and the end, with @fd as stdout; it is closed. */
static Seen print_to(int fd, gboolean called_off)
{
    Seen seen;
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    CliCall call = { .cancellable = cancellable };
    fflush(stdout);
    int kept = dup(STDOUT_FILENO), kept_err = dup(STDERR_FILENO), null = open("/dev/null", O_RDWR);
    g_assert_cmpint(dup2(fd, STDOUT_FILENO), ==, STDOUT_FILENO);
    g_assert_cmpint(dup2(null, STDERR_FILENO), ==, STDERR_FILENO);
    close(fd);
    seen.first = cli_print_line(&call, "one");
    seen.second = cli_print_line(&call, "two");
    seen.cancelled = g_cancellable_is_cancelled(cancellable);
    if (called_off)
        g_cancellable_cancel(cancellable);
    /* What whoever does the work says of it. */
    if (g_cancellable_is_cancelled(cancellable))
        g_set_error_literal(&error, STASIS_ERROR, STASIS_ERROR_CANCELLED, "cancelled");
    seen.exit_code = cli_finish(&call, error);
    dup2(kept, STDOUT_FILENO);
    dup2(kept_err, STDERR_FILENO);
    clearerr(stdout);
    close(kept);
    close(kept_err);
    close(null);
    return seen;
}

static void test_full(void)
{
    Seen seen = print_to(open("/dev/full", O_WRONLY), FALSE);
    g_assert_false(seen.first);
    g_assert_false(seen.second);
    g_assert_true(seen.cancelled);
    g_assert_cmpint(seen.exit_code, ==, 1);
}

static void test_closed(void)
{
    int ends[2];
    g_assert_cmpint(pipe(ends), ==, 0);
    close(ends[0]);
    Seen seen = print_to(ends[1], FALSE);
    g_assert_false(seen.first);
    g_assert_true(seen.cancelled);
    g_assert_cmpint(seen.exit_code, ==, 1);
}

static void test_read(void)
{
    int ends[2];
    char text[16] = "";
    g_assert_cmpint(pipe(ends), ==, 0);
    Seen seen = print_to(ends[1], FALSE);
    g_assert_true(seen.first && seen.second && !seen.cancelled);
    g_assert_cmpint(seen.exit_code, ==, 0);
    g_assert_cmpint(read(ends[0], text, sizeof text - 1), ==, 8);
    g_assert_cmpstr(text, ==, "one\ntwo\n");
    close(ends[0]);
}

/* Ctrl-C is no lack of a reader. */
static void test_interrupted(void)
{
    Seen seen = print_to(open("/dev/null", O_WRONLY), TRUE);
    g_assert_true(seen.second);
    g_assert_cmpint(seen.exit_code, ==, 130);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    g_test_add_func("/cli/output/full", test_full);
    g_test_add_func("/cli/output/closed", test_closed);
    g_test_add_func("/cli/output/read", test_read);
    g_test_add_func("/cli/output/interrupted", test_interrupted);
    return g_test_run();
}
