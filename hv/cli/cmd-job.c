/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What stasisd does, has done, and tells. */
#include <stdio.h>
#include <string.h>

#include "daemon.h"
#include "output.h"
#include "table.h"

/* ---- list, info ---- */

static char *format_when(JsonObject *job, const char *name)
{
    gint64 at = cli_member_number(job, name);
    return at > 0 ? cli_format_time(at) : g_strdup("-");
}

static void print_jobs(JsonArray *jobs)
{
    g_autoptr(CliTable) table = cli_table_new("rlllll");
    cli_table_add(table, "ID", "KIND", "VM", "STATE", "STARTED", "");
    for (guint i = 0; i < json_array_get_length(jobs); i++) {
        JsonObject *job = json_array_get_object_element(jobs, i);
        g_autofree char *id = g_strdup_printf("%" G_GINT64_FORMAT, cli_member_number(job, "id"));
        g_autofree char *started = format_when(job, "started_us");
        const char *error = cli_member_text(job, "error"), *phase = cli_member_text(job, "phase");
        gboolean running = g_strcmp0(cli_member_text(job, "state"), "running") == 0;
        cli_table_add(table, id, cli_member_text(job, "kind"), cli_member_text(job, "vm"),
                      cli_member_text(job, "state"), started,
                      error != NULL ? error : (running ? phase : NULL));
    }
    cli_table_print(table, 0);
}

static gboolean list_jobs(CliCall *call, GError **error)
{
    g_autoptr(GDBusConnection) daemon = cli_daemon_need(error);
    g_autoptr(GVariant) reply =
        daemon != NULL ? cli_daemon_call(daemon, call, "ListJobs", NULL, "(aa{sv})", error) : NULL;
    if (reply == NULL)
        return FALSE;
    g_autoptr(JsonArray) jobs = cli_daemon_to_array(reply);
    if (call->json)
        cli_take_array(call, g_steal_pointer(&jobs));
    else
        print_jobs(jobs);
    return TRUE;
}

static gboolean read_id(CliCall *call, guint32 *ret_id, GError **error)
{
    guint64 id;
    if (g_ascii_string_to_unsigned(call->args[0], 10, 1, G_MAXINT32, &id, NULL)) {
        *ret_id = (guint32)id;
        return TRUE;
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "ID: \"%s\" is no job's number",
                call->args[0]);
    return FALSE;
}

static void print_member(JsonObject *object, const char *name, JsonNode *node, gpointer unused)
{
    if (JSON_NODE_HOLDS_ARRAY(node) || JSON_NODE_HOLDS_OBJECT(node))
        return;
    g_autofree char *text = NULL;
    if (g_str_has_suffix(name, "_us"))
        text = format_when(object, name);
    else if (json_node_get_value_type(node) == G_TYPE_STRING)
        text = cli_printable(json_node_get_string(node));
    else
        text = json_to_string(node, FALSE);
    g_autofree char *label =
        g_strndup(name, strlen(name) - (g_str_has_suffix(name, "_us") ? 3 : 0));
    printf("%-12s %s\n", g_strdelimit(label, "_", ' '), text);
}

static gboolean show_job(CliCall *call, GError **error)
{
    guint32 id;
    g_autoptr(GDBusConnection) daemon = read_id(call, &id, error) ? cli_daemon_need(error) : NULL;
    g_autoptr(GVariant) reply =
        daemon != NULL
            ? cli_daemon_call(daemon, call, "GetJob", g_variant_new("(u)", id), "(a{sv})", error)
            : NULL;
    if (reply == NULL)
        return FALSE;
    g_autoptr(GVariant) dictionary = g_variant_get_child_value(reply, 0);
    JsonObject *job = cli_daemon_to_json(dictionary);
    if (!call->json)
        json_object_foreach_member(job, print_member, NULL);
    cli_take_object(call, job);
    return TRUE;
}

static gboolean abort_job(CliCall *call, GError **error)
{
    guint32 id;
    g_autoptr(GDBusConnection) daemon = read_id(call, &id, error) ? cli_daemon_need(error) : NULL;
    g_autoptr(GVariant) reply =
        daemon != NULL
            ? cli_daemon_call(daemon, call, "AbortJob", g_variant_new("(u)", id), "()", error)
            : NULL;
    return reply != NULL;
}

/* ---- events ---- */

typedef struct {
    CliCall *call;
    GMainLoop *loop;
    gboolean on; /* --loop: more than one */
    gboolean lost;
} Listener;

static void print_event(CliCall *call, const char *what, JsonObject *event)
{
    if (call->json) {
        g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), event);
        g_autofree char *line = json_to_string(node, FALSE);
        puts(line);
    } else {
        static const char *const more[] = { "kind", "state", "error", "bundle", "id" };
        g_autofree char *time = cli_format_time(cli_member_number(event, "at_us"));
        g_autofree char *vm = cli_printable(cli_member_text(event, "vm"));
        printf("%s  %s  %s", time, vm, what);
        for (guint i = 0; i < G_N_ELEMENTS(more); i++) {
            const char *text = cli_member_text(event, more[i]);
            g_autofree char *shown = cli_printable(text);
            if (text != NULL)
                printf("  %s", shown);
        }
        putchar('\n');
    }
    cli_flush(call);
}

static void on_signal(GDBusConnection *daemon, const char *sender, const char *path,
                      const char *interface, const char *signal, GVariant *parameters,
                      gpointer data)
{
    Listener *listener = data;
    const char *what;
    g_autoptr(GVariant) details = NULL;
    g_variant_get(parameters, "(&s@a{sv})", &what, &details);
    g_autoptr(JsonObject) event = cli_daemon_to_json(details);
    const char *vm = listener->call->args[0], *kind = cli_text(listener->call, "event");
    if ((vm != NULL && g_strcmp0(cli_member_text(event, "vm"), vm) != 0) ||
        (kind != NULL && strcmp(kind, what) != 0))
        return;
    print_event(listener->call, what, event);
    if (!listener->on)
        g_main_loop_quit(listener->loop);
}

static void on_closed(GDBusConnection *daemon, gboolean vanished, GError *error, gpointer data)
{
    Listener *listener = data;
    listener->lost = TRUE;
    g_main_loop_quit(listener->loop);
}

static gboolean on_cancelled(GCancellable *cancellable, gpointer loop)
{
    g_main_loop_quit(loop);
    return G_SOURCE_REMOVE;
}

static gboolean listen_to(Listener *listener, GDBusConnection *daemon, GError **error)
{
    CliCall *call = listener->call;
    g_autoptr(GSource) source = g_cancellable_source_new(call->cancellable);
    g_source_set_callback(source, G_SOURCE_FUNC(on_cancelled), listener->loop, NULL);
    g_source_attach(source, NULL);
    gulong closed = g_signal_connect(daemon, "closed", G_CALLBACK(on_closed), listener);
    guint subscribed = g_dbus_connection_signal_subscribe(
        daemon, NULL, "org.stasis1.Manager", "Event", "/org/stasis1", NULL,
        G_DBUS_SIGNAL_FLAGS_NONE, on_signal, listener, NULL);
    g_autoptr(GVariant) reply = cli_daemon_call(daemon, call, "Watch", NULL, "()", error);
    if (reply != NULL) {
        cli_note(call, "waiting for events; Ctrl-C ends that");
        g_main_loop_run(listener->loop);
    }
    g_dbus_connection_signal_unsubscribe(daemon, subscribed);
    g_signal_handler_disconnect(daemon, closed);
    g_source_destroy(source);
    return reply != NULL;
}

/* One that never comes would be waited for for ever. */
static gboolean check_kind(CliCall *call, GError **error)
{
    static const char *const kinds[] = {
        "job",
        "missed",
        "guard-armed",
        "guard-failure",
        "guard-skipped",
        "guard-captured",
        "guard-bundle-failed",
        "guard-bundle-removed",
        "guard-rolled-back",
        "guard-restarted",
        "guard-gave-up",
        "guard-ended",
        "watch-watching",
        "watch-image",
        "watch-removed",
        "watch-failed",
        "watch-lost",
        NULL,
    };
    const char *kind = cli_text(call, "event");
    if (kind == NULL || g_strv_contains(kinds, kind))
        return TRUE;
    g_autofree char *all = g_strjoinv(", ", (char **)kinds);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "--event: there is no kind \"%s\"; there are %s", kind, all);
    return FALSE;
}

static gboolean show_events(CliCall *call, GError **error)
{
    if (!check_kind(call, error))
        return FALSE;
    g_autoptr(GDBusConnection) daemon = cli_daemon_need(error);
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    Listener listener = { call, loop, cli_flag(call, "loop"), FALSE };
    if (daemon == NULL || !listen_to(&listener, daemon, error))
        return FALSE;
    /* Its lines were the result. */
    if (call->json)
        call->json = FALSE;
    if (!listener.lost)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED, "stasisd has ended");
    return FALSE;
}

/* ---- the table ---- */

static const CliExample list_examples[] = {
    { "job-list", "What stasisd does and has done" },
    { NULL },
};
const CliCommand cli_cmd_job_list = {
    .group = "service",
    .name = "job-list",
    .summary = "list what stasisd does and has done",
    .description =
        "List jobs, oldest first: runs of policies, guards, watches, and what was asked for over "
        "D-Bus. The "
        "last 500 that are over are kept, on disk. Others' are listed for root, and for those whom "
        "polkit allows org.stasis1.read.",
    .examples = list_examples,
    .handler = list_jobs,
};

static const CliArgument id_arguments[] = {
    { "ID", CLI_ONE, CLI_TEXT, "number of the job" },
    { NULL },
};
static const CliExample info_examples[] = {
    { "job-info 12", "How it went, or how far it is" },
    { NULL },
};
const CliCommand cli_cmd_job_info = {
    .group = "service",
    .name = "job-info",
    .summary = "tell all of a job",
    .description = "Tell all that stasisd knows of a job: its command line, how far it is, its "
                   "result or its error. States are waiting, running, done, failed, aborted, and "
                   "lost: its process ended without a word.",
    .arguments = id_arguments,
    .examples = info_examples,
    .handler = show_job,
};

static const CliExample abort_examples[] = {
    { "job-abort 12", "As Ctrl-C would" },
    { NULL },
};
const CliCommand cli_cmd_job_abort = {
    .group = "service",
    .name = "job-abort",
    .summary = "have a job give up",
    .description = "Ask a job to give up, as Ctrl-C does: it leaves VM and store as they were. "
                   "Returns at once; event or job-info tell when it has ended. A policy is tried "
                   "again; policy-remove ends it.",
    .arguments = id_arguments,
    .examples = abort_examples,
    .handler = abort_job,
};

static const CliArgument event_arguments[] = {
    { "NAME", CLI_OPTIONAL, CLI_VM, "events of this VM only" },
    { NULL },
};
static const CliOption event_options[] = {
    { "loop", 0, CLI_FLAG, NULL, "go on after the first one, until Ctrl-C" },
    { "event", 0, CLI_TEXT, "KIND", "only events of this kind" },
    { NULL },
};
static const CliExample event_examples[] = {
    { "event --loop", "All that happens" },
    { "event web --event missed", "Wait until a policy was late by a period" },
    { NULL },
};
const CliCommand cli_cmd_event = {
    .group = "service",
    .name = "event",
    .summary = "wait for events of stasisd",
    .description =
        "Wait for an event and print it; with --loop, for more. Kinds are: job (one has come, "
        "begun or ended), missed (a policy's run is late by a period or more), and guard-armed, "
        "guard-failure, guard-skipped (the first image on end that is left out), guard-captured, "
        "guard-bundle-failed (it is in memory, and tried again), guard-bundle-removed, "
        "guard-rolled-back, guard-restarted, guard-gave-up, guard-ended (the VM was shut down), "
        "and "
        "watch-watching, watch-image, watch-removed, watch-failed (no image could be taken, or "
        "removed), watch-lost. With "
        "--json each is one object a line, without an envelope.",
    .arguments = event_arguments,
    .options = event_options,
    .examples = event_examples,
    .handler = show_events,
};
