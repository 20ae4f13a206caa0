/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * By the signals' actions, rather than by blocking them: exec resets a handler, and what the kernel
 * does with a signal it decides as it is delivered. So there is no moment between looking and
 * stopping: once stasis_hold_begin() has returned, nothing stops us that comes later, and what came
 * earlier has stopped us by then, with nothing held.
 */
#include "base/hold.h"

#include <signal.h>
#include <unistd.h>

static GMutex mutex; /* guards the next two */
static guint n_holds;
static gboolean deferring;

static volatile sig_atomic_t asked; /* by Ctrl-Z, meanwhile */

static void on_suspend(int signum)
{
    if (signum == SIGTSTP)
        asked = 1;
}

/* What somebody else has a handler for, or ignores, stays so. A read or write of the terminal from
 * the background fails with EINTR: begun anew, it would be told to stop for ever. */
static void swap(void (*from)(int), void (*to)(int))
{
    static const int signals[] = { SIGTSTP, SIGTTIN, SIGTTOU };
    for (guint i = 0; i < G_N_ELEMENTS(signals); i++) {
        struct sigaction old, action = { .sa_handler = to };
        action.sa_flags = signals[i] == SIGTSTP ? SA_RESTART : 0;
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler == from)
            sigaction(signals[i], &action, NULL);
    }
}

void stasis_hold_begin(void)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&mutex);
    if (n_holds++ == 0 && deferring)
        swap(SIG_DFL, on_suspend);
}

/* True: the process is to be stopped now. */
static gboolean end(void)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&mutex);
    if (--n_holds > 0 || !deferring)
        return FALSE;
    swap(on_suspend, SIG_DFL);
    gboolean suspend = asked;
    asked = 0;
    return suspend;
}

void stasis_hold_end(void)
{
    if (end())
        kill(getpid(), SIGTSTP);
}

void stasis_forget_suspend(void)
{
    asked = 0;
}

void stasis_defer_suspend(void)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&mutex);
    if (n_holds > 0 && !deferring)
        swap(SIG_DFL, on_suspend);
    deferring = TRUE;
}
