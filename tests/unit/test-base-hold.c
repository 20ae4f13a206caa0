/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: Ctrl-Z does not stop a process that holds a VM, but stops it once nothing is held; one
 * that holds none it stops at once, and one that was told to end after it not at all; a program
 * that did not ask for this is left alone. */
#include <glib.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hold.h"

/* In a process group of its own, whose parent is in another one of the session: that is one that
 * Ctrl-Z stops. Returns its status at its first change. */
static pid_t start(void (*body)(void), int *ret_status)
{
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        setpgid(0, 0);
        signal(SIGTSTP, SIG_DFL);
        body();
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, ret_status, WUNTRACED), ==, pid);
    return pid;
}

static void finish(pid_t pid)
{
    int status;
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    g_assert_cmpint(waitpid(pid, &status, WUNTRACED), ==, pid);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* One, and one within it: what is not stopped comes to be SIGSTOPped, or ends. */
static void hold_twice(void)
{
    stasis_defer_suspend();
    stasis_hold_begin();
    stasis_hold_begin();
    raise(SIGTSTP);
    stasis_hold_end();
    raise(SIGTTOU);
    raise(SIGSTOP);
    stasis_hold_end();
}

static void waits(void)
{
    int status;
    pid_t pid = start(hold_twice, &status);
    g_assert_true(WIFSTOPPED(status));
    g_assert_cmpint(WSTOPSIG(status), ==, SIGSTOP);
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    g_assert_cmpint(waitpid(pid, &status, WUNTRACED), ==, pid);
    g_assert_true(WIFSTOPPED(status));
    g_assert_cmpint(WSTOPSIG(status), ==, SIGTSTP);
    finish(pid);
}

static void hold_and_end(void)
{
    stasis_defer_suspend();
    stasis_hold_begin();
    raise(SIGTSTP);
    stasis_forget_suspend();
    stasis_hold_end();
}

static void told_to_end(void)
{
    int status;
    start(hold_and_end, &status);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void hold_before(void)
{
    stasis_defer_suspend();
    stasis_hold_begin();
    stasis_hold_end();
    raise(SIGTSTP);
}

static void at_once(void)
{
    int status;
    pid_t pid = start(hold_before, &status);
    g_assert_true(WIFSTOPPED(status));
    g_assert_cmpint(WSTOPSIG(status), ==, SIGTSTP);
    finish(pid);
}

static void hold_unasked(void)
{
    stasis_hold_begin();
    raise(SIGTSTP);
    stasis_hold_end();
}

static void not_asked_for(void)
{
    int status;
    pid_t pid = start(hold_unasked, &status);
    g_assert_true(WIFSTOPPED(status));
    finish(pid);
}

static void hold_ignored(void)
{
    signal(SIGTSTP, SIG_IGN);
    hold_twice();
}

/* As a shell without job control starts what it starts. */
static void ignored(void)
{
    int status;
    pid_t pid = start(hold_ignored, &status);
    g_assert_true(WIFSTOPPED(status));
    g_assert_cmpint(WSTOPSIG(status), ==, SIGSTOP);
    finish(pid);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/hold/waits", waits);
    g_test_add_func("/base/hold/told-to-end", told_to_end);
    g_test_add_func("/base/hold/at-once", at_once);
    g_test_add_func("/base/hold/not-asked-for", not_asked_for);
    g_test_add_func("/base/hold/ignored", ignored);
    return g_test_run();
}
