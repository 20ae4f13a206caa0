/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files that a VM's disks lie in since checkpoints with --disk overlay. */
#include <stdio.h>

#include "output.h"
#include "table.h"

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

/* ---- showing ---- */

static const char *const uses[] = {
    [STASIS_DISK_FILE_TOP] = "written",
    [STASIS_DISK_FILE_BELOW] = "read",
    [STASIS_DISK_FILE_ASIDE] = "aside",
};

static JsonArray *words_to_json(char *const *words)
{
    JsonArray *array = json_array_new();
    for (char *const *word = words; *word != NULL; word++)
        json_array_add_string_element(array, *word);
    return array;
}

static JsonArray *files_to_json(const GPtrArray *files)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < files->len; i++) {
        const StasisVmDiskFile *file = files->pdata[i];
        JsonObject *object = json_object_new();
        cli_json_set_string(object, "disk", file->disk);
        cli_json_set_string(object, "file", file->path);
        cli_json_set_string(object, "use", uses[file->use]);
        cli_json_set_uint(object, "stored_bytes", file->stored_bytes);
        json_object_set_array_member(object, "images", words_to_json(file->images));
        json_object_set_array_member(object, "overlays", words_to_json(file->overlays));
        json_array_add_object_element(array, object);
    }
    return array;
}

static char *describe_images(const StasisVmDiskFile *file)
{
    guint n = g_strv_length(file->images);
    return n <= 1 ? g_strdup(file->images[0]) : g_strdup_printf("%s + %u", file->images[0], n - 1);
}

static void show_files(const GPtrArray *files)
{
    g_autoptr(CliTable) table = cli_table_new("lrlll");
    cli_table_add(table, "DISK", "STORED", "USE", "IMAGES", "FILE");
    for (guint i = 0; i < files->len; i++) {
        const StasisVmDiskFile *file = files->pdata[i];
        g_autofree char *size = cli_format_bytes(file->stored_bytes);
        g_autofree char *images = describe_images(file);
        cli_table_add(table, file->disk, size, uses[file->use], images, file->path);
    }
    cli_table_print(table, 0);
}

static gboolean list(CliCall *call, GError **error)
{
    g_autoptr(StasisStore) store = NULL;
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    if (vm == NULL || !open_store(call, &store, error))
        return FALSE;
    g_autoptr(GPtrArray) files = stasis_vm_list_disk_files(vm, store, error);
    if (files == NULL)
        return FALSE;
    if (call->json)
        cli_take_array(call, files_to_json(files));
    else
        show_files(files);
    return TRUE;
}

/* ---- removing ---- */

static gboolean prune(CliCall *call, GError **error)
{
    gboolean dry_run = cli_flag(call, "dry-run");
    g_autoptr(StasisStore) store = NULL;
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    if (vm == NULL || !open_store(call, &store, error))
        return FALSE;
    g_autoptr(GPtrArray) files = stasis_vm_prune_disk_files(vm, store, dry_run, error);
    if (files == NULL)
        return FALSE;
    if (call->json) {
        JsonObject *object = json_object_new();
        json_object_set_boolean_member(object, "dry_run", dry_run);
        json_object_set_array_member(object, "files", files_to_json(files));
        cli_take_object(call, object);
        return TRUE;
    }
    if (files->len > 0)
        show_files(files);
    cli_note(call, "%u files %s", files->len, dry_run ? "would be removed" : "removed");
    return TRUE;
}

static gboolean commit(CliCall *call, GError **error)
{
    guint n = 0, left = 0;
    g_autoptr(StasisStore) store = NULL;
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    if (vm == NULL || !open_store(call, &store, error) ||
        !stasis_vm_commit_disks(vm, store, cli_flag(call, "force"), &n, &left, error))
        return FALSE;
    if (!call->json) {
        cli_note(call,
                 n > 0 ? "%u overlays were written into the files below and removed"
                       : "the VM's disks lie on no overlay of stasis",
                 n);
        if (left > 0)
            cli_note(call, "%u stay, as what is below them is needed: see disk-list", left);
        return TRUE;
    }
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "vm", call->args[0]);
    cli_json_set_uint(object, "n_overlays", n);
    cli_json_set_uint(object, "n_left", left);
    cli_take_object(call, object);
    return TRUE;
}

static const CliArgument arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliExample list_examples[] = {
    { "disk-list vm1", "What the VM's disks lie in, and which images refer to it" },
    { NULL },
};
const CliCommand cli_cmd_disk_list = {
    .group = "vm",
    .name = "disk-list",
    .summary = "list the files that a VM's disks lie in",
    .description =
        "List the files of the VM's writable disks, from the one that it writes to down, and those "
        "beside them that checkpoints with --disk overlay have made and a rollback has left "
        "(\"aside\"), with the first of the store's images that refers to each, and how many more "
        "do. --json lists all of them, and the files that lie on each.",
    .arguments = arguments,
    .examples = list_examples,
    .handler = list,
};

static const CliOption prune_options[] = {
    { "dry-run", 'n', CLI_FLAG, NULL, "only show what would be removed" },
    { NULL },
};
static const CliExample prune_examples[] = {
    { "disk-prune vm1 --dry-run", "See which files nobody needs any more" },
    { NULL },
};
const CliCommand cli_cmd_disk_prune = {
    .group = "vm",
    .name = "disk-prune",
    .summary = "remove overlays that nobody needs any more",
    .description =
        "Remove those of a VM's disk files that lie aside (see disk-list) and that nobody needs: "
        "no image of the store refers to them, no other file beside them, and no disk of a VM that "
        "was restored from the store (off or not), or that stasis list has, lies on "
        "them, and no program has them open. Images of other stores and overlays that you have "
        "made elsewhere are not known: use --dry-run first if there are such.",
    .arguments = arguments,
    .options = prune_options,
    .examples = prune_examples,
    .handler = prune,
};

static const CliOption commit_options[] = {
    { "force", 0, CLI_FLAG, NULL,
      "also if images of the store refer to those files; they can't be used any more then" },
    { NULL },
};
static const CliExample commit_examples[] = {
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
        "started with, and remove the others. It goes no further than to the first file that an "
        "image of the store refers to, or that a disk of a restored VM (as for disk-prune) lies "
        "on, and "
        "is refused where that leaves nothing to do. An image refers to all below its file, so "
        "delete images from the newest on to have it go further. If it is killed in the middle, "
        "the "
        "next command on that VM completes it.",
    .arguments = arguments,
    .options = commit_options,
    .examples = commit_examples,
    .handler = commit,
};
