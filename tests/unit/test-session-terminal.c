/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: whoever draws on a session's terminal gets two sizes when somebody sits down in front of
 * it: one that is no smaller than the right one, whatever is drawn in between, and the right one.
 */
#include <glib.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "session/terminal.h"

/* ---- the sizes that are set ---- */

static struct winsize set[8];
static guint n_set;

int __wrap_ioctl(int fd, unsigned long request, void *argument);
int __real_ioctl(int fd, unsigned long request, void *argument);

int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
    if (request == TIOCSWINSZ && n_set < G_N_ELEMENTS(set))
        set[n_set++] = *(const struct winsize *)argument;
    return __real_ioctl(fd, request, argument);
}

/* ---- a session ---- */

/* Ends when the size of its terminal changes. */
static void __attribute__((noreturn)) be_command(int slave, int ready)
{
    sigset_t resized;
    int number;
    sigemptyset(&resized);
    sigaddset(&resized, SIGWINCH);
    sigprocmask(SIG_BLOCK, &resized, NULL);
    gboolean entered = terminal_enter(slave);
    close(ready);
    alarm(60); /* none comes */
    if (entered)
        sigwait(&resized, &number);
    _exit(0);
}

/* @ready is closed once its terminal is kept, by the keeper as the last one. */
static void __attribute__((noreturn)) be_first(int ready)
{
    setsid();
    int slave = terminal_make();
    pid_t command = slave >= 0 ? fork() : -1;
    if (command == 0)
        be_command(slave, ready);
    if (command < 0 || !terminal_keep())
        _exit(1);
    close(slave);
    close(ready);
    while (wait(NULL) > 0)
        ;
    _exit(0);
}

static pid_t start_session(void)
{
    int ready[2];
    char byte;
    g_assert_cmpint(pipe(ready), ==, 0);
    pid_t first = fork();
    g_assert_cmpint(first, >=, 0);
    if (first == 0) {
        close(ready[0]);
        be_first(ready[1]);
    }
    close(ready[1]);
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 0);
    close(ready[0]);
    return first;
}

static void sit_down(struct winsize *right)
{
    int master, slave, status;
    TerminalKeys keys = { -1, -1 };
    g_assert_cmpint(openpty(&master, &slave, NULL, NULL, right), ==, 0);
    g_assert_cmpint(dup2(slave, STDIN_FILENO), ==, STDIN_FILENO);
    pid_t first = start_session();
    n_set = 0;
    g_assert_cmpint(terminal_attend(first, &keys), ==, TERMINAL_ENDED);
    g_assert_cmpint(waitpid(first, &status, 0), ==, first);
    g_assert_cmpint(status, ==, 0);
    close(slave);
    close(master);
}

static void check_two_sizes(guint rows, guint columns)
{
    struct winsize right = { .ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns };
    sit_down(&right);
    g_assert_cmpuint(n_set, ==, 2);
    g_assert_true(set[0].ws_row != set[1].ws_row || set[0].ws_col != set[1].ws_col);
    /* Where none is known it is taken for 24 by 80. */
    g_assert_cmpuint(set[0].ws_row, >=, rows != 0 ? rows : 24);
    g_assert_cmpuint(set[0].ws_col, >=, columns != 0 ? columns : 80);
    g_assert_cmpuint(set[1].ws_row, ==, rows);
    g_assert_cmpuint(set[1].ws_col, ==, columns);
}

static void test_larger_first(void)
{
    check_two_sizes(24, 80);
    check_two_sizes(50, 200);
    check_two_sizes(2, 10);
}

static void test_unknown(void)
{
    check_two_sizes(0, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/session-terminal/larger-first", test_larger_first);
    g_test_add_func("/session-terminal/unknown", test_unknown);
    return g_test_run();
}
