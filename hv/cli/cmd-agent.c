/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Speaking to the agent in a guest. */
#include <stdio.h>
#include <string.h>

#include "output.h"
#include "table.h"

static const CliArgument name_only[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};

static guint timeout_ms(CliCall *call)
{
    return (guint)((cli_number(call, "timeout", 0) + 999) / 1000);
}

/* ---- info ---- */

static void info_to_json(CliCall *call, const StasisAgentInfo *info)
{
    JsonObject *object = json_object_new();
    JsonArray *operations = json_array_new();
    cli_json_set_string(object, "name", call->args[0]);
    cli_json_set_string(object, "version", info->version);
    cli_json_set_uint(object, "protocol", info->protocol);
    cli_json_set_string(object, "kernel", info->kernel);
    cli_json_set_string(object, "system", info->system);
    cli_json_set_string(object, "hostname", info->hostname);
    cli_json_set_string(object, "machine_id", info->machine_id);
    cli_json_set_string(object, "boot_id", info->boot_id);
    cli_json_set_uint(object, "uptime_us", info->uptime_us);
    json_object_set_int_member(object, "clock_ahead_us", info->clock_ahead_us);
    cli_json_set_uint(object, "n_instants", info->n_instants);
    cli_json_set_string(object, "last_instant", info->last_instant);
    for (char **operation = info->operations; *operation != NULL; operation++)
        json_array_add_string_element(operations, *operation);
    json_object_set_array_member(object, "operations", operations);
    cli_take_object(call, object);
}

static void add_if(CliTable *table, const char *key, const char *value)
{
    g_autofree char *shown = cli_printable(value);
    if (shown[0] != '\0')
        cli_table_add(table, key, shown);
}

static char *describe_clock(gint64 ahead_us)
{
    g_autofree char *by = cli_format_us((guint64)ABS(ahead_us));
    return g_strdup_printf("%s %s the host's", by, ahead_us >= 0 ? "ahead of" : "behind");
}

static void print_info(const StasisAgentInfo *info)
{
    g_autoptr(CliTable) table = cli_table_new("ll");
    g_autofree char *version = g_strdup_printf("%s (protocol %u)", info->version, info->protocol);
    g_autofree char *uptime = cli_format_us(info->uptime_us);
    g_autofree char *clock = describe_clock(info->clock_ahead_us);
    g_autofree char *instants =
        info->n_instants == 0
            ? g_strdup("none")
            : g_strdup_printf("%" G_GUINT64_FORMAT ", the last: %s", info->n_instants,
                              info->last_instant != NULL ? info->last_instant : "?");
    g_autofree char *operations = g_strjoinv(" ", info->operations);
    add_if(table, "Agent:", version);
    add_if(table, "System:", info->system);
    add_if(table, "Kernel:", info->kernel);
    add_if(table, "Host name:", info->hostname);
    add_if(table, "Machine id:", info->machine_id);
    add_if(table, "Boot id:", info->boot_id);
    add_if(table, "Up for:", uptime);
    add_if(table, "Clock:", clock);
    add_if(table, "Told of instants:", instants);
    add_if(table, "Operations:", operations);
    cli_table_print(table, 0);
}

static gboolean info(CliCall *call, GError **error)
{
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisAgentInfo) found =
        vm != NULL ? stasis_vm_agent_info(vm, timeout_ms(call), call->cancellable, error) : NULL;
    if (found == NULL)
        return FALSE;
    if (call->json)
        info_to_json(call, found);
    else
        print_info(found);
    return TRUE;
}

/* ---- ping ---- */

static gboolean ping(CliCall *call, GError **error)
{
    guint64 took_us;
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    if (vm == NULL ||
        !stasis_vm_agent_ping(vm, timeout_ms(call), &took_us, call->cancellable, error))
        return FALSE;
    if (call->json) {
        JsonObject *object = json_object_new();
        cli_json_set_string(object, "name", call->args[0]);
        cli_json_set_uint(object, "answer_us", took_us);
        cli_take_object(call, object);
        return TRUE;
    }
    g_autofree char *took = cli_format_us(took_us);
    puts(took);
    return TRUE;
}

/* ---- exec ---- */

static char *bytes_to_text(GBytes *bytes)
{
    gsize len;
    const char *data = g_bytes_get_data(bytes, &len);
    return data != NULL ? g_utf8_make_valid(data, (gssize)len) : g_strdup("");
}

static void exec_to_json(CliCall *call, const StasisAgentExec *done)
{
    JsonObject *object = json_object_new();
    g_autofree char *output = bytes_to_text(done->output);
    g_autofree char *error_output = bytes_to_text(done->error_output);
    cli_json_set_string(object, "name", call->args[0]);
    json_object_set_int_member(object, "exit_status", done->exit_status);
    json_object_set_int_member(object, "signal", done->signal);
    json_object_set_boolean_member(object, "timed_out", done->timed_out);
    json_object_set_boolean_member(object, "truncated", done->truncated);
    cli_json_set_string(object, "output", output);
    cli_json_set_string(object, "error_output", error_output);
    cli_take_object(call, object);
}

static void write_bytes(GBytes *bytes, FILE *to)
{
    gsize len;
    const void *data = g_bytes_get_data(bytes, &len);
    if (len > 0)
        fwrite(data, 1, len, to);
    fflush(to);
}

static gboolean exec(CliCall *call, GError **error)
{
    StasisAgentExecOptions options = STASIS_AGENT_EXEC_OPTIONS_INIT;
    options.timeout_ms = timeout_ms(call);
    options.max_bytes = cli_number(call, "max-output", 0);
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisAgentExec) done =
        vm != NULL ? stasis_vm_agent_exec(vm, (const char *const *)call->args + 1, &options,
                                          call->cancellable, error)
                   : NULL;
    if (done == NULL)
        return FALSE;
    call->exit_code = done->timed_out     ? 124
                      : done->signal != 0 ? 128 + done->signal
                                          : done->exit_status;
    if (call->json) {
        exec_to_json(call, done);
        return TRUE;
    }
    write_bytes(done->output, stdout);
    write_bytes(done->error_output, stderr);
    if (done->truncated)
        cli_note(call, "the rest of its output was dropped; see --max-output");
    if (done->timed_out)
        cli_note(call, "it took too long and was killed; see --timeout");
    return TRUE;
}

/* ---- table ---- */

static const CliOption timeout_options[] = {
    { "timeout", 0, CLI_MS, "MS", "give up after that (default 5000)" },
    { NULL },
};

static const CliExample info_examples[] = {
    { "agent-info web", "What runs in the guest, and how far its clock is off" },
    { NULL },
};
const CliCommand cli_cmd_agent_info = {
    .group = "agent",
    .name = "agent-info",
    .summary = "what the agent in a guest says of itself",
    .description =
        "Ask the agent in the guest for its version and operations, and for the guest's kernel, "
        "system, name, machine id, uptime and clock. The VM needs a port to it (`stasis run "
        "--agent`, for a libvirt domain `stasis prepare`), and the guest has to run stasis-agent. "
        "A VM that goes on from an image and "
        "whose guest was not told so yet is told first.",
    .arguments = name_only,
    .options = timeout_options,
    .examples = info_examples,
    .handler = info,
};

static const CliExample ping_examples[] = {
    { "agent-ping web", "Is it there, and how quick is it?" },
    { NULL },
};
const CliCommand cli_cmd_agent_ping = {
    .group = "agent",
    .name = "agent-ping",
    .summary = "see whether the agent in a guest answers",
    .description = "Send a random number to the agent in the guest, want it back, and print how "
                   "long that took.",
    .arguments = name_only,
    .options = timeout_options,
    .examples = ping_examples,
    .handler = ping,
};

static const CliArgument exec_arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { "COMMAND", CLI_BEHIND, CLI_ARGV, "the command in the guest and its arguments" },
    { NULL },
};
static const CliOption exec_options[] = {
    { "timeout", 0, CLI_MS, "MS", "kill the command after that (default 10000, at most 600000)" },
    { "max-output", 0, CLI_SIZE, "SIZE",
      "drop what it writes beyond that (default 1M, at most 16M)" },
    { NULL },
};
static const CliExample exec_examples[] = {
    { "agent-exec web -- uname -a", "Run a command in the guest" },
    { NULL },
};
const CliCommand cli_cmd_agent_exec = {
    .group = "agent",
    .name = "agent-exec",
    .summary = "run a command in a guest",
    .description =
        "Have the agent run a command in the guest, as root and without a shell, and print what "
        "it wrote when it has ended. The exit status is the command's; 128 and its number more "
        "for a signal, 124 when it took too long. What is left of the command's process group "
        "when it ends is ended, too.",
    .arguments = exec_arguments,
    .options = exec_options,
    .examples = exec_examples,
    .handler = exec,
};
