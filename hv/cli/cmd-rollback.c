/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>
#include <unistd.h>

#include "output.h"
#include "progress.h"

/* "1,024 pages rewritten, stop 6.2 ms (devices 4.1 ms, memory 0.9 ms)" */
static char *describe_cost(const StasisRollbackInfo *info)
{
    g_autofree char *stop = cli_format_us(info->stop_us);
    g_autofree char *device = cli_format_us(info->device_us);
    g_autofree char *ram = cli_format_us(info->ram_us);
    g_autofree char *disks = cli_format_us(info->disk_us);
    g_autofree char *disk_part = info->rewritten_disk_pages > 0
                                     ? g_strdup_printf(", %" G_GUINT64_FORMAT " of disks in %s",
                                                       info->rewritten_disk_pages, disks)
                                     : g_strdup("");
    return g_strdup_printf(
        "%" G_GUINT64_FORMAT " pages rewritten%s, stop %s (devices %s, memory %s%s)",
        info->rewritten_pages, info->compared ? " after comparing all of RAM" : "", stop, device,
        ram, disk_part);
}

static JsonObject *to_json(const char *name, const StasisRollbackInfo *info)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "name", name);
    cli_json_set_string(object, "id", info->id);
    cli_json_set_string(object, "safety_id", info->safety_id);
    json_object_set_boolean_member(object, "resumed", info->resumed);
    json_object_set_boolean_member(object, "compared", info->compared);
    cli_json_set_uint(object, "rewritten_pages", info->rewritten_pages);
    cli_json_set_uint(object, "stop_us", info->stop_us);
    cli_json_set_uint(object, "device_us", info->device_us);
    cli_json_set_uint(object, "ram_us", info->ram_us);
    cli_json_set_uint(object, "rewritten_disk_pages", info->rewritten_disk_pages);
    cli_json_set_uint(object, "disk_us", info->disk_us);
    cli_json_set_uint(object, "total_us", info->total_us);
    return object;
}

static void show(CliCall *call, const StasisRollbackInfo *info)
{
    if (!call->json && info->safety_id != NULL)
        puts(info->safety_id);
    if (isatty(STDERR_FILENO) || cli_flag(call, "verbose")) {
        g_autofree char *cost = describe_cost(info);
        cli_note(call, "%s is back at %s: %s", call->args[0], info->id, cost);
    }
}

/* One result, or with --count an array of them. */
static gboolean run(CliCall *call, StasisRollback *rollback, GError **error)
{
    guint64 count = cli_number(call, "count", 0);
    g_autoptr(JsonArray) array = json_array_new();
    for (guint64 i = 0; i < MAX(count, 1); i++) {
        if (i > 0)
            g_usleep(cli_number(call, "interval", 0));
        g_autoptr(StasisRollbackInfo) info =
            stasis_rollback_run(rollback, call->cancellable, error);
        if (info == NULL)
            return FALSE;
        if (count == 0)
            show(call, info);
        if (call->json && count == 0)
            cli_take_object(call, to_json(call->args[0], info));
        else if (call->json)
            json_array_add_object_element(array, to_json(call->args[0], info));
    }
    if (call->json && count != 0)
        cli_take_array(call, json_array_ref(array));
    return TRUE;
}

static gboolean rollback_vm(CliCall *call, GError **error)
{
    CliProgress progress = cli_progress_new(call);
    StasisRollbackOptions options = STASIS_ROLLBACK_OPTIONS_INIT;
    options.force = cli_flag(call, "force");
    options.safety = cli_flag(call, "safety");
    options.paused = cli_flag(call, "paused");
    options.progress = cli_progress_show;
    options.progress_data = &progress;

    const char *wanted = call->args[1];
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisStore) store =
        vm != NULL ? cli_open_store(call, STASIS_STORE_EXISTING, error) : NULL;
    g_autofree char *id =
        store != NULL && wanted != NULL ? stasis_store_resolve(store, wanted, error) : NULL;
    if (store == NULL || (wanted != NULL && id == NULL))
        return FALSE;
    g_autoptr(StasisRollback) rollback =
        stasis_rollback_prepare(vm, store, id, &options, call->cancellable, error);
    cli_progress_end(&progress);
    return rollback != NULL && run(call, rollback, error);
}

static const CliArgument arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { "ID", CLI_OPTIONAL, CLI_IMAGE,
      "image: its ID, a unique prefix of it, or \"latest\" (default: the VM's last one)" },
    { NULL },
};
static const CliOption options[] = {
    { "force", 'f', CLI_FLAG, NULL,
      "also when that loses what the VM did since its last image, or its disks don't go back" },
    { "safety", 0, CLI_FLAG, NULL, "take a checkpoint first and print its ID" },
    { "paused", 0, CLI_FLAG, NULL, "leave it paused at the instant of the image" },
    { "count", 0, CLI_COUNT, "N", "go back so many times (with --json an array)", .hidden = TRUE },
    { "interval", 0, CLI_MS, "MS", "let it run so long in between", .hidden = TRUE },
    { NULL },
};
static const CliExample examples[] = {
    { "rollback web --safety", "Back to the last image, and able to return" },
    { "rollback web 01jq4z7k2m --force --paused", "Back, whatever happened since, and stay there" },
    { NULL },
};
const CliCommand cli_cmd_rollback = {
    .group = "image",
    .name = "rollback",
    .summary = "take a running VM back to an image, in place",
    .description =
        "Take the VM back to an image in the QEMU process that it runs in, and let it go on from "
        "there. Only the pages written since are rewritten, so it takes milliseconds. Any image of "
        "the VM will do: an older one, a newer one, one of another branch. The next checkpoint is "
        "incremental to it.\n\n"
        "Without --force or --safety it is refused (exit status 6) when the VM has run since its "
        "last image. Disks go back as well. An image that does not have them (--disk none) is "
        "refused without --force where the VM has written to one.\n\n"
        "If a rollback fails half-way, or is killed, the VM stays paused and `info` says \"half "
        "rolled back\"; the command again completes it.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = rollback_vm,
};
