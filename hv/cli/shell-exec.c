/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Running the shell's commands. Each is this program anew, so that it is exactly what it is from
 * the command line: Ctrl-C reaches it (it is in the terminal's process group) and not us, a second
 * one ends it at once, and nothing it does to its process outlives it.
 */
#include <errno.h>
#include <signal.h>
#include <stasis/store.h>
#include <stdio.h>
#include <sys/wait.h>

#include "output.h"
#include "shell.h"
#include "split.h"

/* For the handler. While a command runs only. */
static volatile sig_atomic_t interrupted, told;
static volatile pid_t child;

static void on_signal(int signum, siginfo_t *info, void *context)
{
    int saved = errno;
    gboolean first = !interrupted && !told;
    if (signum == SIGINT)
        interrupted = 1;
    else if (signum != SIGQUIT)
        told = signum;
    /* What the terminal sends the command gets as well; who else sends us one means both of us, and
     * the command takes a second one as an order to end at once. */
    if (info->si_code <= 0 && first && child > 0)
        kill(child, signum);
    errno = saved;
}

static const int signals[] = { SIGINT, SIGQUIT, SIGTERM, SIGHUP };

static void watch_signals(struct sigaction *old)
{
    interrupted = told = 0;
    for (guint i = 0; i < G_N_ELEMENTS(signals); i++) {
        struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
        sigaction(signals[i], NULL, &old[i]);
        if (old[i].sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
    }
}

static void unwatch_signals(const struct sigaction *old)
{
    for (guint i = 0; i < G_N_ELEMENTS(signals); i++)
        sigaction(signals[i], &old[i], NULL);
}

/* What it starts for others is to have the limit that we had. */
static void leave_limit(gpointer unused)
{
    stasis_restore_file_limit();
}

static gboolean spawn(const CliShell *self, char **argv, GError **error)
{
    GSpawnFlags flags = G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_FILE_AND_ARGV_ZERO;
    if (!self->on_stdin)
        flags |= G_SPAWN_CHILD_INHERITS_STDIN;
    GPid pid;
    if (!g_spawn_async(NULL, argv, NULL, flags, leave_limit, NULL, &pid, error))
        return FALSE;
    child = pid;
    if (told)
        kill(pid, told);
    return TRUE;
}

/* Exit status of the command that is running. */
static int await(void)
{
    int status;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR)
            return 1;
    }
    child = 0;
    if (!WIFSIGNALED(status))
        return WEXITSTATUS(status);
    fprintf(stderr, "stasis: the command was ended by signal %d\n", WTERMSIG(status));
    return 128 + WTERMSIG(status);
}

/* Say what went wrong in the way a command would, and return what it would have exited with. */
static int report(const CliShell *self, const GError *error)
{
    CliCall call = { .json = self->json };
    return cli_finish(&call, error);
}

static int run_apart(CliShell *self, GPtrArray *words)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_copy(words, NULL, NULL);
    g_ptr_array_insert(argv, 0, (gpointer) "/proc/self/exe");
    g_autoptr(GError) error = NULL;
    struct sigaction old[G_N_ELEMENTS(signals)];
    fflush(stdout);
    watch_signals(old);
    gboolean ok = spawn(self, (char **)argv->pdata, &error);
    int status = ok ? await() : report(self, error);
    unwatch_signals(old);
    return status;
}

/* Is it one of those that work on the shell itself? */
static gboolean is_own(const char *const *argv)
{
    CliCall probe = { 0 };
    gboolean own = cli_parse(&probe, argv, NULL) && probe.command != NULL &&
                   (probe.command->flags & CLI_IN_SHELL) &&
                   !g_hash_table_contains(probe.values, "help");
    g_clear_pointer(&probe.values, g_hash_table_unref);
    g_clear_pointer(&probe.args, g_strfreev);
    return own;
}

static void run_command(CliShell *self, char **command)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    g_ptr_array_add(words, (gpointer) "stasis");
    for (guint i = 0; self->globals->pdata[i] != NULL; i++)
        g_ptr_array_add(words, self->globals->pdata[i]);
    for (char **word = command; *word != NULL; word++)
        g_ptr_array_add(words, *word);
    g_ptr_array_add(words, NULL);
    interrupted = told = 0;
    const char *const *argv = (const char *const *)words->pdata;
    int status = is_own(argv) ? cli_run(argv, self) : run_apart(self, words);
    /* What went before quit is how the shell ends. */
    if (self->ended)
        return;
    self->status = status;
    self->n_commands++;
    self->n_failed += status != 0;
    gboolean stopped = interrupted && !self->interactive;
    self->ended = told || stopped || (status != 0 && self->exit_on_error);
    if (told)
        self->status = 128 + told;
}

void cli_shell_run_text(CliShell *self, const char *text)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) commands = cli_split(text, &error);
    if (commands == NULL) {
        self->status = report(self, error);
        self->n_commands++;
        self->n_failed++;
        self->ended = self->exit_on_error;
        return;
    }
    interrupted = 0;
    for (guint i = 0; i < commands->len && !self->ended && !interrupted; i++)
        run_command(self, commands->pdata[i]);
}
