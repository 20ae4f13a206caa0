/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stasis/error.h>
#include <stasis/guard.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "guard.h"
#include "output.h"
#include "watch.h"

#define EXIT_EVENT 125

/* ---- as it goes ---- */

static gboolean is(const StasisGuardEvent *event, const char *what)
{
    return strcmp(event->what, what) == 0;
}

/* For how many times on end there is that reason. */
static guint on_end(const StasisGuardEvent *event)
{
    return is(event, "skipped") ? event->n_skipped : event->n_tries;
}

static JsonObject *event_to_json(const StasisGuardEvent *event)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "event", event->what);
    json_object_set_int_member(object, "at_us", g_get_real_time());
    if (event->image != NULL) {
        cli_json_set_string(object, "id", event->image->id);
        cli_json_set_uint(object, "pause_us", event->image->cost.pause_us);
        cli_json_set_uint(object, "total_us", event->image->cost.total_us);
    }
    if (event->reason != NULL) {
        cli_json_set_string(object, "code", stasis_error_name(event->reason));
        cli_json_set_string(object, "reason", event->reason->message);
        cli_json_set_uint(object, "on_end", on_end(event));
    }
    if (event->failure != NULL)
        json_object_set_object_member(object, "failure", cli_failure_to_json(event->failure));
    if (event->path != NULL)
        cli_json_set_string(object, is(event, "bundle-failed") ? "kept" : "bundle", event->path);
    if (event->id != NULL)
        cli_json_set_string(object, "id", event->id);
    if (event->detail != NULL)
        cli_json_set_string(object, "detail", event->detail);
    if (event->n_tries > 0 && event->id != NULL)
        cli_json_set_uint(object, "tries", event->n_tries);
    if (event->took_us > 0)
        cli_json_set_uint(object, "took_us", event->took_us);
    return object;
}

static void print_bundle_failed(CliCall *call, const StasisGuardEvent *event)
{
    const char *name = call->args[0], *why = event->reason->message;
    if (event->path == NULL)
        cli_try_note(call, "%s: the bundle could not be written, and is lost: %s", name, why);
    else
        cli_try_note(call,
                     "%s: the bundle could not be written: %s; it is in memory (%s), and is "
                     "tried again",
                     name, why, event->path);
}

static void print_bundle_removed(CliCall *call, const StasisGuardEvent *event)
{
    const char *name = call->args[0];
    if (event->reason != NULL)
        cli_try_note(call, "%s: an old bundle is left: %s", name, event->reason->message);
    else if (cli_flag(call, "verbose"))
        cli_try_note(call, "%s: %s removed", name, event->path);
}

static void print_event(CliCall *call, const StasisGuardEvent *event)
{
    const char *name = call->args[0];
    g_autofree char *took = cli_format_us(event->took_us);
    if (is(event, "armed")) {
        cli_try_note(call, "%s: guarded", name);
    } else if (is(event, "ended")) {
        cli_try_note(call, "%s: not guarded any more: %s", name, event->detail);
    } else if (is(event, "bundle-removed")) {
        print_bundle_removed(call, event);
    } else if (event->image != NULL) {
        g_autofree char *pause = cli_format_us(event->image->cost.pause_us);
        if (cli_flag(call, "verbose"))
            cli_try_note(call, "%s: image %s, stop %s", name, event->image->id, pause);
    } else if (event->reason != NULL) {
        if (on_end(event) > 1 && !cli_flag(call, "verbose"))
            return;
        if (is(event, "bundle-failed"))
            print_bundle_failed(call, event);
        else
            cli_try_note(call, "%s: no image: %s", name, event->reason->message);
    } else if (event->path != NULL) {
        cli_try_note(call, "%s: captured in %s", name, took);
    } else if (event->id != NULL) {
        cli_try_note(call, "%s: %s to %s in %s (%u on end)", name, event->what, event->id, took,
                     event->n_tries);
    } else {
        const StasisFailure *failure = event->failure;
        cli_try_note(call, "%s: %s: %s%s%s", name, event->what, failure->kind,
                     failure->detail != NULL ? ": " : "",
                     failure->detail != NULL ? failure->detail : "");
    }
}

static void show_event(const StasisGuardEvent *event, gpointer data)
{
    CliCall *call = data;
    if (is(event, "captured") && !call->json) {
        puts(event->path);
        fflush(stdout);
    }
    if (g_strcmp0(cli_text(call, "progress"), "json") != 0) {
        print_event(call, event);
        return;
    }
    g_autoptr(JsonObject) object = event_to_json(event);
    cli_report_object(object);
}

/* ---- the whole ---- */

static void show(CliCall *call, const StasisGuardResult *result)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "name", call->args[0]);
    cli_json_set_uint(object, "images", result->n_images);
    cli_json_set_uint(object, "skipped", result->n_skipped);
    cli_json_set_uint(object, "failures", result->n_failures);
    cli_json_set_uint(object, "rollbacks", result->n_rollbacks);
    cli_json_set_uint(object, "restarts", result->n_restarts);
    json_object_set_boolean_member(object, "gave_up", result->gave_up);
    if (result->last != NULL)
        json_object_set_object_member(object, "last", cli_failure_to_json(result->last));
    JsonArray *bundles = json_array_new();
    for (char **path = result->bundles; *path != NULL; path++)
        json_array_add_string_element(bundles, *path);
    json_object_set_array_member(object, "bundles", bundles);
    cli_json_set_uint(object, "bundles_removed", result->n_removed);
    if (result->ended != NULL)
        cli_json_set_string(object, "ended", result->ended);
    if (result->kept != NULL) {
        cli_json_set_string(object, "kept", result->kept);
        cli_json_set_string(object, "kept_error", result->kept_error);
    }
    cli_take_object(call, object);
}

/* How to get at a bundle that is nowhere but in memory. */
static void tell_kept(CliCall *call, const StasisGuardResult *result, const char *dir)
{
    if (g_strcmp0(cli_text(call, "progress"), "json") == 0)
        return;
    g_autofree char *path = g_shell_quote(result->kept);
    g_autofree char *to = g_shell_quote(dir != NULL ? dir : ".");
    cli_note(call,
             "%s: the bundle could not be written: %s; it is in memory alone, for as long as the "
             "host is up. Put it into its place: mv %s %s (or the next guard does it)",
             call->args[0], result->kept_error, path, to);
}

static gboolean check_bundles(const CliCall *call, const StasisGuardOptions *options,
                              GError **error)
{
    if (options->capture || cli_text(call, "max-bundles") == NULL)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                        "--max-bundles without --do capture: there are no bundles to remove");
    return FALSE;
}

static gboolean guard(CliCall *call, GError **error)
{
    const char *disk = cli_text(call, "disk");
    StasisGuardOptions options = STASIS_GUARD_OPTIONS_INIT;
    g_auto(GStrv) on = cli_watch_words(call, error);
    g_autofree const char **how = cli_texts(call, "do");
    if (on == NULL || !stasis_guard_options_set_do(&options, how, error) ||
        !check_bundles(call, &options, error))
        return FALSE;
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisStore) store = NULL;
    if (vm == NULL || (cli_text(call, "store") != NULL &&
                       (store = cli_open_store(call, STASIS_STORE_CREATE, error)) == NULL))
        return FALSE;
    options.every_us = cli_number(call, "every", 0);
    options.keep = (guint)cli_number(call, "keep", 0);
    options.max_tries = (guint)cli_number(call, "max-tries", 0);
    options.max_skips = (guint)cli_number(call, "max-skips", 0);
    options.max_bundles = (guint)cli_number(call, "max-bundles", 0);
    options.by_policy = cli_flag(call, "by-policy");
    options.on = on[0] != NULL ? (const char *const *)on : NULL;
    options.dir = cli_text(call, "output");
    options.disks = disk != NULL ? (StasisDisks)stasis_disks_from_string(disk) : STASIS_DISKS_COPY;
    options.func = show_event;
    options.func_data = call;
    g_autoptr(StasisGuardResult) result =
        stasis_guard_run(vm, store, &options, call->cancellable, error);
    if (result == NULL)
        return FALSE;
    show(call, result);
    gboolean ended_by_failure =
        !g_cancellable_is_cancelled(call->cancellable) && result->ended == NULL;
    call->exit_code = result->kept != NULL ? 1 : ended_by_failure ? EXIT_EVENT : 0;
    if (result->kept != NULL)
        tell_kept(call, result, options.dir);
    return TRUE;
}

static const CliArgument arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliOption options[] = {
    { "every", 0, CLI_MS, "MS", "from one image to the next (default: 500)" },
    { "on", 0, CLI_TEXT, "WORDS", CLI_WATCH_HELP " (default: panic,watchdog,crash)", .many = TRUE },
    CLI_GUARD_OPTIONS,
    { "output", 'o', CLI_DIR, "DIR", "where bundles go (default: the current directory)" },
    { "by-policy", 0, CLI_FLAG, NULL, "stasisd runs it, for a policy", .hidden = TRUE },
    { NULL },
};
static const CliExample examples[] = {
    { "guard web --on panic,hang,log=Oops -o /var/crash", "What led there, in one file" },
    { "guard web --every 200 --do capture --do rollback --max-tries 5",
      "The same, and the VM goes on from before" },
    { NULL },
};
const CliCommand cli_cmd_guard = {
    .group = "failure",
    .name = "guard",
    .summary = "keep recent images of a VM, and act when it fails",
    .description =
        "Take an image of the VM every so often and keep the last few in memory (below "
        "$STASIS_RUNTIME_DIR, else in /dev/shm; with --store in that store) until what --on names "
        "happens. Then, by --do: capture puts them, one more of the VM as it is then, the end of "
        "its console and what QEMU told into one file, whose name is printed; rollback takes the "
        "VM back in place to the last image from before the failure began; restart ends its QEMU "
        "and starts a new one from there, on the same disks. If it fails again within ten seconds "
        "an older image is taken, after a pause that doubles from 100 ms on; after --max-tries of "
        "that on end the guard gives up and leaves the VM as it is. A failure may be seen late, a "
        "hang after two seconds: --keep times --every should reach back further, else the oldest "
        "image that there is is taken, which may be of the failure. If none was taken before it "
        "was "
        "seen the VM is left, too, and the guard fails. Of a store that --store names it removes "
        "what it has made there itself.\n\n"
        "The guest's speed counts for more here than the shortest stop: what it rewrites all the "
        "time, up to 40 MiB, is copied in the stop of each image, for up to 5 ms, because a "
        "write fault for each page would cost it several times as much.\n\n"
        "An image for which the guest writes more in a moment than there is memory for is left "
        "out, "
        "and that is told; the guest runs on, and the images before guard it. After --max-skips of "
        "them on end the guard fails (exit status 7).\n\n"
        "A bundle that can't be written (the disk is full, read-only, or gone) is kept in memory, "
        "as the file that it is to be, and tried again after a second, then less and less often, "
        "up to once a minute; the VM is guarded on meanwhile. There is room for one, the first. "
        "If it can't be written at the end either the guard says where it is, and how to put it "
        "into its place (exit status 1); the next guard with capture of a VM of that name does it, "
        "too.\n\n"
        "With --max-bundles the oldest bundles in DIR go when a new one is there, also those of "
        "guards before this one; but only bundles that a guard of this VM wrote with "
        "--max-bundles, "
        "as they say themselves, and that have the name that it gave them: one that was renamed or "
        "copied, one without that option, and a policy's stay.\n\n"
        "It runs until Ctrl-C or until the VM is shut down, by its guest or from outside, which is "
        "no failure unless --on exit says so (exit status 0), or ends with 125 after a capture "
        "alone, or when it "
        "gives up. What happens is told on stderr, by --progress json as one JSON object a line. "
        "The "
        "guard does not wait for who reads: a line for which there is no room, as nobody does, is "
        "dropped. "
        "The VM is busy for other commands meanwhile, and QEMU stands still where it would end "
        "(at a panic; with --on exit also when the guest shuts down), so that it can be put back.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = guard,
};
