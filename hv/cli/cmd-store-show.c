/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Looking at a store as a whole: is it whole, and what takes how much of the disk. */
#include <stdio.h>

#include "image.h"
#include "output.h"
#include "progress.h"
#include "table.h"

/* ---- store-check ---- */

static const char *state_of(const StasisCheckedImage *image)
{
    return image->damage != NULL ? "damaged" : image->affected_by != NULL ? "affected" : "whole";
}

static JsonObject *report_to_json(const StasisCheckReport *report)
{
    JsonObject *object = json_object_new();
    JsonArray *images = json_array_new(), *leftovers = json_array_new();
    for (guint i = 0; i < report->images->len; i++) {
        const StasisCheckedImage *image = report->images->pdata[i];
        JsonObject *one = json_object_new();
        cli_json_set_string(one, "id", image->id);
        cli_json_set_string(one, "state", state_of(image));
        cli_json_set_string(one, "damage", image->damage);
        cli_json_set_string(one, "affected_by", image->affected_by);
        json_array_add_object_element(images, one);
    }
    for (guint i = 0; i < report->leftovers->len; i++) {
        const StasisLeftover *leftover = report->leftovers->pdata[i];
        JsonObject *one = json_object_new();
        cli_json_set_string(one, "path", leftover->path);
        cli_json_set_string(one, "what", leftover->what);
        cli_json_set_uint(one, "bytes", leftover->bytes);
        json_array_add_object_element(leftovers, one);
    }
    cli_json_set_uint(object, "damaged", report->n_damaged);
    cli_json_set_uint(object, "affected", report->n_affected);
    json_object_set_array_member(object, "images", images);
    json_object_set_array_member(object, "leftovers", leftovers);
    return object;
}

static void show_report(const StasisCheckReport *report)
{
    for (guint i = 0; i < report->images->len; i++) {
        const StasisCheckedImage *image = report->images->pdata[i];
        g_autofree char *damage = cli_printable(image->damage);
        if (image->damage != NULL)
            printf("%s: %s\n", image->id, damage);
        else if (image->affected_by != NULL)
            printf("%s: needs image %s, which is damaged\n", image->id, image->affected_by);
    }
    for (guint i = 0; i < report->leftovers->len; i++) {
        const StasisLeftover *leftover = report->leftovers->pdata[i];
        g_autofree char *path = cli_printable(leftover->path);
        g_autofree char *bytes = cli_format_bytes(leftover->bytes);
        printf("%s: %s (%s)\n", path, leftover->what, bytes);
    }
    printf("%u images: %u whole, %u damaged, %u need a damaged one\n", report->images->len,
           report->images->len - report->n_damaged - report->n_affected, report->n_damaged,
           report->n_affected);
}

static gboolean check(CliCall *call, GError **error)
{
    CliProgress progress = cli_progress_new(call);
    StasisCheckOptions options = STASIS_CHECK_OPTIONS_INIT;
    options.read_data = cli_flag(call, "read-data");
    options.progress = cli_progress_show;
    options.progress_data = &progress;
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autoptr(StasisCheckReport) report =
        store != NULL ? stasis_store_check(store, &options, call->cancellable, error) : NULL;
    cli_progress_end(&progress);
    if (report == NULL)
        return FALSE;
    if (call->json)
        cli_take_object(call, report_to_json(report));
    else
        show_report(report);
    if (report->n_damaged == 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "store %s: damage in %u of %u images, %u more need one of them; the others can be "
                "restored",
                stasis_store_get_path(store), report->n_damaged, report->images->len,
                report->n_affected);
    return FALSE;
}

static const CliOption check_options[] = {
    { "read-data", 0, CLI_FLAG, NULL,
      "read all stored data too, and compare it with its checksums" },
    { NULL },
};
static const CliExample check_examples[] = {
    { "store-check", "Check all manifests, indexes and chains" },
    { "store-check --read-data", "Read everything that is in the store" },
    { NULL },
};
const CliCommand cli_cmd_store_check = {
    .group = "store",
    .name = "store-check",
    .summary = "check all images of a store",
    .description =
        "Check every image of the store and the chains that they form, on past the first damage, "
        "and tell which images are damaged, which need a damaged one, and what lies about that "
        "belongs to no image. The exit status is 13 when there is damage. Nothing is changed; "
        "checkpoints may be taken meanwhile.",
    .options = check_options,
    .examples = check_examples,
    .handler = check,
};

/* ---- store-stats ---- */

/* What the pages took in RAM, over what they take on the disk. */
static double ratio_of(guint64 data_pages, guint64 live_bytes)
{
    return live_bytes > 0 ? (double)data_pages * 4096 / (double)live_bytes : 1;
}

static JsonObject *image_to_json(const StasisImageStats *image)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "id", image->id);
    cli_json_set_string(object, "parent", image->parent);
    cli_json_set_string(object, "vm", image->vm);
    cli_json_set_uint(object, "depth", image->depth);
    cli_json_set_uint(object, "data_files", image->n_data_files);
    cli_json_set_uint(object, "disk_bytes", image->disk_bytes);
    cli_json_set_uint(object, "shared_bytes", image->shared_bytes);
    if (image->alone_known)
        json_object_set_int_member(object, "alone_bytes", image->alone_bytes);
    else
        json_object_set_null_member(object, "alone_bytes");
    cli_json_set_uint(object, "data_pages", image->data_pages);
    cli_json_set_uint(object, "zero_pages", image->zero_pages);
    cli_json_set_uint(object, "live_bytes", image->live_bytes);
    cli_json_set_uint(object, "dead_bytes", image->dead_bytes);
    json_object_set_double_member(object, "ratio", ratio_of(image->data_pages, image->live_bytes));
    return object;
}

static JsonObject *sum_to_json(const StasisStatsSum *sum)
{
    JsonObject *object = json_object_new();
    if (sum->vm != NULL)
        cli_json_set_string(object, "vm", sum->vm);
    cli_json_set_uint(object, "images", sum->n_images);
    cli_json_set_uint(object, "max_depth", sum->max_depth);
    cli_json_set_uint(object, "disk_bytes", sum->disk_bytes);
    cli_json_set_uint(object, "data_pages", sum->data_pages);
    cli_json_set_uint(object, "zero_pages", sum->zero_pages);
    cli_json_set_uint(object, "live_bytes", sum->live_bytes);
    cli_json_set_uint(object, "dead_bytes", sum->dead_bytes);
    json_object_set_double_member(object, "ratio", ratio_of(sum->data_pages, sum->live_bytes));
    return object;
}

static JsonObject *stats_to_json(const StasisStoreStats *stats)
{
    JsonObject *object = json_object_new();
    JsonArray *images = json_array_new(), *vms = json_array_new();
    for (guint i = 0; i < stats->images->len; i++)
        json_array_add_object_element(images, image_to_json(stats->images->pdata[i]));
    for (guint i = 0; i < stats->vms->len; i++)
        json_array_add_object_element(vms, sum_to_json(stats->vms->pdata[i]));
    json_object_set_object_member(object, "total", sum_to_json(stats->total));
    json_object_set_array_member(object, "vms", vms);
    json_object_set_array_member(object, "images", images);
    cli_json_set_uint(object, "damaged", stats->n_damaged);
    cli_json_set_uint(object, "leftover_bytes", stats->leftover_bytes);
    return object;
}

static void add_image(CliTable *table, const StasisImageStats *image)
{
    g_autofree char *depth = g_strdup_printf("%u", image->depth);
    g_autofree char *disk = cli_format_bytes(image->disk_bytes);
    g_autofree char *shared = cli_format_bytes(image->shared_bytes);
    g_autofree char *alone =
        image->alone_known ? cli_format_signed_bytes(image->alone_bytes) : g_strdup("?");
    g_autofree char *data = cli_format_bytes(image->data_pages * 4096);
    g_autofree char *zero = cli_format_bytes(image->zero_pages * 4096);
    g_autofree char *ratio =
        g_strdup_printf("%.1f", ratio_of(image->data_pages, image->live_bytes));
    g_autofree char *dead = cli_format_bytes(image->dead_bytes);
    cli_table_add(table, image->id, image->vm, depth, disk, shared, alone, data, zero, ratio, dead);
}

static void add_sum(CliTable *table, const StasisStatsSum *sum)
{
    g_autofree char *images = g_strdup_printf("%u", sum->n_images);
    g_autofree char *depth = g_strdup_printf("%u", sum->max_depth);
    g_autofree char *disk = cli_format_bytes(sum->disk_bytes);
    g_autofree char *data = cli_format_bytes(sum->data_pages * 4096);
    g_autofree char *zero = cli_format_bytes(sum->zero_pages * 4096);
    g_autofree char *ratio = g_strdup_printf("%.1f", ratio_of(sum->data_pages, sum->live_bytes));
    g_autofree char *dead = cli_format_bytes(sum->dead_bytes);
    cli_table_add(table, sum->vm != NULL ? sum->vm : "(all)", images, depth, disk, data, zero,
                  ratio, dead);
}

static void show_stats(const StasisStoreStats *stats)
{
    g_autoptr(CliTable) images = cli_table_new("llrrrrrrrr");
    cli_table_add(images, "ID", "VM", "DEPTH", "DISK", "SHARED", "ALONE", "DATA", "ZERO", "RATIO",
                  "DEAD");
    for (guint i = 0; i < stats->images->len; i++)
        add_image(images, stats->images->pdata[i]);
    cli_table_print(images, 0);
    puts("");
    g_autoptr(CliTable) sums = cli_table_new("lrrrrrrr");
    cli_table_add(sums, "VM", "IMAGES", "DEPTH", "DISK", "DATA", "ZERO", "RATIO", "DEAD");
    for (guint i = 0; i < stats->vms->len; i++)
        add_sum(sums, stats->vms->pdata[i]);
    add_sum(sums, stats->total);
    cli_table_print(sums, 0);
    g_autofree char *leftover = cli_format_bytes(stats->leftover_bytes);
    if (stats->leftover_bytes > 0)
        printf("\n%s in tmp/, which the next writer removes\n", leftover);
    if (stats->n_damaged > 0)
        printf("\n%u images are damaged; store-check tells more\n", stats->n_damaged);
}

static gboolean show(CliCall *call, GError **error)
{
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autoptr(StasisStoreStats) stats =
        store != NULL ? stasis_store_get_stats(store, call->cancellable, error) : NULL;
    if (stats == NULL)
        return FALSE;
    if (call->json)
        cli_take_object(call, stats_to_json(stats));
    else
        show_stats(stats);
    return TRUE;
}

static const CliExample stats_examples[] = {
    { "store-stats", "What each image takes, and what deleting it would free" },
    { NULL },
};
const CliCommand cli_cmd_store_stats = {
    .group = "store",
    .name = "store-stats",
    .summary = "tell what takes how much of the disk",
    .description =
        "For each image: its ancestors (DEPTH), what its files take on the disk, how much of that "
        "is in files that other images have too (SHARED), and what deleting it alone would free "
        "(ALONE); the pages that it holds itself, as they are in RAM (DATA) and those that are "
        "zero; how well the former are compressed (RATIO); and what lies in its files without use "
        "(DEAD), which deletions leave and later ones or store-fold give back. Then the same for "
        "each VM and in all, where shared files count once.",
    .examples = stats_examples,
    .handler = show,
};
