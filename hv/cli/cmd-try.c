/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stasis/transaction.h>
#include <stdio.h>

#include "output.h"
#include "watch.h"

#define EXIT_TIMEOUT 124
#define EXIT_EVENT 125
#define EXIT_INTERRUPTED 130
#define MAX_GUEST_MS 600000u /* what agent-exec allows */

static const char *outcome_name(StasisTryOutcome outcome)
{
    static const char *const names[] = { "committed", "failed", "timeout", "event", "interrupted" };
    return names[outcome];
}

static char *describe_undone(const StasisUndone *undone)
{
    g_autofree char *total = cli_format_us(undone->total_us);
    if (undone->device_only)
        return g_strdup_printf("that device alone, in %s", total);
    if (undone->rollback == NULL)
        return g_strdup_printf("QEMU had ended; it was started again from the image in %s", total);
    g_autofree char *stop = cli_format_us(undone->rollback->stop_us);
    return g_strdup_printf("%" G_GUINT64_FORMAT " pages and %" G_GUINT64_FORMAT
                           " of disks rewritten in %s, the VM stood still for %s",
                           undone->rollback->rewritten_pages,
                           undone->rollback->rewritten_disk_pages, total, stop);
}

static JsonObject *undone_to_json(const StasisUndone *undone)
{
    JsonObject *object = json_object_new();
    json_object_set_boolean_member(object, "restarted", undone->restarted);
    cli_json_set_uint(object, "total_us", undone->total_us);
    json_object_set_boolean_member(object, "device_only", undone->device_only);
    cli_json_set_string(object, "device_failed", undone->device_failed);
    if (undone->rollback != NULL) {
        cli_json_set_uint(object, "rewritten_pages", undone->rollback->rewritten_pages);
        cli_json_set_uint(object, "rewritten_disk_pages", undone->rollback->rewritten_disk_pages);
        cli_json_set_uint(object, "stop_us", undone->rollback->stop_us);
    }
    return object;
}

static void show(CliCall *call, const StasisTryResult *result)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "name", call->args[0]);
    cli_json_set_string(object, "outcome", outcome_name(result->outcome));
    json_object_set_int_member(object, "status", result->status);
    cli_json_set_string(object, "image", result->image->id);
    cli_json_set_uint(object, "checkpoint_stop_us", result->image->cost.pause_us);
    cli_json_set_uint(object, "checkpoint_us", result->image->cost.total_us);
    cli_json_set_uint(object, "command_us", result->command_us);
    if (result->failed_at_us != 0)
        cli_json_set_uint(object, "failed_at_us", (guint64)result->failed_at_us);
    if (result->failure != NULL)
        json_object_set_object_member(object, "failure", cli_failure_to_json(result->failure));
    if (result->undone != NULL)
        json_object_set_object_member(object, "undone", undone_to_json(result->undone));
    cli_take_object(call, object);
}

static void report(CliCall *call, const StasisTryResult *result)
{
    g_autofree char *stop = cli_format_us(result->image->cost.pause_us);
    if (result->outcome == STASIS_TRY_COMMITTED) {
        if (cli_flag(call, "verbose"))
            cli_note(call, "%s: committed; the checkpoint stopped it for %s", call->args[0], stop);
        return;
    }
    g_autofree char *undone = describe_undone(result->undone);
    g_autofree char *why =
        result->failure != NULL
            ? g_strdup_printf("%s%s%s", result->failure->kind,
                              result->failure->detail != NULL ? ": " : "",
                              result->failure->detail != NULL ? result->failure->detail : "")
        : result->outcome == STASIS_TRY_FAILED
            ? g_strdup_printf("the command ended with status %d", result->status)
            : g_strdup(outcome_name(result->outcome));
    cli_note(call, "%s: %s; rolled back: %s", call->args[0], why, undone);
    if (result->undone->device_failed != NULL)
        cli_note(call, "%s: all of it, since the device alone could not be: %s", call->args[0],
                 result->undone->device_failed);
}

static int exit_code_of(const StasisTryResult *result)
{
    switch (result->outcome) {
    case STASIS_TRY_TIMEOUT:
        return EXIT_TIMEOUT;
    case STASIS_TRY_EVENT:
        return EXIT_EVENT;
    case STASIS_TRY_CANCELLED:
        return EXIT_INTERRUPTED;
    default:
        return result->status;
    }
}

/* `stasis agent-exec NAME -- CMD`, as a command on this host. Free the array alone. */
static char **in_guest(CliCall *call)
{
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    const char *connect = cli_text(call, "connect");
    g_autofree char *ms = g_strdup_printf("%u", MAX_GUEST_MS);
    g_strv_builder_add_many(builder, "/proc/self/exe", "agent-exec", call->args[0], "--timeout", ms,
                            NULL);
    if (connect != NULL)
        g_strv_builder_add_many(builder, "--connect", connect, NULL);
    g_strv_builder_add(builder, "--");
    g_strv_builder_addv(builder, (const char **)call->args + 1);
    return g_strv_builder_end(builder);
}

static gboolean recover(CliCall *call, GError **error)
{
    g_autoptr(StasisUndone) undone =
        stasis_transaction_recover(call->args[0], call->cancellable, error);
    if (undone == NULL)
        return FALSE;
    g_autofree char *text = describe_undone(undone);
    cli_note(call, "%s: %s", call->args[0], text);
    cli_take_object(call, undone_to_json(undone));
    return TRUE;
}

static gboolean try_command(CliCall *call, GError **error)
{
    const char *disk = cli_text(call, "disk");
    if (cli_flag(call, "recover") && call->args[1] == NULL)
        return recover(call, error);
    g_auto(GStrv) on = cli_watch_words(call, error);
    g_autoptr(StasisVm) vm = on != NULL ? cli_open_vm(call, call->args[0], error) : NULL;
    if (vm != NULL && cli_text(call, "device") != NULL && cli_text(call, "guest-suspend") != NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "either --device, which goes back alone, or --guest-suspend");
        return FALSE;
    }
    if (vm != NULL && cli_flag(call, "recover") != (call->args[1] == NULL)) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "either a command behind \"--\", or --recover");
        return FALSE;
    }
    g_autoptr(StasisStore) store = NULL;
    if (vm == NULL || (cli_text(call, "store") != NULL &&
                       (store = cli_open_store(call, STASIS_STORE_CREATE, error)) == NULL))
        return FALSE;
    StasisTryOptions options = STASIS_TRY_OPTIONS_INIT;
    g_autofree const char **suspended = cli_texts(call, "guest-suspend");
    g_auto(GStrv) argv = cli_flag(call, "guest") ? in_guest(call) : g_strdupv(call->args + 1);
    options.argv = (const char *const *)argv;
    options.output_to_stderr = call->json;
    options.timeout_us = cli_number(call, "timeout", 0);
    options.transaction.on = on[0] != NULL ? (const char *const *)on : NULL;
    options.transaction.keep = cli_flag(call, "keep");
    options.transaction.device = cli_text(call, "device");
    options.transaction.guest_suspend = suspended[0] != NULL ? suspended : NULL;
    /* Such a command is no command of ours that needs the VM. */
    options.transaction.hold = cli_flag(call, "guest");
    options.transaction.disks =
        disk != NULL ? (StasisDisks)stasis_disks_from_string(disk) : STASIS_DISKS_COPY;
    g_autoptr(StasisTryResult) result = stasis_try(vm, store, &options, call->cancellable, error);
    if (result == NULL)
        return FALSE;
    report(call, result);
    show(call, result);
    call->exit_code = exit_code_of(result);
    return TRUE;
}

static const CliArgument arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { "CMD", CLI_MAY_BE_BEHIND, CLI_ARGV, "the command that is tried, on this host or --guest" },
    { NULL },
};
static const CliOption options[] = {
    { "timeout", 0, CLI_MS, "MS", "end the command after so long, and roll back" },
    { "on", 0, CLI_TEXT, "WORDS", CLI_WATCH_HELP " (default: exit)", .many = TRUE },
    { "disk", 0, CLI_CHOICE, "copy|none",
      "disks are put back as well, or stay as they are (default: copy)" },
    { "guest", 0, CLI_FLAG, NULL,
      "run the command in the guest, as agent-exec does: for ten minutes at most" },
    { "device", 0, CLI_TEXT, "DEVICE",
      "on failure only that PCI device (QEMU's id, or its QOM path) goes back, and its driver in "
      "the "
      "guest begins anew; the whole VM where that can't be (see DEVICES in the manual)" },
    { "guest-suspend", 0, CLI_TEXT, "DEVICE",
      "have the agent suspend that device's driver in the guest for the image, as "
      "checkpoint-create does; may be repeated",
      .many = TRUE },
    { "keep", 0, CLI_FLAG, NULL,
      "leave the image in memory when it is over: the next one's is incremental to it" },
    { "recover", 0, CLI_FLAG, NULL, "roll back what a try that was killed has left" },
    { NULL },
};
static const CliExample examples[] = {
    { "try web -- ssh web apt-get -y upgrade", "Upgrade; what does not end well has not been" },
    { "try web --guest --on panic,hang -- modprobe foo", "In the guest, by the agent there" },
    { "try web --timeout 60000 --on panic,hang,log=Oops -- ssh web modprobe foo",
      "Load a driver, and be back before it should it hang or crash" },
    { NULL },
};
const CliCommand cli_cmd_try = {
    .group = "failure",
    .name = "try",
    .summary = "run a command; if it fails the VM is back where it was",
    .description =
        "Take a checkpoint of the VM, run CMD, and if that ends with another status than 0, takes "
        "longer than --timeout, or what --on names happens to the VM, take the VM back to the "
        "checkpoint: RAM, devices and disks. CMD finds the VM's name in $STASIS_DOMAIN and the "
        "image's ID in $STASIS_IMAGE. What was undone is said on stderr.\n\n"
        "The exit status is CMD's. With --json what CMD prints goes to stderr, and stdout has the "
        "result alone. The status is 124 if the time ran out, 125 if something happened to the "
        "VM, 130 at Ctrl-C; the VM is rolled back then. A guest that has panicked or shut down by "
        "the end of CMD is rolled back whatever its status.\n\n"
        "The image lies in memory (below $STASIS_RUNTIME_DIR, else in /dev/shm), all of the VM's "
        "RAM and disks for as long as it takes; with --store it is in that store, where the last "
        "one stays. While it is under way QEMU stands still where it would end: at a panic, and "
        "when the guest shuts down. If QEMU ends all the same, a new one is started from the "
        "image, "
        "on the same disks. --on with other words than exit and log needs QEMU's monitor until the "
        "end, so CMD can't use it. With --guest the VM is busy for other commands until the end, "
        "and "
        "all is ready for going back: that takes a fraction of the time then.\n\n"
        "If stasis is killed, CMD is as well, and the VM is rolled back at once by a process that "
        "waits for that; if that is killed, too, by the next try, or by --recover.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = try_command,
};
