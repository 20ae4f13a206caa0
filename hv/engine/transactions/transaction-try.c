/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A command as a transaction: its status decides, or what happens to the VM meanwhile. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stasis/error.h>
#include <stasis/store.h>
#include <stasis/transaction.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/options.h"
#include "engine/guards/watch.h"
#include "engine/transactions/transaction-file.h"

#define TERM_WAIT_MS 2000

typedef struct {
    pid_t pid;
    int pidfd;
    gboolean own_group; /* it leads a process group */
    gboolean to_stderr; /* its standard output as well */
} Command;

void stasis_try_result_free(StasisTryResult *result)
{
    if (result == NULL)
        return;
    g_clear_pointer(&result->failure, stasis_failure_free);
    g_clear_pointer(&result->image, stasis_image_info_free);
    g_clear_pointer(&result->undone, stasis_undone_free);
    g_free(result);
}

/* ---- the command ---- */

/* In the child: it must not outlive us, and what it starts ends with it; unless it is to have the
 * terminal, whose Ctrl-C then reaches all of them by itself. */
static void become_child(gpointer data)
{
    const Command *command = data;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    stasis_restore_file_limit();
    if (command->own_group)
        setpgid(0, 0);
    if (command->to_stderr)
        dup2(STDERR_FILENO, STDOUT_FILENO);
}

static gboolean start(Command *command, const StasisTryOptions *options, const char *name,
                      const StasisImageInfo *image, GError **error)
{
    g_auto(GStrv) env = g_get_environ();
    env = g_environ_setenv(env, "STASIS_DOMAIN", name, TRUE);
    env = g_environ_setenv(env, STASIS_TRY_IMAGE_VARIABLE, image->id, TRUE);
    command->own_group = !isatty(STDIN_FILENO);
    command->to_stderr = options->output_to_stderr;
    GSpawnFlags flags =
        G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_SEARCH_PATH | G_SPAWN_CHILD_INHERITS_STDIN;
    if (!g_spawn_async(NULL, (char **)options->argv, env, flags, become_child, command,
                       &command->pid, error)) {
        g_prefix_error(error, "%s: ", options->argv[0]);
        return FALSE;
    }
    command->pidfd = pidfd_open(command->pid, 0);
    return command->pidfd >= 0 || stasis_set_errno(error, errno, "%s", options->argv[0]);
}

static void send(const Command *command, int signum)
{
    kill(command->own_group ? -command->pid : command->pid, signum);
}

static gboolean has_ended(const Command *command, int wait_ms)
{
    struct pollfd ended = { .fd = command->pidfd, .events = POLLIN };
    return poll(&ended, 1, wait_ms) > 0;
}

static int reap(const Command *command)
{
    int status = 0;
    while (waitpid(command->pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* What it started and left behind in its group goes too: it is part of what failed. */
static int end(const Command *command)
{
    if (!has_ended(command, 0)) {
        send(command, SIGTERM);
        if (!has_ended(command, TERM_WAIT_MS))
            send(command, SIGKILL);
    }
    int status = reap(command);
    if (command->own_group)
        kill(-command->pid, SIGKILL);
    return status;
}

/* ---- together ---- */

static void watch_it(StasisTransaction *tx, const Command *command, const StasisTryOptions *options,
                     StasisTryResult *result, GCancellable *cancellable)
{
    guint64 limit_us = options->timeout_us != 0 ? options->timeout_us : G_MAXUINT64;
    result->failure = stasis_transaction_wait(tx, limit_us, command->pidfd, cancellable);
    if (result->failure != NULL)
        result->outcome = STASIS_TRY_EVENT;
    else if (cancellable != NULL && g_cancellable_is_cancelled(cancellable))
        result->outcome = STASIS_TRY_CANCELLED;
    else if (!has_ended(command, 0))
        result->outcome = STASIS_TRY_TIMEOUT;
    else
        result->outcome = STASIS_TRY_COMMITTED;
    if (result->outcome != STASIS_TRY_COMMITTED)
        result->failed_at_us = g_get_real_time();
}

static void fail(StasisTryResult *result, StasisTryOutcome outcome)
{
    result->outcome = outcome;
    result->failed_at_us = g_get_real_time();
}

static gboolean conclude(StasisTransaction *tx, StasisTryResult *result, GError **error)
{
    g_autoptr(GError) ill = NULL;
    if (result->outcome == STASIS_TRY_COMMITTED && result->status != 0)
        fail(result, STASIS_TRY_FAILED);
    if (result->outcome == STASIS_TRY_COMMITTED) {
        if (stasis_transaction_commit(tx, &ill))
            return TRUE;
        fail(result, STASIS_TRY_EVENT);
        result->failure = stasis_failure_new("state", ill->message);
    }
    result->undone = stasis_transaction_rollback(tx, error);
    return result->undone != NULL;
}

StasisTryResult *stasis_try(StasisVm *vm, StasisStore *store, const StasisTryOptions *given,
                            GCancellable *cancellable, GError **error)
{
    StasisTryOptions own = STASIS_TRY_OPTIONS_INIT;
    const StasisTryOptions *options = stasis_own_options(&own, given, sizeof own);
    g_autoptr(StasisTransaction) tx =
        stasis_transaction_begin(vm, store, &options->transaction, cancellable, error);
    if (tx == NULL)
        return NULL;
    g_autoptr(StasisTryResult) result = g_new0(StasisTryResult, 1);
    result->image = stasis_store_get_image(stasis_transaction_get_store(tx),
                                           stasis_transaction_get_image(tx)->id, error);
    Command command = { .pidfd = -1 };
    guint64 begun_us = stasis_now_us();
    if (result->image == NULL ||
        !start(&command, options, stasis_vm_get_name(vm), result->image, error)) {
        stasis_transaction_abandon(tx);
        return NULL;
    }
    watch_it(tx, &command, options, result, cancellable);
    result->status = end(&command);
    stasis_clear_fd(&command.pidfd);
    result->command_us = stasis_now_us() - begun_us;
    return conclude(tx, result, error) ? g_steal_pointer(&result) : NULL;
}
