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

static void report(gsize n_chars)
{
    g_autofree char *text = g_strnfill(n_chars, 'x');
    g_autoptr(JsonObject) object = json_object_new();
    json_object_set_string_member(object, "x", text);
    cli_report_object(object);
}

/* Into a pipe that nobody reads: whole lines as long as there is room, and no wait. */
static void test_nobody_reads(void)
{
    int ends[2], kept = dup(STDERR_FILENO);
    g_assert_cmpint(pipe2(ends, O_NONBLOCK), ==, 0);
    /* The writer's end waits, as it does for a guard. */
    g_assert_cmpint(fcntl(ends[1], F_SETFL, 0), ==, 0);
    g_assert_cmpint(dup2(ends[1], STDERR_FILENO), ==, STDERR_FILENO);
    alarm(60);
    for (guint i = 0; i < 3000; i++)
        report(i % 10 == 0 ? 9000 : i % 200);
    alarm(0);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[1]);
    g_autoptr(GString) told = g_string_new(NULL);
    char buf[4096];
    gssize n;
    while ((n = read(ends[0], buf, sizeof buf)) > 0)
        g_string_append_len(told, buf, n);
    close(ends[0]);
    g_auto(GStrv) lines = g_strsplit(told->str, "\n", -1);
    guint n_lines = g_strv_length(lines);
    g_assert_cmpuint(n_lines, >, 100);
    g_assert_cmpstr(lines[n_lines - 1], ==, "");
    for (guint i = 0; i + 1 < n_lines; i++)
        g_assert_true(g_str_has_prefix(lines[i], "{\"x\":\"") && g_str_has_suffix(lines[i], "\"}"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    g_test_add_func("/cli/output/full", test_full);
    g_test_add_func("/cli/output/closed", test_closed);
    g_test_add_func("/cli/output/read", test_read);
    g_test_add_func("/cli/output/interrupted", test_interrupted);
    g_test_add_func("/cli/output/nobody-reads", test_nobody_reads);
    return g_test_run();
}
