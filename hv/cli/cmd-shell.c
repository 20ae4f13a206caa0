/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The shell, and the commands that work on the shell itself. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "output.h"
#include "shell.h"
#include "split.h"

/* ---- shell ---- */

/* What the shell was told holds for each of its commands, in whatever directory that runs. Its
 * store and keys are for those that have any: they are in the environment (the keys by run.c). */
static GPtrArray *globals_of(const CliCall *call)
{
    const char *store = cli_text(call, "store");
    g_autofree char *absolute = store != NULL ? g_canonicalize_filename(store, NULL) : NULL;
    if (absolute != NULL)
        g_setenv("STASIS_STORE", absolute, TRUE);
    GPtrArray *words = g_ptr_array_new_null_terminated(4, g_free, TRUE);
    for (const CliOption *o = cli_global_options; o->name != NULL; o++) {
        if (!cli_flag(call, o->name) || strcmp(o->name, "store") == 0 ||
            strcmp(o->name, "key-file") == 0)
            continue;
        g_ptr_array_add(words, g_strconcat("--", o->name, NULL));
        if (o->type == CLI_DIR || o->type == CLI_FILE)
            g_ptr_array_add(words, g_canonicalize_filename(cli_text(call, o->name), NULL));
        else if (o->type != CLI_FLAG)
            g_ptr_array_add(words, g_strdup(cli_text(call, o->name)));
    }
    return words;
}

/* Commands as they come, so that who writes them can wait for what they did. */
static gboolean run_stream(CliShell *shell, FILE *file, const char *name, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    char *line = NULL;
    size_t size = 0;
    ssize_t n;
    while (!shell->ended && (n = getline(&line, &size, file)) > 0) {
        g_string_append_len(text, line, n - (line[n - 1] == '\n'));
        if (cli_is_unfinished(text->str)) {
            g_string_append_c(text, '\n');
            continue;
        }
        cli_shell_run_text(shell, text->str);
        g_string_truncate(text, 0);
    }
    int failed = ferror(file) ? errno : 0;
    free(line);
    if (!shell->ended && text->len > 0)
        cli_shell_run_text(shell, text->str);
    if (failed == 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "reading commands from %s: %s", name,
                g_strerror(failed));
    return FALSE;
}

static gboolean run_file(CliShell *shell, const char *path, GError **error)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "opening %s: %s", path,
                    g_strerror(errno));
        return FALSE;
    }
    gboolean ok = run_stream(shell, file, path, error);
    fclose(file);
    return ok;
}

static gboolean run_typed(CliShell *shell, const CliCall *call, GError **error)
{
    if (!cli_flag(call, "quiet"))
        printf("stasis %s: \"help\" lists the commands, \"quit\" leaves\n", stasis_version());
    gboolean ok = cli_shell_prompt(shell, error);
    /* Each failure has been seen. */
    if (!shell->chosen)
        shell->status = 0;
    return ok;
}

static gboolean run_shell(CliCall *call, GError **error)
{
    const char *text = cli_text(call, "command"), *path = call->args[0];
    if (text != NULL && path != NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "give --command or FILE, not both");
        return FALSE;
    }
    g_autoptr(GPtrArray) globals = globals_of(call);
    gboolean on_stdin = text == NULL && path == NULL;
    gboolean interactive = on_stdin && !call->json && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    CliShell shell = { .globals = globals,
                       .json = call->json,
                       .interactive = interactive,
                       .on_stdin = on_stdin && !interactive,
                       .exit_on_error = cli_flag(call, "exit-on-error") };
    gboolean ok = TRUE;
    if (text != NULL)
        cli_shell_run_text(&shell, text);
    else if (path != NULL)
        ok = run_file(&shell, path, error);
    else if (interactive)
        ok = run_typed(&shell, call, error);
    else
        ok = run_stream(&shell, stdin, "standard input", error);
    if (!ok)
        return FALSE;
    JsonObject *object = json_object_new();
    cli_json_set_uint(object, "commands", shell.n_commands);
    cli_json_set_uint(object, "failed", shell.n_failed);
    json_object_set_int_member(object, "exit", shell.status);
    cli_take_object(call, object);
    call->exit_code = shell.status;
    return TRUE;
}

static const CliArgument shell_arguments[] = {
    { "FILE", CLI_OPTIONAL, CLI_FILE, "file with commands (default: standard input)" },
    { NULL },
};
static const CliOption shell_options[] = {
    { "command", 'c', CLI_TEXT, "TEXT", "run these commands" },
    { "exit-on-error", 'e', CLI_FLAG, NULL, "end at the first command that fails" },
    { NULL },
};
static const CliExample shell_examples[] = {
    { "shell", "Commands at a prompt, with history and completion" },
    { "shell -e -c \"pause web; checkpoint-create web; resume web\"",
      "Several commands; the rest is left out once one fails" },
    { "--store /srv/images shell nightly.stasis", "Those in a file, all on one store" },
    { NULL },
};
const CliCommand cli_cmd_shell = {
    .group = "prompt",
    .name = "shell",
    .summary = "run commands from a prompt, a file or a pipe",
    .description =
        "Read commands and run each as it would run from the command line. On a terminal (where "
        "`stasis` alone does the same) there is a prompt with history, and Tab completes commands, "
        "options, their values, VMs, images and files. Ctrl-C ends the running command, or drops "
        "the line.\n\n"
        "Commands are separated by \";\" or the end of a line; words are quoted as in sh, \"#\" "
        "begins a comment, and nothing is expanded. Options of every command that are given to the "
        "shell hold for all its commands. Without a terminal all commands are run, and the exit "
        "status is that of the last one; with -e the first failure ends it.",
    .arguments = shell_arguments,
    .options = shell_options,
    .examples = shell_examples,
    .handler = run_shell,
    .flags = CLI_OWN_SIGNALS,
};

/* ---- cd, pwd ---- */

static gboolean show_directory(CliCall *call)
{
    g_autofree char *dir = g_get_current_dir();
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "directory", dir);
    cli_take_object(call, object);
    return TRUE;
}

static gboolean change_directory(CliCall *call, GError **error)
{
    const char *dir = call->args[0] != NULL ? call->args[0] : g_get_home_dir();
    if (g_chdir(dir) < 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "going to directory %s: %s", dir,
                    g_strerror(errno));
        return FALSE;
    }
    return show_directory(call);
}

static gboolean print_directory(CliCall *call, GError **error)
{
    g_autofree char *dir = g_get_current_dir();
    if (!call->json)
        puts(dir);
    return show_directory(call);
}

static const CliArgument cd_arguments[] = {
    { "DIR", CLI_OPTIONAL, CLI_DIR, "directory to go to (default: the user's own)" },
    { NULL },
};
static const CliExample cd_examples[] = {
    { "shell -c \"cd /srv; export latest --format elf-core vm.core\"", "Write into /srv" },
    { NULL },
};
const CliCommand cli_cmd_cd = {
    .group = "prompt",
    .name = "cd",
    .summary = "go to another directory",
    .description = "In the shell: make DIR the directory that later commands run in.",
    .arguments = cd_arguments,
    .examples = cd_examples,
    .handler = change_directory,
    .flags = CLI_IN_SHELL,
};

static const CliExample pwd_examples[] = {
    { "shell -c pwd", "Where we are" },
    { NULL },
};
const CliCommand cli_cmd_pwd = {
    .group = "prompt",
    .name = "pwd",
    .summary = "print the directory",
    .description = "In the shell: print the directory that commands run in.",
    .examples = pwd_examples,
    .handler = print_directory,
    .flags = CLI_IN_SHELL,
};

/* ---- quit, exit ---- */

static gboolean quit(CliCall *call, GError **error)
{
    const char *text = call->args[0];
    guint64 status = 0;
    if (text != NULL && !g_ascii_string_to_unsigned(text, 10, 0, 255, &status, NULL)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "\"%s\" is no exit status, a number from 0 to 255", text);
        return FALSE;
    }
    call->shell->ended = TRUE;
    call->shell->chosen = text != NULL;
    if (text != NULL)
        call->shell->status = (int)status;
    return TRUE;
}

static const CliArgument quit_arguments[] = {
    { "STATUS", CLI_OPTIONAL, CLI_TEXT,
      "exit status of the shell (default: that of the command before; 0 at a prompt)" },
    { NULL },
};
static const CliExample quit_examples[] = {
    { "shell -c \"list; quit; doctor\"", "No doctor" },
    { NULL },
};
const CliCommand cli_cmd_quit = {
    .group = "prompt",
    .name = "quit",
    .summary = "leave the shell",
    .description = "In the shell: run no more commands, and exit with STATUS.",
    .arguments = quit_arguments,
    .examples = quit_examples,
    .handler = quit,
    .flags = CLI_IN_SHELL,
};
const CliCommand cli_cmd_exit = {
    .group = "prompt",
    .name = "exit",
    .summary = "leave the shell",
    .description = "The same as quit.",
    .arguments = quit_arguments,
    .examples = quit_examples,
    .handler = quit,
    .flags = CLI_IN_SHELL,
};
