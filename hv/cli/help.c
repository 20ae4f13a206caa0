/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Help, the man page's COMMANDS section and the table as JSON (for completion and tests): all
 * three made from the command table, so that they can't disagree with what is parsed.
 */
#include "help.h"

#include <string.h>

#define HELP_COLUMNS 78

/* "NAME", "[NAME]", "[ID...]", "-- COMMAND..." */
static char *argument_words(const CliArgument *argument)
{
    switch (argument->arity) {
    case CLI_OPTIONAL:
        return g_strdup_printf("[%s]", argument->name);
    case CLI_ANY:
        return g_strdup_printf("[%s...]", argument->name);
    case CLI_SOME:
        return g_strdup_printf("%s...", argument->name);
    case CLI_BEHIND:
        return g_strdup_printf("-- %s...", argument->name);
    case CLI_MAY_BE_BEHIND:
        return g_strdup_printf("[-- %s...]", argument->name);
    default:
        return g_strdup(argument->name);
    }
}

GPtrArray *cli_synopsis(const CliCommand *command)
{
    GPtrArray *words = g_ptr_array_new_with_free_func(g_free);
    for (const CliOption *o = command->options; o != NULL && o->name != NULL; o++) {
        if (o->hidden)
            continue;
        g_ptr_array_add(words, g_strdup_printf("%s--%s%s%s%s%s", o->required ? "" : "[", o->name,
                                               o->value != NULL ? " " : "",
                                               o->value != NULL ? o->value : "",
                                               o->required ? "" : "]", o->many ? "..." : ""));
    }
    guint first = 0;
    for (const CliArgument *a = command->arguments; a != NULL && a->name != NULL; a++) {
        /* The VM or image a command is about comes before the options; the rest behind them. */
        gboolean leads = a == command->arguments && (a->arity == CLI_ONE || a->arity == CLI_SOME);
        g_ptr_array_insert(words, leads ? (gint)first++ : -1, argument_words(a));
    }
    return words;
}

/* Append @words in lines of at most HELP_COLUMNS, all but the first after @indent blanks; @at is
 * the column the first one begins in. */
static void append_words(GString *out, char **words, guint at, guint indent)
{
    for (guint i = 0; words[i] != NULL; i++) {
        guint len = g_utf8_strlen(words[i], -1);
        if (i > 0 && at + 1 + len > HELP_COLUMNS) {
            g_string_append_printf(out, "\n%*s", (int)indent, "");
            at = indent;
        } else if (i > 0) {
            g_string_append_c(out, ' ');
            at++;
        }
        g_string_append(out, words[i]);
        at += len;
    }
    g_string_append_c(out, '\n');
}

static void append_wrapped(GString *out, const char *text, guint at, guint indent)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    append_words(out, words, at, indent);
}

/* An option and its value stay on one line. */
static void append_usage(GString *out, const CliCommand *command)
{
    guint at = out->len;
    g_autoptr(GPtrArray) words = cli_synopsis(command);
    g_ptr_array_insert(words, 0, g_strconcat("stasis ", command->name, NULL));
    g_ptr_array_add(words, NULL);
    append_words(out, (char **)words->pdata, at, at + strlen("stasis "));
}

static void append_paragraphs(GString *out, const char *text)
{
    g_auto(GStrv) paragraphs = g_strsplit(text, "\n\n", -1);
    for (guint i = 0; paragraphs[i] != NULL; i++) {
        g_string_append_c(out, '\n');
        append_wrapped(out, paragraphs[i], 0, 0);
    }
}

/* A name and what it is, in two columns; a name that is too long gets a line of its own. */
static void append_entry(GString *out, const char *name, const char *summary)
{
    const guint column = 26;
    g_string_append_printf(out, "  %s", name);
    guint at = 2 + g_utf8_strlen(name, -1);
    if (at + 2 > column) {
        g_string_append_c(out, '\n');
        at = 0;
    }
    g_string_append_printf(out, "%*s", (int)(column - at), "");
    append_wrapped(out, summary, column, column);
}

static char *option_words(const CliOption *option)
{
    g_autofree char *letter = option->letter ? g_strdup_printf("-%c, ", option->letter) : NULL;
    return g_strdup_printf("%s--%s%s%s", letter != NULL ? letter : "", option->name,
                           option->value != NULL ? " " : "",
                           option->value != NULL ? option->value : "");
}

static void append_options(GString *out, const char *title, const CliOption *options)
{
    gboolean any = FALSE;
    for (const CliOption *o = options; o != NULL && o->name != NULL; o++) {
        if (o->hidden)
            continue;
        if (!any)
            g_string_append_printf(out, "\n%s:\n", title);
        any = TRUE;
        g_autofree char *words = option_words(o);
        append_entry(out, words, o->summary);
    }
}

char *cli_help_command(const CliCommand *command)
{
    GString *out = g_string_new("Usage: ");
    append_usage(out, command);
    append_paragraphs(out, command->description);
    if (command->arguments != NULL)
        g_string_append(out, "\nArguments:\n");
    for (const CliArgument *a = command->arguments; a != NULL && a->name != NULL; a++)
        append_entry(out, a->name, a->summary);
    append_options(out, "Options", command->options);
    append_options(out, "Options of every command", cli_global_options);
    if (command->examples != NULL)
        g_string_append(out, "\nExamples:\n");
    for (const CliExample *e = command->examples; e != NULL && e->command != NULL; e++)
        g_string_append_printf(out, "  # %s\n  stasis %s\n", e->does, e->command);
    return g_string_free(out, FALSE);
}

char *cli_help_group(const CliGroup *group)
{
    GString *out = g_string_new(NULL);
    g_string_append_printf(out, "%s (stasis help %s):\n", group->title, group->id);
    for (guint i = 0; cli_commands[i] != NULL; i++) {
        if (strcmp(cli_commands[i]->group, group->id) == 0 &&
            !(cli_commands[i]->flags & CLI_HIDDEN))
            append_entry(out, cli_commands[i]->name, cli_commands[i]->summary);
    }
    return g_string_free(out, FALSE);
}

char *cli_help_overview(void)
{
    GString *out = g_string_new("Usage: stasis COMMAND [ARGUMENT...] [OPTION...]\n"
                                "       stasis                  (on a terminal: the shell)\n\n"
                                "Point-in-time images of running QEMU virtual machines.\n");
    for (const CliGroup *g = cli_groups; g->id != NULL; g++) {
        g_autofree char *text = cli_help_group(g);
        g_string_append_printf(out, "\n%s", text);
    }
    append_options(out, "Options of every command", cli_global_options);
    g_string_append(out, "\nMore: stasis help COMMAND, man stasis\n");
    return g_string_free(out, FALSE);
}
