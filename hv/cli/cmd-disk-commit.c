/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "output.h"

/* Without a store there is no image that could refer to anything. */
static gboolean open_store(CliCall *call, StasisStore **ret, GError **error)
{
    g_autoptr(GError) local = NULL;
    *ret = cli_open_store(call, STASIS_STORE_EXISTING, &local);
    if (*ret != NULL || g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NO_STORE))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

static gboolean commit(CliCall *call, GError **error)
{
    guint n = 0;
    g_autoptr(StasisStore) store = NULL;
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    if (vm == NULL || !open_store(call, &store, error) ||
        !stasis_vm_commit_disks(vm, store, cli_flag(call, "force"), &n, error))
        return FALSE;
    if (!call->json) {
        cli_note(call,
                 n > 0 ? "%u overlays were written into the files below and removed"
                       : "the VM's disks lie on no overlay of stasis",
                 n);
        return TRUE;
    }
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "vm", call->args[0]);
    cli_json_set_uint(object, "n_overlays", n);
    cli_take_object(call, object);
    return TRUE;
}

static const CliArgument arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliOption options[] = {
    { "force", 0, CLI_FLAG, NULL,
      "also if images of the store refer to those files; they can't be used any more then" },
    { NULL },
};
static const CliExample examples[] = {
    { "disk-commit vm1", "Back to the disk files that it was started with" },
    { NULL },
};
const CliCommand cli_cmd_disk_commit = {
    .group = "vm",
    .name = "disk-commit",
    .summary = "write a VM's overlays back into its disks",
    .description =
        "Write what checkpoints with --disk overlay let the VM write to other files into the files "
        "below, one after the other and while it runs, until it writes to the files that it was "
        "started with, and remove the others. Refused while an image of the store refers to one of "
        "them. If it is killed in the middle, the next command on that VM completes it.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = commit,
};
