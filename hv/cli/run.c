/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a command line to its exit status: cli_run() finds the command and reports how it went.
 * Everything that a command does is in its handler, and all that handlers know of VMs and images
 * is in <stasis/stasis.h>.
 */
#include <stdio.h>
#include <unistd.h>

#include "output.h"
#include "signals.h"

static void show_version(CliCall *call)
{
    if (!call->json) {
        printf("stasis %s\n", stasis_version());
        return;
    }
    JsonObject *versions = json_object_new();
    cli_json_set_string(versions, "command_version", STASIS_VERSION);
    cli_json_set_string(versions, "library_version", stasis_version());
    cli_take_object(call, versions);
}

char *cli_absolute_paths(const char *paths)
{
    g_auto(GStrv) each = g_strsplit(paths, ":", -1);
    for (char **path = each; *path != NULL; path++) {
        char *relative = *path;
        *path = *relative != '\0' ? g_canonicalize_filename(relative, NULL) : g_strdup("");
        g_free(relative);
    }
    return g_strjoinv(":", each);
}

/* What the environment names from here is named so for what runs elsewhere: a VM's pager, a fold in
 * the background, a command of the shell that has gone to another directory. */
static void make_environment_absolute(void)
{
    const char *keys = g_getenv(STASIS_KEY_FILE_VARIABLE), *store = g_getenv("STASIS_STORE");
    if (keys != NULL && *keys != '\0') {
        g_autofree char *absolute = cli_absolute_paths(keys);
        g_setenv(STASIS_KEY_FILE_VARIABLE, absolute, TRUE);
    }
    if (store != NULL && *store != '\0') {
        g_autofree char *absolute = g_canonicalize_filename(store, NULL);
        g_setenv("STASIS_STORE", absolute, TRUE);
    }
}

/* What the library and the programs that it starts know of key files is the environment; a shell's
 * next line has its own again. */
static gboolean run_with_keys(CliCall *call, GError **error)
{
    const char *files = cli_text(call, "key-file");
    if (files == NULL)
        return call->command->handler(call, error);
    g_autofree char *before = g_strdup(g_getenv(STASIS_KEY_FILE_VARIABLE));
    g_autofree char *absolute = cli_absolute_paths(files);
    g_setenv(STASIS_KEY_FILE_VARIABLE, absolute, TRUE);
    gboolean ok = call->command->handler(call, error);
    if (before != NULL)
        g_setenv(STASIS_KEY_FILE_VARIABLE, before, TRUE);
    else
        g_unsetenv(STASIS_KEY_FILE_VARIABLE);
    return ok;
}

static gboolean run(CliCall *call, const char *const *argv, GError **error)
{
    if (!cli_parse(call, argv, error))
        return FALSE;
    if (g_hash_table_contains(call->values, "version")) {
        show_version(call);
        return TRUE;
    }
    gboolean help = g_hash_table_contains(call->values, "help");
    if (call->command == NULL && !help && !call->json && isatty(STDIN_FILENO) &&
        isatty(STDOUT_FILENO))
        call->command = &cli_cmd_shell;
    /* A script whose $COMMAND is empty has failed. */
    if (call->command == NULL && !help) {
        g_autofree char *text = cli_help_overview();
        if (!call->json)
            fputs(text, stderr);
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE, "no command is given");
        return FALSE;
    }
    if (help) {
        g_autofree char *text =
            call->command != NULL ? cli_help_command(call->command) : cli_help_overview();
        if (call->json)
            call->result = cli_help_json();
        else
            fputs(text, stdout);
        return TRUE;
    }
    CliCommandFlags flags = call->command->flags;
    if ((flags & CLI_IN_SHELL) && call->shell == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s is a word of the shell: start `stasis shell` first", call->command->name);
        return FALSE;
    }
    if (!(flags & (CLI_IN_SHELL | CLI_OWN_SIGNALS)) && !cli_signals_init(call->cancellable, error))
        return FALSE;
    make_environment_absolute();
    return run_with_keys(call, error);
}

int cli_run(const char *const *argv, CliShell *shell)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    CliCall call = { .cancellable = cancellable, .shell = shell };
    run(&call, argv, &error);
    int exit_code = cli_finish(&call, error);
    g_clear_pointer(&call.values, g_hash_table_unref);
    g_clear_pointer(&call.args, g_strfreev);
    g_clear_pointer(&call.result, json_node_unref);
    return exit_code;
}
