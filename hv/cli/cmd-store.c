/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changing a store as a whole: pruning by a policy, folding long chains. */
#include <stdio.h>

#include "image.h"
#include "output.h"
#include "policy.h"
#include "progress.h"
#include "table.h"

static JsonObject *pruned_to_json(const StasisPruneImage *image)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "id", image->info->id);
    cli_json_set_string(object, "vm", image->info->vm);
    json_object_set_int_member(object, "created_us", image->info->created_us);
    json_object_set_boolean_member(object, "keep", image->reasons != NULL);
    cli_json_set_string(object, "reasons", image->reasons);
    return object;
}

JsonObject *cli_prune_to_json(const StasisPruneResult *result, gboolean dry_run)
{
    JsonObject *object = json_object_new();
    JsonArray *images = json_array_new();
    for (guint i = 0; i < result->images->len; i++)
        json_array_add_object_element(images, pruned_to_json(result->images->pdata[i]));
    json_object_set_boolean_member(object, "dry_run", dry_run);
    cli_json_set_uint(object, "kept", result->n_kept);
    cli_json_set_uint(object, "removed", result->n_removed);
    json_object_set_int_member(object, "freed_bytes", result->freed_bytes);
    json_object_set_array_member(object, "images", images);
    return object;
}

void cli_show_prune(const StasisPruneResult *result, gboolean dry_run)
{
    g_autoptr(CliTable) table = cli_table_new("llll");
    cli_table_add(table, "ID", "VM", "CREATED", "KEPT AS");
    for (guint i = 0; i < result->images->len; i++) {
        const StasisPruneImage *image = result->images->pdata[i];
        g_autofree char *created = cli_format_time(image->info->created_us);
        const char *gone = dry_run ? "- would be removed" : "- removed";
        if (image->over_quota)
            gone = dry_run ? "- would be removed: quota" : "- removed: quota";
        cli_table_add(table, image->info->id, image->info->vm, created,
                      image->reasons != NULL ? image->reasons : gone);
    }
    cli_table_print(table, 0);
    g_autofree char *bytes = cli_format_signed_bytes(result->freed_bytes);
    printf("%u kept, %u %s, %s %s\n", result->n_kept, result->n_removed,
           dry_run ? "would be removed" : "removed", bytes, dry_run ? "would be free" : "freed");
}

gboolean cli_read_keep_times(const CliCall *call, StasisPruneOptions *options)
{
    options->keep_hourly = (guint)cli_number(call, "keep-hourly", 0);
    options->keep_daily = (guint)cli_number(call, "keep-daily", 0);
    options->keep_weekly = (guint)cli_number(call, "keep-weekly", 0);
    options->keep_monthly = (guint)cli_number(call, "keep-monthly", 0);
    options->keep_yearly = (guint)cli_number(call, "keep-yearly", 0);
    options->keep_within_us = cli_number(call, "keep-within", 0);
    options->quota_bytes = cli_number(call, "quota", 0);
    return options->keep_hourly != 0 || options->keep_daily != 0 || options->keep_weekly != 0 ||
           options->keep_monthly != 0 || options->keep_yearly != 0 ||
           options->keep_within_us != 0 || options->quota_bytes != 0;
}

static gboolean prune(CliCall *call, GError **error)
{
    CliProgress progress = cli_progress_new(call);
    StasisPruneOptions options = STASIS_PRUNE_OPTIONS_INIT;
    options.vm = cli_text(call, "vm");
    options.keep_last = (guint)cli_number(call, "keep-last", 0);
    cli_read_keep_times(call, &options);
    options.dry_run = cli_flag(call, "dry-run");
    options.allow_remove_all = cli_flag(call, "allow-remove-all");
    options.progress = cli_progress_show;
    options.progress_data = &progress;
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autoptr(StasisPruneResult) result = NULL;
    if (store != NULL)
        result = cli_flag(call, "processes")
                     ? stasis_store_prune_processes(store, &options, NULL, call->cancellable, error)
                     : stasis_store_prune(store, &options, call->cancellable, error);
    cli_progress_end(&progress);
    if (result == NULL)
        return FALSE;
    if (call->json)
        cli_take_object(call, cli_prune_to_json(result, options.dry_run));
    else
        cli_show_prune(result, options.dry_run);
    return TRUE;
}

static gboolean fold(CliCall *call, GError **error)
{
    CliProgress progress = cli_progress_new(call);
    StasisFoldOptions options = STASIS_FOLD_OPTIONS_INIT;
    StasisFoldResult result;
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    if (store == NULL)
        return FALSE;
    g_autofree char *id = NULL;
    if (call->args[0] != NULL) {
        id = stasis_store_resolve(store, call->args[0], error);
        if (id == NULL)
            return FALSE;
    }
    options.id = id;
    options.max_depth = (guint)cli_number(call, "max-depth", 0);
    options.progress = cli_progress_show;
    options.progress_data = &progress;
    gboolean ok = stasis_store_fold(store, &options, &result, call->cancellable, error);
    cli_progress_end(&progress);
    if (!ok)
        return FALSE;
    if (!call->json) {
        printf("%u folded, %u compacted; at most %u ancestors, before %u\n", result.n_folded,
               result.n_compacted, result.depth_after, result.depth_before);
        return TRUE;
    }
    JsonObject *object = json_object_new();
    cli_json_set_uint(object, "folded", result.n_folded);
    cli_json_set_uint(object, "compacted", result.n_compacted);
    cli_json_set_uint(object, "depth_before", result.depth_before);
    cli_json_set_uint(object, "depth_after", result.depth_after);
    cli_take_object(call, object);
    return TRUE;
}

static const CliOption prune_options[] = {
    CLI_KEEP_OPTIONS,
    { "quota", 0, CLI_SIZE, "SIZE",
      "what they may take on the disk together: the oldest go, each VM's newest never" },
    { "vm", 0, CLI_VM, "NAME", "only images of this VM; others stay" },
    { "processes", 0, CLI_FLAG, NULL, "images of processes, instead of those of VMs" },
    { "dry-run", 'n', CLI_FLAG, NULL, "only show what would be removed, and what that frees" },
    { "allow-remove-all", 0, CLI_FLAG, NULL, "let all images of a VM go if the policy says so" },
    { NULL },
};
static const CliExample prune_examples[] = {
    { "store-prune --keep-last 10 --keep-hourly 24 --keep-daily 7 --dry-run",
      "See what a policy would remove" },
    { "store-prune --vm web --keep-within 2d", "Remove what is two days older than the newest" },
    { NULL },
};
const CliCommand cli_cmd_store_prune = {
    .group = "store",
    .name = "store-prune",
    .summary = "delete images by a policy",
    .description =
        "Delete all images that no --keep option keeps, and of the others the oldest that are "
        "beyond "
        "--quota. The policy is applied to each VM's images "
        "by themselves; hours, days and so on are of local time, and only those with an image in "
        "them count. Images go from wherever they are in a chain, as with checkpoint-delete.\n\n"
        "A policy that would keep nothing of a VM is refused without --allow-remove-all. Damaged "
        "images are left alone. What is freed is an estimate.",
    .options = prune_options,
    .examples = prune_examples,
    .handler = prune,
};

static const CliArgument fold_arguments[] = {
    { "ID", CLI_OPTIONAL, CLI_IMAGE, "fold the chain of this image only (default: all chains)" },
    { NULL },
};
static const CliOption fold_options[] = {
    { "max-depth", 0, CLI_COUNT, "N", "ancestors that an image may have (default: 64)" },
    { NULL },
};
static const CliExample fold_examples[] = {
    { "store-fold --max-depth 16", "Make all chains short" },
    { NULL },
};
const CliCommand cli_cmd_store_fold = {
    .group = "store",
    .name = "store-fold",
    .summary = "make long chains of images short",
    .description =
        "To read an image, all that it is incremental to must be read. Where those are too many, "
        "let an image on the way hold all changes since the chain's full image (make it "
        "\"differential\"). No image goes, and none changes its ID or its content. Stored pages "
        "are "
        "shared by hard links, not copied. Also rewrite files that are more than half dead.\n\n"
        "Checkpoints and restores work meanwhile; checkpoint-create starts this in the background "
        "when a chain gets too long.",
    .arguments = fold_arguments,
    .options = fold_options,
    .examples = fold_examples,
    .handler = fold,
};
