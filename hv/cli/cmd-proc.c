/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The processes of a guest. */
#include "proc.h"

#include <string.h>

#include "output.h"
#include "table.h"

void cli_process_to_json(JsonObject *object, const StasisGuestProcess *p)
{
    const char state[] = { p->state, '\0' };
    cli_json_set_uint(object, "pid", p->pid);
    cli_json_set_uint(object, "ppid", p->ppid);
    cli_json_set_uint(object, "sid", p->sid);
    cli_json_set_uint(object, "start", p->start);
    cli_json_set_string(object, "state", state);
    cli_json_set_uint(object, "threads", p->n_threads);
    cli_json_set_uint(object, "rss_bytes", p->rss_bytes);
    cli_json_set_string(object, "user", p->user);
    cli_json_set_string(object, "unit", p->unit[0] != '\0' ? p->unit : NULL);
    cli_json_set_string(object, "cgroup", p->cgroup);
    cli_json_set_string(object, "comm", p->comm);
    cli_json_set_string(object, "command", p->command);
}

static char *describe_command(const StasisGuestProcess *p)
{
    return p->command[0] != '\0' ? g_strdup(p->command) : g_strdup_printf("[%s]", p->comm);
}

static void print_list(const StasisGuestProcesses *list)
{
    g_autoptr(CliTable) table = cli_table_new("rrllrrll");
    cli_table_add(table, "PID", "PPID", "USER", "STATE", "THREADS", "RSS", "UNIT", "COMMAND");
    for (guint i = 0; i < list->n_processes; i++) {
        const StasisGuestProcess *p = &list->processes[i];
        const char state[] = { p->state, '\0' };
        g_autofree char *pid = g_strdup_printf("%u", p->pid);
        g_autofree char *ppid = g_strdup_printf("%u", p->ppid);
        g_autofree char *threads = g_strdup_printf("%u", p->n_threads);
        g_autofree char *rss = cli_format_bytes(p->rss_bytes);
        g_autofree char *command = describe_command(p);
        cli_table_add(table, pid, ppid, p->user, state, threads, rss,
                      p->unit[0] != '\0' ? p->unit : "-", command);
    }
    cli_table_print(table, 0);
}

static void list_to_json(CliCall *call, const StasisGuestProcesses *list)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < list->n_processes; i++) {
        JsonObject *object = json_object_new();
        cli_process_to_json(object, &list->processes[i]);
        json_array_add_object_element(array, object);
    }
    cli_take_array(call, array);
}

static gboolean list_processes(CliCall *call, GError **error)
{
    guint timeout_ms = (guint)((cli_number(call, "timeout", 0) + 999) / 1000);
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisGuestProcesses) list =
        vm != NULL ? stasis_vm_list_processes(vm, timeout_ms, call->cancellable, error) : NULL;
    if (list == NULL)
        return FALSE;
    if (call->json)
        list_to_json(call, list);
    else
        print_list(list);
    return TRUE;
}

/* ---- table ---- */

static const CliArgument arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliOption options[] = {
    { "timeout", 0, CLI_MS, "MS", "give up after that (default 20000)" },
    { NULL },
};
static const CliExample examples[] = {
    { "proc-list web", "What runs in the guest" },
    { NULL },
};
const CliCommand cli_cmd_proc_list = {
    .group = "process",
    .name = "proc-list",
    .summary = "list the processes of a guest",
    .description =
        "Ask the agent in the guest for its processes: PID, parent, user, state (a letter as ps "
        "prints it), threads, resident memory, systemd unit and command line. Kernel threads are "
        "left out. The guest needs stasis-agent, see stasis help agent.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = list_processes,
};
