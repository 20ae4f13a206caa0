/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checkpoints that programs of a guest have a say in. */
#include <stasis/error.h>
#include <stasis/serve.h>
#include <stdio.h>

#include "output.h"

#define MIN_INTERVAL_US 1000000u

static const char *kind_of(const StasisServed *served)
{
    static const char *const words[] = { "vm", "process", "period", "restore" };
    return words[served->kind];
}

/* The guest's time went before the image: no failure of anything. */
static gboolean is_skipped(const StasisServed *served)
{
    return g_error_matches(served->error, STASIS_ERROR, STASIS_ERROR_BUDGET);
}

static JsonObject *to_json(const char *name, const StasisServed *served)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "name", name);
    cli_json_set_string(object, "wish", kind_of(served));
    cli_json_set_uint(object, "pid", served->pid);
    cli_json_set_string(object, "id", served->id);
    cli_json_set_string(object, "error", served->error != NULL ? served->error->message : NULL);
    json_object_set_boolean_member(object, "skipped", is_skipped(served));
    cli_json_set_uint(object, "pause_us", served->pause_us);
    cli_json_set_uint(object, "total_us", served->total_us);
    cli_json_set_uint(object, "n_callers", served->n_callers);
    cli_json_set_uint(object, "n_told", served->n_told);
    cli_json_set_uint(object, "n_late", served->n_late);
    cli_json_set_uint(object, "n_cycles", served->n_cycles);
    cli_json_set_uint(object, "n_missed", served->n_missed);
    cli_json_set_uint(object, "n_missed_before", served->n_missed_before);
    return object;
}

typedef struct {
    CliCall *call;
    JsonArray *all; /* of --json */
} Showing;

static void show_text(CliCall *call, const StasisServed *served)
{
    if (served->id != NULL && !call->json)
        cli_print_line(call, served->id);
    if (served->error != NULL)
        cli_note(call, "%s: %s of pid %u%s: %s", call->args[0], kind_of(served), served->pid,
                 is_skipped(served) ? " skipped" : "", served->error->message);
    if (served->n_late > 0)
        cli_note(call, "%s: %u of %u programs were not ready within a second", call->args[0],
                 served->n_late, served->n_told);
    if (served->n_missed + served->n_missed_before > 0)
        cli_note(call,
                 "%s: %" G_GUINT64_FORMAT " deadlines missed meanwhile, %" G_GUINT64_FORMAT
                 " since the checkpoint before",
                 call->args[0], served->n_missed, served->n_missed_before);
}

static void show(const StasisServed *served, gpointer data)
{
    Showing *showing = data;
    CliCall *call = showing->call;
    if (call->json)
        json_array_add_object_element(showing->all, to_json(call->args[0], served));
    if (g_strcmp0(cli_text(call, "progress"), "json") != 0) {
        show_text(call, served);
        return;
    }
    g_autoptr(JsonObject) object = to_json(call->args[0], served);
    cli_report_object(object);
}

static gboolean serve(CliCall *call, GError **error)
{
    StasisServeOptions options = STASIS_SERVE_OPTIONS_INIT;
    StasisCheckpointOptions checkpoint = STASIS_CHECKPOINT_OPTIONS_INIT;
    g_autoptr(JsonArray) all = json_array_new();
    Showing showing = { call, all };
    options.min_interval_us = cli_number(call, "min-interval", MIN_INTERVAL_US);
    options.every_us = cli_number(call, "every", 0);
    options.cycle_end = cli_flag(call, "cycle-end");
    options.cycle_wait_us = cli_number(call, "cycle-wait", 0);
    checkpoint.max_pause_us = cli_number(call, "max-pause", 0);
    options.checkpoint = &checkpoint;
    options.max_checkpoints = cli_number(call, "count", 0);
    options.note = cli_text(call, "note");
    options.served = show;
    options.served_data = &showing;
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisStore) store =
        vm != NULL ? cli_open_store(call, STASIS_STORE_CREATE, error) : NULL;
    gboolean ok = store != NULL && stasis_vm_serve(vm, store, &options, call->cancellable, error);
    if (ok || json_array_get_length(all) > 0)
        cli_take_array(call, json_array_ref(all));
    return ok;
}

static const CliArgument arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliOption options[] = {
    { "every", 0, CLI_SPAN, "SPAN", "also one of the VM so often, as in 5min" },
    { "cycle-end", 0, CLI_FLAG, NULL,
      "those at the end of a control cycle, where a program tells of them (stasis_cycle_end(3))" },
    { "cycle-wait", 0, CLI_MS, "MS", "wait for that so long (default 1000, at most 30000)" },
    { "max-pause", 0, CLI_MS, "MS",
      "skip one of the VM rather than pause it for longer, and go on serving" },
    { "min-interval", 0, CLI_MS, "MS",
      "let so much time pass between one and the next that the guest wishes for (default 1000)" },
    { "count", 0, CLI_COUNT, "N", "end after so many" },
    { "note", 0, CLI_TEXT, "TEXT", "keep TEXT in the images" },
    { NULL },
};
static const CliExample examples[] = {
    { "agent-serve web", "Take what programs in the guest ask for, until Ctrl-C" },
    { "agent-serve plc --every 5min --cycle-end", "… and one each 5 minutes, between two cycles" },
    { "agent-serve plc --every 5min --cycle-end --max-pause 5",
      "… unless that took more than 5 ms" },
    { NULL },
};
const CliCommand cli_cmd_agent_serve = {
    .group = "agent",
    .name = "agent-serve",
    .summary = "take checkpoints that programs in a guest ask for",
    .description =
        "Wait for programs in the guest that ask for a checkpoint, of the VM or of themselves with "
        "all that belongs to them, by stasis_freeze(3) of libstasis-guest; take it, print its ID, "
        "and tell them. The call returns 0 in the program that runs on, and 1 in the one that goes "
        "on from the image. Also tell programs that want to know of each checkpoint that is taken "
        "this way before and after it, and let critical sections come to their end (10 s at "
        "most).\n\nRuns until Ctrl-C. With --progress json each checkpoint is an object on a line "
        "of "
        "stderr. One that fails is told, and ends nothing; one that --max-pause did not allow is "
        "told "
        "as skipped (\"skipped\": true), its caller in the guest gets -EREMOTEIO, and the next one "
        "is "
        "due "
        "when it was. The agent's port serves one at a time: "
        "other "
        "commands that speak to the agent wait for half a second.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = serve,
};
