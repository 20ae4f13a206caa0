/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images of processes at what happens to them. */
#include <stasis/process-watch.h>
#include <stdio.h>
#include <string.h>

#include "output.h"
#include "policy.h"
#include "proc.h"

/* ---- as it goes ---- */

static JsonObject *event_to_json(const char *name, const StasisProcessWatchEvent *event)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "name", name);
    cli_json_set_string(object, "event", event->what);
    json_object_set_int_member(object, "at_us", g_get_real_time());
    cli_json_set_uint(object, "n_watched", event->n_watched);
    if (event->pid > 0)
        cli_json_set_uint(object, "pid", event->pid);
    if (event->comm != NULL)
        cli_json_set_string(object, "comm", event->comm);
    if (event->child > 0)
        cli_json_set_uint(object, "child", event->child);
    if (event->count > 0)
        cli_json_set_uint(object, "count", event->count);
    if (event->object != NULL) {
        cli_json_set_string(object, "object", event->object);
        json_object_set_boolean_member(object, "created", event->created);
    }
    if (event->image != NULL) {
        cli_json_set_string(object, "id", event->image->id);
        cli_json_set_uint(object, "n_processes",
                          event->image->processes->len - (event->image->n_trees > 1));
        cli_json_set_uint(object, "pause_us", event->image->cost.pause_us);
        cli_json_set_uint(object, "total_us", event->image->cost.total_us);
    }
    if (event->id != NULL)
        cli_json_set_string(object, "id", event->id);
    if (event->error != NULL)
        cli_json_set_string(object, "error", event->error->message);
    return object;
}

/* The guest's words are one line without control characters. */
static char *describe(const StasisProcessWatchEvent *event)
{
    g_autofree char *times = event->count > 1
                                 ? g_strdup_printf(", %" G_GUINT64_FORMAT " times", event->count)
                                 : g_strdup("");
    if (event->object != NULL)
        return g_strdup_printf("%s %s", event->object, event->created ? "created" : "removed");
    if (event->child > 0)
        return g_strdup_printf("fork of pid %u (%s): pid %u%s", event->pid, event->comm,
                               event->child, times);
    return g_strdup_printf("%s of pid %u (%s)%s", event->what, event->pid, event->comm, times);
}

static void print_event(CliCall *call, const StasisProcessWatchEvent *event)
{
    const char *name = call->args[0];
    gboolean verbose = cli_flag(call, "verbose");
    if (event->image != NULL) {
        g_autofree char *pause = cli_format_us(event->image->cost.pause_us);
        if (!call->json)
            cli_print_line(call, event->image->id);
        if (verbose)
            cli_note(call, "%s: image %s, stop %s", name, event->image->id, pause);
    } else if (event->error != NULL) {
        cli_note(call, "%s: %s%s%s", name, event->id != NULL ? event->id : "",
                 event->id != NULL ? ": " : "", event->error->message);
    } else if (event->id != NULL) {
        cli_note(call, "%s: image %s removed", name, event->id);
    } else if (strcmp(event->what, "watching") == 0) {
        cli_note(call, "%s: %u process%s watched", name, event->n_watched,
                 event->n_watched == 1 ? "" : "es");
    } else if (strcmp(event->what, "lost") == 0) {
        cli_note(call, "%s: more happened than the guest could tell", name);
    } else if (verbose) {
        g_autofree char *text = describe(event);
        cli_note(call, "%s: %s", name, text);
    }
}

static void show_event(const StasisProcessWatchEvent *event, gpointer data)
{
    CliCall *call = data;
    if (g_strcmp0(cli_text(call, "progress"), "json") != 0) {
        print_event(call, event);
        return;
    }
    if (event->image != NULL && !call->json)
        cli_print_line(call, event->image->id);
    g_autoptr(JsonObject) object = event_to_json(call->args[0], event);
    cli_report_object(object);
}

/* ---- the whole ---- */

static void show(CliCall *call, const StasisProcessWatchResult *result)
{
    JsonObject *object = json_object_new();
    JsonArray *images = json_array_new();
    for (char **id = result->images; *id != NULL; id++)
        json_array_add_string_element(images, *id);
    cli_json_set_string(object, "name", call->args[0]);
    cli_json_set_uint(object, "changes", result->n_changes);
    cli_json_set_uint(object, "taken", result->n_taken);
    cli_json_set_uint(object, "failed", result->n_failed);
    cli_json_set_uint(object, "removed", result->n_removed);
    json_object_set_boolean_member(object, "ended", result->ended);
    json_object_set_array_member(object, "images", images);
    cli_take_object(call, object);
}

static gboolean run(CliCall *call, StasisProcessWatchOptions *options, GError **error)
{
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisStore) store =
        vm != NULL ? cli_open_store(call, STASIS_STORE_CREATE, error) : NULL;
    g_autoptr(StasisProcessWatchResult) result =
        store != NULL ? stasis_process_watch(vm, store, options, call->cancellable, error) : NULL;
    if (result == NULL)
        return FALSE;
    show(call, result);
    return TRUE;
}

static gboolean watch(CliCall *call, GError **error)
{
    StasisProcessWatchOptions options = STASIS_PROCESS_WATCH_OPTIONS_INIT;
    StasisPruneOptions retain = STASIS_PRUNE_OPTIONS_INIT;
    CliBoundary asked;
    g_autofree const char **words = cli_texts(call, "on");
    options.events = stasis_process_events_from_words(words, error);
    if (options.events == 0)
        return FALSE;
    cli_boundary_init(&asked, call);
    if (cli_text(call, "boundary") == NULL)
        asked.options.shape = STASIS_BOUNDARY_TALKED;
    options.boundary = &asked.options;
    options.min_interval_us = cli_number(call, "min-interval", 0);
    options.keep = (guint)cli_number(call, "keep", 0);
    if (cli_read_keep_times(call, &retain)) {
        retain.keep_last = options.keep;
        options.keep = 0;
        options.retain = &retain;
    }
    options.max_images = cli_number(call, "count", 0);
    options.incremental = cli_flag(call, "incremental");
    options.note = cli_text(call, "note");
    options.take_up = cli_flag(call, "take-up");
    options.by_policy = cli_flag(call, "by-policy");
    options.scratch = cli_text(call, "scratch");
    options.func = show_event;
    options.func_data = call;
    gboolean ok = run(call, &options, error);
    cli_boundary_clear(&asked);
    return ok;
}

/* ---- table ---- */

static const CliArgument arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliOption options[] = {
    { "on", 0, CLI_TEXT, "EVENTS",
      "what to take an image at: fork, exec, exit, mqueue, sem, shm, ipc (these three); the last "
      "four also with :create or :remove; several with commas between them",
      .required = TRUE, .many = TRUE },
    { "pid", 0, CLI_COUNT, "PID", "a process, by its ID in the guest", .many = TRUE },
    { "unit", 0, CLI_TEXT, "UNIT", "all processes of that systemd unit (\"cron.service\")" },
    { "cgroup", 0, CLI_TEXT, "CGROUP", "all processes in that control group (\"/a/b\") and below" },
    { "cut", 0, CLI_TEXT, "EDGE", "leave that out, as with proc-graph", .many = TRUE },
    { "boundary", 0, CLI_CHOICE, "closure|tree|talked",
      "who comes along: all that belongs together; those asked for and their descendants; or those "
      "that really said something to each other since the last image (default)" },
    { "keep", 0, CLI_COUNT, "N", "keep so many of the images that are taken here (default: all)" },
    CLI_KEEP_TIMES,
    { "quota", 0, CLI_SIZE, "SIZE",
      "what they may take on the disk; the oldest go, never the newest" },
    { "min-interval", 0, CLI_MS, "MS",
      "let so much time pass between one image and the next (default 1000); what happens meanwhile "
      "is one reason for one image" },
    { "count", 0, CLI_COUNT, "N", "end after so many, those that could not be taken too" },
    { "incremental", 0, CLI_FLAG, NULL,
      "store only those pages of memory that the newest image of these processes does not have" },
    { "note", 0, CLI_TEXT, "TEXT", "description to keep in the images" },
    { "take-up", 0, CLI_FLAG, NULL,
      "images of NAME with the same --note, which is needed, are taken up: a proc-watch's before" },
    { "scratch", 0, CLI_DIR, "DIR", "as with proc-checkpoint" },
    { "by-policy", 0, CLI_FLAG, NULL, "stasisd runs it, for a policy", .hidden = TRUE },
    { NULL },
};
static const CliExample examples[] = {
    { "proc-watch web --pid 812 --on fork,exec,exit",
      "Both at each fork, each new program; what has ended needs no images" },
    { "proc-watch web --unit db.service --on shm,sem:create --keep 5",
      "When shared memory comes or goes, and when there is a new semaphore" },
    { NULL },
};
const CliCommand cli_cmd_proc_watch = {
    .group = "process",
    .name = "proc-watch",
    .summary = "take images of processes at what happens to them",
    .description =
        "Have the agent in the guest watch processes and all that they start, and take an image as "
        "proc-checkpoint does, and print its ID, when one of them does what --on names. At a fork "
        "parent and child are in it. At an exec, older images with the program that was before are "
        "removed once the new one is there. At an exit none is taken, and images of which no "
        "process lives any more are removed; so are those that no --keep option keeps, if there is "
        "one, and the oldest beyond --quota. Only images that this command took are ever "
        "removed.\n\n"
        "Message queues, semaphores and shared memory are told as they come and go: POSIX ones "
        "that a watched process has open or mapped, and in an IPC namespace of its own (as that of "
        "stasis-session) SysV ones, too. The guest looks for them ten times a second: one that was "
        "made and removed in between is no event, and no image could have held it.\n\n"
        "What happens at once, or within --min-interval, is one reason for one image; how often it "
        "happened is told with --verbose, or with --progress json as one JSON object a line of "
        "stderr. Unless --boundary says otherwise only those processes come along that really "
        "communicated. An image that can't be taken is told, and tried again twice.\n\n"
        "Runs until Ctrl-C, --count, or until all processes have ended. If it is killed, the guest "
        "stops watching a minute later. A guest is watched by one proc-watch at a time. Its kernel "
        "needs CONFIG_PROC_EVENTS, as those of distributions have it. Other commands that speak to "
        "the agent wait for half a second.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = watch,
};
