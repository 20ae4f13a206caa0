/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command table in other forms: roff for docs/man/stasis.1.in, JSON, and a check of it. Roff
 * macros: man(7), groff_man(7). */
#include <string.h>

#include "complete.h"
#include "help.h"
#include "output.h"

/* @text as roff shows it literally: hyphens stay hyphens that can be copied, no line is a
 * request. */
static void append_roff(GString *out, const char *text)
{
    if (*text == '.' || *text == '\'')
        g_string_append(out, "\\&");
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '\\')
            g_string_append(out, "\\e");
        else if (*p == '-')
            g_string_append(out, "\\-");
        else if (*p == '\n')
            g_string_append(out, "\n.PP\n");
        else
            g_string_append_c(out, *p);
    }
}

static void append_roff_line(GString *out, const char *before, const char *text, const char *after)
{
    g_string_append(out, before);
    append_roff(out, text);
    g_string_append(out, after);
}

static void append_roff_option(GString *out, const CliOption *option)
{
    g_string_append(out, ".TP\n");
    if (option->letter)
        g_string_append_printf(out, "\\fB\\-%c\\fR, ", option->letter);
    append_roff_line(out, "\\fB\\-\\-", option->name, "\\fR");
    if (option->value != NULL)
        append_roff_line(out, " \\fI", option->value, "\\fR");
    append_roff_line(out, "\n", option->summary, "\n");
}

static void append_roff_command(GString *out, const CliCommand *command)
{
    append_roff_line(out, ".TP\n\\fBstasis\\ ", command->name, "\\fR");
    g_autoptr(GPtrArray) words = cli_synopsis(command);
    for (guint i = 0; i < words->len; i++)
        append_roff_line(out, " ", words->pdata[i], "");
    g_string_append_c(out, '\n');
    g_auto(GStrv) paragraphs = g_strsplit(command->description, "\n\n", -1);
    for (guint i = 0; paragraphs[i] != NULL; i++)
        append_roff_line(out, i > 0 ? ".IP\n" : "", paragraphs[i], "\n");
    g_string_append(out, ".RS\n");
    for (const CliArgument *a = command->arguments; a != NULL && a->name != NULL; a++) {
        append_roff_line(out, ".TP\n\\fI", a->name, "\\fR\n");
        append_roff_line(out, "", a->summary, "\n");
    }
    for (const CliOption *o = command->options; o != NULL && o->name != NULL; o++) {
        if (!o->hidden)
            append_roff_option(out, o);
    }
    for (const CliExample *e = command->examples; e != NULL && e->command != NULL; e++) {
        append_roff_line(out, ".PP\nExample: ", e->does, "\n");
        append_roff_line(out, ".PP\n.EX\n    stasis ", e->command, "\n.EE\n");
    }
    g_string_append(out, ".RE\n");
}

char *cli_help_roff(void)
{
    GString *out = g_string_new(".SS Options of every command\n");
    for (const CliOption *o = cli_global_options; o->name != NULL; o++)
        append_roff_option(out, o);
    for (const CliGroup *g = cli_groups; g->id != NULL; g++) {
        append_roff_line(out, ".SS ", g->title, "\n");
        for (guint i = 0; cli_commands[i] != NULL; i++) {
            if (strcmp(cli_commands[i]->group, g->id) == 0 &&
                !(cli_commands[i]->flags & CLI_HIDDEN))
                append_roff_command(out, cli_commands[i]);
        }
    }
    return g_string_free(out, FALSE);
}

static JsonArray *options_to_json(const CliOption *options)
{
    JsonArray *array = json_array_new();
    for (const CliOption *o = options; o != NULL && o->name != NULL; o++) {
        if (o->hidden)
            continue;
        char letter[2] = { o->letter, '\0' };
        JsonObject *object = json_object_new();
        cli_json_set_string(object, "name", o->name);
        cli_json_set_string(object, "letter", o->letter ? letter : NULL);
        cli_json_set_string(object, "value", o->value);
        cli_json_set_string(object, "completer", cli_completer_name(o->type));
        json_object_set_boolean_member(object, "required", o->required);
        json_object_set_boolean_member(object, "many", o->many);
        cli_json_set_string(object, "summary", o->summary);
        json_array_add_object_element(array, object);
    }
    return array;
}

static JsonObject *command_to_json(const CliCommand *command)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "name", command->name);
    cli_json_set_string(object, "group", command->group);
    cli_json_set_string(object, "summary", command->summary);
    cli_json_set_string(object, "description", command->description);
    JsonArray *arguments = json_array_new();
    for (const CliArgument *a = command->arguments; a != NULL && a->name != NULL; a++) {
        static const char *const arities[] = {
            "", "one", "optional", "any", "some", "behind-dashes", "optional-behind-dashes"
        };
        G_STATIC_ASSERT(G_N_ELEMENTS(arities) == CLI_N_ARITIES);
        JsonObject *argument = json_object_new();
        cli_json_set_string(argument, "name", a->name);
        cli_json_set_string(argument, "arity", arities[a->arity]);
        cli_json_set_string(argument, "completer", cli_completer_name(a->type));
        cli_json_set_string(argument, "summary", a->summary);
        json_array_add_object_element(arguments, argument);
    }
    json_object_set_array_member(object, "arguments", arguments);
    json_object_set_array_member(object, "options", options_to_json(command->options));
    return object;
}

JsonNode *cli_help_json(void)
{
    JsonObject *root = json_object_new();
    JsonArray *groups = json_array_new();
    JsonArray *commands = json_array_new();
    for (const CliGroup *g = cli_groups; g->id != NULL; g++) {
        JsonObject *group = json_object_new();
        cli_json_set_string(group, "id", g->id);
        cli_json_set_string(group, "title", g->title);
        json_array_add_object_element(groups, group);
    }
    for (guint i = 0; cli_commands[i] != NULL; i++) {
        if (!(cli_commands[i]->flags & CLI_HIDDEN))
            json_array_add_object_element(commands, command_to_json(cli_commands[i]));
    }
    json_object_set_array_member(root, "groups", groups);
    json_object_set_array_member(root, "commands", commands);
    json_object_set_array_member(root, "global_options", options_to_json(cli_global_options));
    JsonNode *node = json_node_init_object(json_node_alloc(), root);
    json_object_unref(root);
    return node;
}

static gboolean is_empty(const char *text)
{
    return text == NULL || *text == '\0';
}

static void check_option(GString *bad, const CliCommand *command, const CliOption *option)
{
    const char *owner = command != NULL ? command->name : "(every command)";
    if (is_empty(option->summary))
        g_string_append_printf(bad, "%s: --%s has no summary\n", owner, option->name);
    if ((option->type == CLI_FLAG) != (option->value == NULL))
        g_string_append_printf(bad, "%s: --%s is a flag or has a value, not both\n", owner,
                               option->name);
    if (!cli_completer_exists(cli_completer_name(option->type)))
        g_string_append_printf(bad, "%s: --%s has no completer\n", owner, option->name);
    if (option->type == CLI_FLAG && option->required)
        g_string_append_printf(bad, "%s: flag --%s is required\n", owner, option->name);
    for (const CliOption *o = cli_global_options; command != NULL && o->name != NULL; o++) {
        if (strcmp(o->name, option->name) == 0 || (o->letter && o->letter == option->letter))
            g_string_append_printf(bad, "%s: --%s is also an option of every command\n", owner,
                                   option->name);
    }
}

void cli_check_command(const CliCommand *command, GString *bad)
{
    const struct {
        const char *field;
        gboolean missing;
    } checks[] = {
        { "group", is_empty(command->group) || cli_find_group(command->group) == NULL },
        { "summary", is_empty(command->summary) },
        { "description", is_empty(command->description) },
        { "handler", command->handler == NULL },
        { "examples", command->examples == NULL || is_empty(command->examples[0].does) },
        { "name of its own",
          cli_find_command(command->name) != command || cli_find_group(command->name) != NULL },
    };
    for (guint i = 0; i < G_N_ELEMENTS(checks); i++) {
        if (checks[i].missing)
            g_string_append_printf(bad, "%s has no %s\n", command->name, checks[i].field);
    }
    for (const CliArgument *a = command->arguments; a != NULL && a->name != NULL; a++) {
        /* A choice is made of the words of an option's value; an argument has none. */
        if (is_empty(a->summary) || a->arity < CLI_ONE || a->type == CLI_FLAG ||
            a->type == CLI_CHOICE)
            g_string_append_printf(bad, "%s: %s lacks arity, type or summary\n", command->name,
                                   a->name);
        if (!cli_completer_exists(cli_completer_name(a->type)))
            g_string_append_printf(bad, "%s: %s has no completer\n", command->name, a->name);
    }
    for (const CliOption *o = command->options; o != NULL && o->name != NULL; o++)
        check_option(bad, command, o);
}

char *cli_check_table(void)
{
    GString *bad = g_string_new(NULL);
    for (guint i = 0; cli_commands[i] != NULL; i++)
        cli_check_command(cli_commands[i], bad);
    for (const CliOption *o = cli_global_options; o->name != NULL; o++)
        check_option(bad, NULL, o);
    gboolean good = bad->len == 0;
    char *text = g_string_free(bad, good);
    return good ? NULL : text;
}
