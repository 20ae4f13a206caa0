/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>

#include "output.h"

static const CliArgument arguments[] = {
    { "TOPIC", CLI_OPTIONAL, CLI_TOPIC, "a command, or a group of them" },
    { NULL },
};

static const CliOption options[] = {
    { "man-options", 0, CLI_FLAG, NULL, "print all commands as roff", .hidden = TRUE },
    { "check-table", 0, CLI_FLAG, NULL, "fail if the command table has a gap", .hidden = TRUE },
    { NULL },
};

static const CliExample examples[] = {
    { "help checkpoint", "What there is for checkpoints" },
    { "help checkpoint-create", "All about one command" },
    { NULL },
};

static gboolean check_table(GError **error)
{
    g_autofree char *gaps = cli_check_table();
    if (gaps == NULL)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "the command table has gaps: %s", gaps);
    return FALSE;
}

static char *text_for(CliCall *call, GError **error)
{
    const char *topic = call->args[0];
    if (cli_flag(call, "man-options"))
        return cli_help_roff();
    if (topic == NULL)
        return cli_help_overview();
    const CliCommand *command = cli_find_command(topic);
    if (command != NULL)
        return cli_help_command(command);
    const CliGroup *group = cli_find_group(topic);
    if (group != NULL)
        return cli_help_group(group);
    const char *near = cli_nearest_command(topic);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "no command or group \"%s\"%s%s%s", topic,
                near != NULL ? "; did you mean \"" : "", near != NULL ? near : "",
                near != NULL ? "\"?" : "");
    return NULL;
}

static gboolean help(CliCall *call, GError **error)
{
    if (cli_flag(call, "check-table"))
        return check_table(error);
    g_autofree char *text = text_for(call, error);
    if (text == NULL)
        return FALSE;
    if (call->json)
        call->result = cli_help_json();
    else
        fputs(text, stdout);
    return TRUE;
}

const CliCommand cli_cmd_help = {
    .group = "host",
    .name = "help",
    .summary = "list commands, or describe one",
    .description = "Without TOPIC, list every command by group. With --json, print the whole "
                   "command table: names, arguments, options and what completes them.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = help,
};
