/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Devices of a VM by themselves: saved without its memory, and put back one by one. */
#include <stdio.h>
#include <unistd.h>

#include "image.h"
#include "output.h"
#include "progress.h"

/* ---- device-checkpoint ---- */

static gboolean checkpoint(CliCall *call, GError **error)
{
    StasisDeviceCheckpointOptions options = STASIS_DEVICE_CHECKPOINT_OPTIONS_INIT;
    options.note = cli_text(call, "note");
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisStore) store =
        vm != NULL ? cli_open_store(call, STASIS_STORE_CREATE, error) : NULL;
    if (store == NULL)
        return FALSE;
    g_autoptr(StasisImageInfo) info = stasis_device_checkpoint(
        vm, store, (const char *const *)call->args + 1, &options, call->cancellable, error);
    if (info == NULL)
        return FALSE;
    if (call->json)
        cli_take_object(call, cli_image_to_json(info));
    else
        puts(info->id);
    if (isatty(STDERR_FILENO) || cli_flag(call, "verbose")) {
        g_autofree char *pause = cli_format_us(info->cost.pause_us);
        g_autofree char *stored = cli_format_bytes(info->stored_bytes);
        cli_note(call, "%s: %s stored, pause %s", info->id, stored, info->paused ? "none" : pause);
    }
    return TRUE;
}

static const CliArgument checkpoint_arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { "DEVICE", CLI_ANY, CLI_TEXT, "device, as device-list names it (default: all)" },
    { NULL },
};
static const CliOption checkpoint_options[] = {
    { "note", 0, CLI_TEXT, "TEXT", "a description to keep in the image" },
    { NULL },
};
static const CliExample checkpoint_examples[] = {
    { "device-checkpoint web", "All devices of a VM, in some 100 KiB" },
    { "device-checkpoint web e1000", "One of them" },
    { NULL },
};
const CliCommand cli_cmd_device_checkpoint = {
    .group = "device",
    .name = "device-checkpoint",
    .summary = "save the state of a VM's devices, without its memory",
    .description =
        "Save the suspend state of a running VM's devices in an image of their own, without memory "
        "and disks, and print its ID. It is listed, compared, verified, pruned and deleted as "
        "other "
        "images are; `device-restore` puts a device back from it, and nothing else can be done "
        "with "
        "it: a VM can't be restored from its devices alone. The VM is stopped for a millisecond or "
        "two. What the next checkpoint is incremental to does not change.\n\n"
        "A device is named as `device-list` shows it, by what is behind the last slash where that "
        "is "
        "one device's only (`e1000` for `0000:00:03.0/e1000`), and one of several instances with "
        "its "
        "number (`cpu#1`).",
    .arguments = checkpoint_arguments,
    .options = checkpoint_options,
    .examples = checkpoint_examples,
    .handler = checkpoint,
};

/* ---- device-restore ---- */

static JsonObject *to_json(const char *name, const StasisDeviceRestoreInfo *info)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "vm", name);
    cli_json_set_string(object, "name", info->name);
    cli_json_set_uint(object, "instance", info->instance);
    cli_json_set_string(object, "id", info->id);
    cli_json_set_string(object, "safety_id", info->safety_id);
    cli_json_set_string(object, "notice", info->notice);
    cli_json_set_uint(object, "size_bytes", info->size_bytes);
    cli_json_set_uint(object, "changed_bytes", info->changed_bytes);
    cli_json_set_uint(object, "stop_us", info->stop_us);
    cli_json_set_uint(object, "total_us", info->total_us);
    return object;
}

static void show(CliCall *call, const StasisDeviceRestoreInfo *info)
{
    if (info->safety_id == NULL) {
        cli_note(call, "%s is as in the image: nothing was to be done", info->name);
        return;
    }
    if (!call->json)
        puts(info->safety_id);
    cli_note(call, "warning: %s: %s", info->name, info->notice);
    if (isatty(STDERR_FILENO) || cli_flag(call, "verbose")) {
        g_autofree char *stop = cli_format_us(info->stop_us);
        cli_note(call,
                 "%s of %s is back at %s: %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                 " bytes were another; stop %s",
                 info->name, call->args[0], info->id, info->changed_bytes, info->size_bytes, stop);
    }
}

static gboolean restore(CliCall *call, GError **error)
{
    CliProgress progress = cli_progress_new(call);
    StasisDeviceRestoreOptions options = STASIS_DEVICE_RESTORE_OPTIONS_INIT;
    options.force = cli_flag(call, "force");
    options.progress = cli_progress_show;
    options.progress_data = &progress;
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisStore) store =
        vm != NULL ? cli_open_store(call, STASIS_STORE_EXISTING, error) : NULL;
    g_autofree char *id = store != NULL ? stasis_store_resolve(store, call->args[2], error) : NULL;
    if (id == NULL)
        return FALSE;
    g_autoptr(StasisDeviceRestoreInfo) info =
        stasis_device_restore(vm, store, call->args[1], id, &options, call->cancellable, error);
    cli_progress_end(&progress);
    if (info == NULL)
        return FALSE;
    show(call, info);
    if (call->json)
        cli_take_object(call, to_json(call->args[0], info));
    return TRUE;
}

static const CliArgument restore_arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { "DEVICE", CLI_ONE, CLI_TEXT, "device, as device-list names it" },
    { "ID", CLI_ONE, CLI_IMAGE,
      "image that has its state: its ID, a unique prefix of it, or \"latest\"" },
    { NULL },
};
static const CliOption restore_options[] = {
    { "force", 'f', CLI_FLAG, NULL,
      "also where the guest is likely to fail: virtio, disk controllers, virtual CPUs, clocks" },
    { NULL },
};
static const CliExample restore_examples[] = {
    { "device-restore web serial 01jq4z7k2m", "The serial port as it was, and nothing else" },
    { "device-restore web 0000:00:03.0/e1000 latest", "A network card that was set up wrong" },
    { NULL },
};
const CliCommand cli_cmd_device_restore = {
    .group = "device",
    .name = "device-restore",
    .summary = "put one device of a VM back to its state in an image",
    .description =
        "Give one device of a running VM the state that it has in an image (of devices only, or "
        "any "
        "other). Memory, disks and all other devices stay as they are; so the guest's driver knows "
        "nothing of it, and a warning says what it may see. Where the guest would most likely fail "
        "(the rings of a virtio device lie in guest memory, say, and do not go back) it is refused "
        "without --force (exit status 6). The lines between devices are not the device's: an "
        "interrupt that it had raised is as the interrupt controller has it now.\n\n"
        "A checkpoint of the VM is taken before; it stays, and its ID is printed: a rollback to it "
        "undoes all. QEMU loads devices all at once, so the VM stops for as long as an incremental "
        "checkpoint and a rollback take, some tens of milliseconds. If the device's state can't be "
        "loaded, the VM goes on as it was. If the command is killed in the middle, the VM goes on "
        "as "
        "it was, or `info` says \"half rolled back\" and `rollback` takes it to that checkpoint.",
    .arguments = restore_arguments,
    .options = restore_options,
    .examples = restore_examples,
    .handler = restore,
};
