/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: each error has the name and the exit code that the documentation gives it, and each
 * fault point kills or fails where it is told to, once, and nowhere else. */
#include <gio/gio.h>
#include <signal.h>
#include <stasis/error.h>
#include <stasis/stasis.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"

static const struct {
    int code;
    const char *name;
    int exit_code;
} table[] = {
    { STASIS_ERROR_FAILED, "failed", 1 },
    { STASIS_ERROR_USAGE, "usage", 2 },
    { STASIS_ERROR_UNSUPPORTED, "unsupported", 1 },
    { STASIS_ERROR_BUSY, "busy", 1 },
    { STASIS_ERROR_BUDGET, "budget", 5 },
    { STASIS_ERROR_NO_STORE, "no-store", 10 },
    { STASIS_ERROR_LOCKED, "locked", 11 },
    { STASIS_ERROR_NOT_FOUND, "not-found", 12 },
    { STASIS_ERROR_CORRUPT, "corrupt", 13 },
    { STASIS_ERROR_CANCELLED, "cancelled", 130 },
    { STASIS_ERROR_UNSAVED, "unsaved", 6 },
    { STASIS_ERROR_REFUSED, "refused", 4 },
    { STASIS_ERROR_KEY, "key", 14 },
    { STASIS_ERROR_OUTRUN, "outrun", 7 },
};

static void assert_error_is(GQuark domain, int code, const char *name, int exit_code)
{
    g_autoptr(GError) error = g_error_new_literal(domain, code, "x");
    g_assert_cmpstr(stasis_error_name(error), ==, name);
    g_assert_cmpint(stasis_error_exit_code(error), ==, exit_code);
}

static void test_table(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(table); i++) {
        g_assert_cmpint(table[i].code, ==, i);
        assert_error_is(STASIS_ERROR, table[i].code, table[i].name, table[i].exit_code);
    }
    g_assert_cmpint(STASIS_ERROR_OUTRUN + 1, ==, G_N_ELEMENTS(table));
    /* Codes of another library version, and domains that pass through. */
    assert_error_is(STASIS_ERROR, -1, "failed", 1);
    assert_error_is(STASIS_ERROR, STASIS_ERROR_OUTRUN + 1, "failed", 1);
    assert_error_is(STASIS_ERROR, G_MAXINT, "failed", 1);
    assert_error_is(STASIS_ERROR, G_MININT, "failed", 1);
    assert_error_is(G_IO_ERROR, G_IO_ERROR_CANCELLED, "cancelled", 130);
    assert_error_is(G_IO_ERROR, G_IO_ERROR_NOT_FOUND, "failed", 1);
    assert_error_is(G_FILE_ERROR, STASIS_ERROR_CORRUPT, "failed", 1);
    g_assert_cmpstr(stasis_error_name(NULL), ==, "failed");
    g_assert_cmpint(stasis_error_exit_code(NULL), ==, 1);
    g_assert_cmpstr(g_quark_to_string(STASIS_ERROR), ==, "stasis-error-quark");
    g_assert_cmpstr(stasis_version(), ==, STASIS_VERSION);
}

/* What a cancelled GCancellable itself gives is ours too. */
static void test_cancelled(void)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    g_cancellable_cancel(cancellable);
    g_assert_true(g_cancellable_set_error_if_cancelled(cancellable, &error));
    g_assert_cmpstr(stasis_error_name(error), ==, "cancelled");
    g_assert_cmpint(stasis_error_exit_code(error), ==, 130);
}

/* ---- fault points; each spec in a process of its own, since it is read once ---- */

/* Pass every point twice. Exit status: which point failed first (its number), 100: none, 101:
 * one failed again or wrongly. */
static int pass_all(void)
{
    int failed = 100;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < STASIS_N_FAULTS; i++) {
            g_autoptr(GError) error = NULL;
            if (stasis_fault((StasisFault)i, i % 2 ? &error : NULL))
                continue;
            if (failed != 100)
                return 101;
            if (i % 2 && (!g_error_matches(error, STASIS_ERROR, STASIS_ERROR_FAILED) ||
                          strstr(error->message, stasis_fault_names()[i]) == NULL))
                return 101;
            failed = i;
        }
    }
    return failed;
}

/* Exit status: how often the point failed with that code, of ten times. */
static int count_outrun(void)
{
    int n = 0;
    for (int i = 0; i < 10; i++) {
        g_autoptr(GError) error = NULL;
        if (!stasis_fault(STASIS_FAULT_ARMED, &error) &&
            g_error_matches(error, STASIS_ERROR, STASIS_ERROR_OUTRUN))
            n++;
    }
    return n;
}

static int run_with(const char *spec, int (*func)(void))
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        if (spec != NULL)
            g_setenv("STASIS_FAULT", spec, TRUE);
        else
            g_unsetenv("STASIS_FAULT");
        _exit(func());
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    return status;
}

static void assert_returns(const char *spec, int (*func)(void), int code)
{
    int status = run_with(spec, func);
    g_test_message("%s: status %#x", spec, (guint)status);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, code);
}

static void assert_exits(const char *spec, int code)
{
    assert_returns(spec, pass_all, code);
}

static void assert_killed(const char *spec)
{
    int status = run_with(spec, pass_all);
    g_test_message("%s: status %#x", spec, (guint)status);
    g_assert_true(WIFSIGNALED(status));
    g_assert_cmpint(WTERMSIG(status), ==, SIGKILL);
}

static void test_fault_points(void)
{
    const char *const *names = stasis_fault_names();
    g_assert_cmpuint(g_strv_length((char **)names), ==, STASIS_N_FAULTS);
    g_assert_cmpint(STASIS_N_FAULTS, >=, 20);
    for (int i = 0; i < STASIS_N_FAULTS; i++) {
        g_autofree char *fail = g_strconcat(names[i], ":error", NULL);
        g_autofree char *die = g_strconcat(names[i], ":kill", NULL);
        assert_exits(fail, i);
        assert_killed(die);
        assert_killed(names[i]);
        for (int k = 0; k < i; k++)
            g_assert_cmpstr(names[i], !=, names[k]);
    }
    assert_exits(NULL, 100);
    static const char *const none[] = { "",       ":error", "nowhere",     "arme",
                                        "armedd", " armed", "armed,error", "ARMED" };
    for (guint i = 0; i < G_N_ELEMENTS(none); i++)
        assert_exits(none[i], 100);
}

static void test_fault_codes(void)
{
    assert_returns("armed:outrun", count_outrun, 1);
    assert_returns("armed:outrun*3", count_outrun, 3);
    assert_returns("armed:outrun*100", count_outrun, 10);
    assert_returns("armed:outrun*", count_outrun, 1);
    assert_returns("armed:budget*3", count_outrun, 0);
    assert_returns("armed:error*3", count_outrun, 0);
    assert_killed("armed:outran");
}

static void test_clock(void)
{
    guint64 before = (guint64)g_get_monotonic_time(), ours = stasis_now_us();
    guint64 after = (guint64)g_get_monotonic_time();
    g_assert_cmpuint(before, <=, ours);
    g_assert_cmpuint(ours, <=, after);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/error/table", test_table);
    g_test_add_func("/base/error/cancelled", test_cancelled);
    g_test_add_func("/base/fault/points", test_fault_points);
    g_test_add_func("/base/fault/codes", test_fault_codes);
    g_test_add_func("/base/clock/monotonic", test_clock);
    return g_test_run();
}
