/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ctrl-C, SIGTERM and SIGHUP ask the operation at work to give up cleanly; a second SIGINT or
 * SIGTERM ends the process at once (a VM that is stopped at that moment is let go by the library's
 * own guard, as after kill -9). Ctrl-Z stops us only while no VM waits for us, and not at all if
 * one of these comes before that.
 *
 * Handlers and a pipe, rather than blocked signals: a handler is reset by exec, so a QEMU that we
 * start inherits nothing of this. A signal that was ignored when we were started (nohup, a shell's
 * background job) stays ignored.
 */
#include "signals.h"

#include <errno.h>
#include <signal.h>
#include <stasis/error.h>
#include <stasis/suspend.h>
#include <unistd.h>

#include <glib-unix.h>

static int wake_fd = -1;
static volatile sig_atomic_t asked;

static void on_signal(int signum)
{
    int saved = errno;
    stasis_forget_suspend();
    if (asked && signum != SIGHUP)
        _exit(130);
    if (!asked && write(wake_fd, "", 1) < 0)
        _exit(130);
    asked = 1;
    errno = saved;
}

/* Only there so that a write to a closed pipe fails with EPIPE, and exec resets it. */
static void on_sigpipe(int signum)
{
}

typedef struct {
    int fd;
    GCancellable *cancellable;
} Watch;

static gpointer watch_pipe(gpointer data)
{
    Watch *watch = data;
    char byte;
    while (read(watch->fd, &byte, 1) < 0 && errno == EINTR)
        continue;
    g_cancellable_cancel(watch->cancellable);
    return NULL;
}

gboolean cli_signals_init(GCancellable *cancellable, GError **error)
{
    static Watch watch;
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
    int fds[2];
    if (!g_unix_open_pipe(fds, FD_CLOEXEC, error))
        return FALSE;
    watch = (Watch){ .fd = fds[0], .cancellable = g_object_ref(cancellable) };
    wake_fd = fds[1];
    GThread *thread = g_thread_try_new("signals", watch_pipe, &watch, error);
    if (thread == NULL)
        return FALSE;
    g_thread_unref(thread);

    for (guint i = 0; i < G_N_ELEMENTS(signals); i++) {
        struct sigaction old, action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
    }
    struct sigaction pipe_action = { .sa_handler = on_sigpipe, .sa_flags = SA_RESTART };
    sigaction(SIGPIPE, &pipe_action, NULL);
    stasis_defer_suspend();
    return TRUE;
}
