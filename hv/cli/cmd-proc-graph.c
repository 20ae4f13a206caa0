/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which processes of a guest belong together, and why. */
#include "proc.h"

#include <stdio.h>
#include <string.h>

#include "output.h"

/* ---- as JSON ---- */

static JsonArray *processes_to_json(const StasisGuestBoundary *b, guint from, guint end)
{
    JsonArray *array = json_array_new();
    for (guint i = from; i < end; i++) {
        JsonObject *object = json_object_new();
        int origin = cli_boundary_origin(b, i), via = b->processes[i].via;
        cli_process_to_json(object, &b->processes[i]);
        cli_json_set_string(object, "via", via >= 0 ? b->edges[via].witness : NULL);
        if (origin >= 0)
            cli_json_set_uint(object, "via_pid", b->processes[origin].pid);
        else
            json_object_set_null_member(object, "via_pid");
        json_array_add_object_element(array, object);
    }
    return array;
}

static void set_optional(JsonObject *object, const char *name, gint64 value)
{
    if (value >= 0)
        cli_json_set_uint(object, name, (guint64)value);
    else
        json_object_set_null_member(object, name);
}

static JsonArray *edges_to_json(const StasisGuestBoundary *b)
{
    static const char *const places[] = { "inside", "cut", "near" };
    JsonArray *array = json_array_new();
    for (guint i = 0; i < b->n_edges; i++) {
        const StasisGuestEdge *e = &b->edges[i];
        JsonObject *object = json_object_new();
        cli_json_set_uint(object, "a", e->a);
        if (e->b != 0)
            cli_json_set_uint(object, "b", e->b);
        else
            json_object_set_null_member(object, "b");
        cli_json_set_string(object, "relation", e->relation);
        cli_json_set_string(object, "class", cli_edge_class_name(e->edge_class));
        cli_json_set_string(object, "place", places[e->place]);
        json_object_set_boolean_member(object, "both", e->both);
        json_object_set_boolean_member(object, "by_default", e->cut_by_default);
        set_optional(object, "talked", e->talked);
        cli_json_set_string(object, "object", e->object);
        cli_json_set_string(object, "witness", e->witness);
        cli_json_set_string(object, "reason", e->reason);
        json_array_add_object_element(array, object);
    }
    return array;
}

static JsonArray *refusals_to_json(const StasisGuestBoundary *b)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < b->n_refusals; i++) {
        JsonObject *object = json_object_new();
        cli_json_set_string(object, "what", b->refusals[i].what);
        cli_json_set_string(object, "witness", b->refusals[i].witness);
        cli_json_set_string(object, "todo", b->refusals[i].todo);
        json_array_add_object_element(array, object);
    }
    return array;
}

static void boundary_to_json(CliCall *call, const StasisGuestBoundary *b, const char *const *cuts)
{
    JsonObject *object = json_object_new();
    JsonArray *uses = json_array_new();
    for (guint i = 0; i < b->n_cuts; i++) {
        JsonObject *cut = json_object_new();
        cli_json_set_string(cut, "name", cuts[i]);
        cli_json_set_uint(cut, "edges", b->cut_uses[i]);
        json_array_add_object_element(uses, cut);
    }
    cli_json_set_string(object, "name", call->args[0]);
    json_object_set_boolean_member(object, "refused", b->refused);
    cli_json_set_uint(object, "roots", b->n_roots);
    cli_json_set_uint(object, "passes", b->n_passes);
    set_optional(object, "counted_for_us", b->counted_for_us);
    json_object_set_array_member(object, "refusals", refusals_to_json(b));
    json_object_set_array_member(object, "members", processes_to_json(b, 0, b->n_members));
    json_object_set_array_member(object, "neighbours",
                                 processes_to_json(b, b->n_members, b->n_processes));
    json_object_set_array_member(object, "edges", edges_to_json(b));
    json_object_set_array_member(object, "cuts", uses);
    cli_take_object(call, object);
}

/* ---- the command ---- */

static gboolean show(CliCall *call, const StasisGuestBoundary *b, const char *const *cuts,
                     GError **error)
{
    const char *format = cli_text(call, "format");
    gboolean explain = cli_flag(call, "explain");
    if (call->json) {
        boundary_to_json(call, b, cuts);
    } else if (g_strcmp0(format, "dot") == 0) {
        g_autofree char *dot = cli_boundary_to_dot(b, explain);
        fputs(dot, stdout);
    } else if (g_strcmp0(format, "svg") == 0) {
        g_autoptr(GBytes) svg = cli_boundary_to_svg(b, explain, call->cancellable, error);
        if (svg == NULL)
            return FALSE;
        gsize size;
        const void *data = g_bytes_get_data(svg, &size);
        fwrite(data, 1, size, stdout);
    } else {
        cli_boundary_print(b, explain);
    }
    fflush(stdout);
    for (guint i = 0; i < b->n_cuts; i++)
        if (b->cut_uses[i] == 0)
            cli_note(call, "--cut '%s' names nothing here", cuts[i]);
    cli_boundary_note_counting(call, b);
    return TRUE;
}

void cli_boundary_init(CliBoundary *asked, CliCall *call)
{
    g_autoptr(GArray) numbers = cli_numbers(call, "pid");
    asked->cuts = cli_texts(call, "cut");
    asked->pids = g_new(guint, numbers->len + 1);
    for (guint i = 0; i < numbers->len; i++)
        asked->pids[i] = (guint)g_array_index(numbers, guint64, i);
    asked->options = (StasisBoundaryOptions)STASIS_BOUNDARY_OPTIONS_INIT;
    asked->options.pids = asked->pids;
    asked->options.n_pids = numbers->len;
    asked->options.unit = cli_text(call, "unit");
    asked->options.cgroup = cli_text(call, "cgroup");
    asked->options.cuts = asked->cuts;
    const char *shape = cli_text(call, "boundary");
    asked->options.shape = g_strcmp0(shape, "tree") == 0     ? STASIS_BOUNDARY_TREE
                           : g_strcmp0(shape, "talked") == 0 ? STASIS_BOUNDARY_TALKED
                                                             : STASIS_BOUNDARY_CLOSURE;
}

void cli_boundary_note_counting(CliCall *call, const StasisGuestBoundary *boundary)
{
    if (boundary->counted_for_us == 0)
        cli_note(call, "counting what processes say to each other began with this: all that could "
                       "have talked counts as talking, this once");
}

void cli_boundary_clear(CliBoundary *asked)
{
    g_free(asked->pids);
    g_free(asked->cuts);
}

static gboolean graph(CliCall *call, GError **error)
{
    CliBoundary asked;
    cli_boundary_init(&asked, call);
    asked.options.max_processes = (guint)cli_number(call, "max-processes", 0);
    asked.options.timeout_ms = (guint)((cli_number(call, "timeout", 0) + 999) / 1000);
    call->json |= g_strcmp0(cli_text(call, "format"), "json") == 0;
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisGuestBoundary) b =
        vm != NULL ? stasis_vm_find_boundary(vm, &asked.options, call->cancellable, error) : NULL;
    gboolean ok =
        b != NULL && show(call, b, asked.cuts, error) && stasis_guest_boundary_check(b, error);
    cli_boundary_clear(&asked);
    return ok;
}

/* ---- table ---- */

static const CliArgument arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliOption options[] = {
    { "pid", 0, CLI_COUNT, "PID", "a process, by its ID in the guest", .many = TRUE },
    { "unit", 0, CLI_TEXT, "UNIT", "all processes of that systemd unit (\"cron.service\")" },
    { "cgroup", 0, CLI_TEXT, "CGROUP", "all processes in that control group (\"/a/b\") and below" },
    { "cut", 0, CLI_TEXT, "EDGE",
      "leave that out: an object (\"pipe:[812]\"), a witness as printed (its object is meant), or "
      "a "
      "relation (all its cuttable edges)",
      .many = TRUE },
    { "boundary", 0, CLI_CHOICE, "closure|tree|talked",
      "all that belongs together (default); or those asked for and their descendants, all that can "
      "be cut being cut; or without those that share something but said nothing over it since "
      "their last checkpoint, or since this was asked for first" },
    { "format", 0, CLI_CHOICE, "tree|dot|svg|json",
      "how to show it: for people (default), as a graph for graphviz, as a picture that graphviz "
      "draws, or the same as --json" },
    { "explain", 0, CLI_FLAG, NULL, "show every relation, and why it is classed as it is" },
    { "max-processes", 0, CLI_COUNT, "N", "refuse larger sets (default 1000, at most 10000)" },
    { "timeout", 0, CLI_MS, "MS", "give up after that (default 30000, at most 60000)" },
    { NULL },
};
static const CliExample examples[] = {
    { "proc-graph web --pid 812", "Who must come along with process 812, and why" },
    { "proc-graph web --unit postgresql.service --explain", "All relations of a service" },
    { "proc-graph web --pid 812 --cut unix --format svg >web.svg",
      "A picture, without what hangs on UNIX sockets" },
    { "proc-graph web --pid 812 --boundary talked --explain",
      "Who really talked with 812, and how much" },
    { NULL },
};
const CliCommand cli_cmd_proc_graph = {
    .group = "process",
    .name = "proc-graph",
    .summary = "show which processes of a guest belong together",
    .description =
        "A process can't be checkpointed alone when it shares memory, pipes, sockets, terminals, "
        "semaphores, locks or its family with others. Have the agent in the guest find all that "
        "belongs to those asked for (--pid, --unit, --cgroup; one at least), and show each with "
        "the witness by which it came in.\n\n"
        "A relation is hard (both ends come along), cuttable (both come along, unless it is left "
        "out with --cut) or opaque (no checkpoint is possible). Connections to the system's log "
        "are cut by default, and told. A set that can't be taken as asked for is exit status 4, "
        "with three lines on stderr: what, the witness, what to do.\n\n"
        "--boundary talked has the guest count, from then on and until its agent ends, what goes "
        "over pipes, FIFOs, sockets, message queues and semaphores; each relation then tells how "
        "many messages, and where there were none it is cut. Shared memory can't be counted and "
        "stays hard; terminals and the like are not. A guest whose kernel can't count (no BPF or "
        "BTF, lockdown) is exit status 4.\n\n"
        "Nothing else in the guest is changed. The answer is that of the moment; a guest that lies "
        "gets what it says shown.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = graph,
};
