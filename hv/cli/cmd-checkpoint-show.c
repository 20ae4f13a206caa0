/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Listing and describing images. */
#include <stdio.h>
#include <string.h>

#include "image.h"
#include "output.h"
#include "table.h"

/* The first ten characters of an ID are its time; shorter prefixes say nothing to anyone. */
#define MIN_SHOWN_ID 10

/* How many characters tell all of @images apart. */
static int shown_id_length(const GPtrArray *images)
{
    size_t len = MIN_SHOWN_ID;
    /* Sorted by time, hence by ID: only neighbours can share a long prefix. */
    for (guint i = 1; i < images->len; i++) {
        const char *a = ((StasisImageInfo *)images->pdata[i - 1])->id;
        const char *b = ((StasisImageInfo *)images->pdata[i])->id;
        size_t same = 0;
        while (a[same] != '\0' && a[same] == b[same])
            same++;
        len = MAX(len, same + 1);
    }
    return (int)len;
}

static void add_image(CliTable *table, const char *branch, const StasisImageInfo *info, int id_len)
{
    g_autofree char *id = g_strdup_printf("%s%.*s", branch, id_len, info->id);
    g_autofree char *created = cli_format_time(info->created_us);
    g_autofree char *pause = info->paused ? g_strdup("-") : cli_format_us(info->cost.pause_us);
    g_autofree char *stored = cli_format_bytes(info->stored_bytes);
    g_autofree char *ram = cli_format_bytes(info->ram_bytes);
    const char *kind = info->parent != NULL ? "incr" : "full";
    cli_table_add(table, id, info->vm, created, info->ram_bytes > 0 ? kind : "devices", info->mode,
                  pause, stored, ram, info->note);
}

typedef struct {
    CliTable *table;
    const GPtrArray *images;
    gboolean *shown;
    int id_len;
    gboolean utf8;
} Tree;

static gboolean is_child(const StasisImageInfo *image, const char *parent)
{
    return image->parent != NULL && strcmp(image->parent, parent) == 0;
}

/* Show image @i after @lead + @corner, and its children after @lead + @below. A manifest may claim
 * any parent, so a chain of ever deeper calls is cut where a picture is of no use any more. */
static void add_branch(Tree *tree, guint i, const char *lead, const char *corner, const char *below,
                       guint depth)
{
    const StasisImageInfo *info = tree->images->pdata[i];
    g_autofree char *branch = g_strconcat(lead, corner, NULL);
    add_image(tree->table, branch, info, tree->id_len);
    tree->shown[i] = TRUE;
    g_autofree char *deeper = g_strconcat(lead, depth < 60 ? below : "", NULL);
    guint last = i;
    for (guint j = i + 1; j < tree->images->len; j++) {
        if (is_child(tree->images->pdata[j], info->id))
            last = j;
    }
    for (guint j = i + 1; j <= last && depth < 1000; j++) {
        if (tree->shown[j] || !is_child(tree->images->pdata[j], info->id))
            continue;
        if (tree->utf8)
            add_branch(tree, j, deeper, j == last ? "└─" : "├─", j == last ? "  " : "│ ",
                       depth + 1);
        else
            add_branch(tree, j, deeper, j == last ? "`-" : "|-", j == last ? "  " : "| ",
                       depth + 1);
    }
}

static void add_forest(CliTable *table, const GPtrArray *images, int id_len)
{
    g_autofree gboolean *shown = g_new0(gboolean, images->len + 1);
    Tree tree = { table, images, shown, id_len, g_get_charset(NULL) };
    g_autoptr(GHashTable) known = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < images->len; i++) {
        const StasisImageInfo *info = images->pdata[i];
        /* Older images come first, so a parent that is there has been seen. */
        if (info->parent == NULL || !g_hash_table_contains(known, info->parent))
            add_branch(&tree, i, "", "", "", 0);
        g_hash_table_add(known, info->id);
    }
    for (guint i = 0; i < images->len; i++) {
        if (!shown[i])
            add_image(table, "", images->pdata[i], id_len);
    }
}

char *cli_resolve_any(StasisStore *store, const char *text, gboolean *ret_process, GError **error)
{
    g_autoptr(GError) local = NULL;
    *ret_process = FALSE;
    char *id = stasis_store_resolve(store, text, &local);
    if (id != NULL)
        return id;
    id = stasis_store_resolve_process(store, text, NULL);
    if (id == NULL)
        g_propagate_error(error, g_steal_pointer(&local));
    *ret_process = id != NULL;
    return id;
}

static gboolean list(CliCall *call, GError **error)
{
    const char *vm = cli_text(call, "vm");
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autoptr(GPtrArray) images = store != NULL ? stasis_store_list(store, error) : NULL;
    g_autoptr(GPtrArray) processes =
        images != NULL ? stasis_store_list_processes(store, error) : NULL;
    if (processes == NULL)
        return FALSE;
    int id_len = shown_id_length(images);
    for (guint i = images->len; vm != NULL && i > 0; i--) {
        if (g_strcmp0(((StasisImageInfo *)images->pdata[i - 1])->vm, vm) != 0)
            g_ptr_array_remove_index(images, i - 1);
    }
    for (guint i = processes->len; vm != NULL && i > 0; i--) {
        if (g_strcmp0(((StasisProcessImageInfo *)processes->pdata[i - 1])->vm, vm) != 0)
            g_ptr_array_remove_index(processes, i - 1);
    }
    if (call->json) {
        JsonArray *array = json_array_new();
        for (guint i = 0; i < images->len; i++)
            json_array_add_object_element(array, cli_image_to_json(images->pdata[i]));
        for (guint i = 0; i < processes->len; i++)
            json_array_add_object_element(array, cli_process_image_to_json(processes->pdata[i]));
        cli_take_array(call, array);
        return TRUE;
    }
    g_autoptr(CliTable) table = cli_table_new("lllllrrrl");
    cli_table_add(table, "ID", "VM", "CREATED", "KIND", "MODE", "PAUSE", "STORED", "RAM", "NOTE");
    if (cli_flag(call, "tree"))
        add_forest(table, images, id_len);
    for (guint i = 0; !cli_flag(call, "tree") && i < images->len; i++)
        add_image(table, "", images->pdata[i], id_len);
    cli_table_print(table, 0);
    cli_print_process_images(processes);
    return TRUE;
}

static void show_disks(const GPtrArray *disks)
{
    if (disks->len == 0)
        return;
    puts("\nDisks:");
    g_autoptr(CliTable) table = cli_table_new("lrrrr");
    cli_table_add(table, "NAME", "SIZE", "PAGES HERE", "ZERO HERE", "STORED HERE");
    for (guint i = 0; i < disks->len; i++) {
        const StasisDiskInfo *disk = disks->pdata[i];
        g_autofree char *size = cli_format_bytes(disk->size_bytes);
        g_autofree char *data = g_strdup_printf("%" G_GUINT64_FORMAT, disk->data_pages);
        g_autofree char *zero = g_strdup_printf("%" G_GUINT64_FORMAT, disk->zero_pages);
        g_autofree char *stored = cli_format_bytes(disk->stored_bytes);
        cli_table_add(table, disk->name, size, data, zero, stored);
    }
    cli_table_print(table, 2);
}

static JsonArray *disks_to_json(const GPtrArray *disks)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < disks->len; i++) {
        const StasisDiskInfo *disk = disks->pdata[i];
        JsonObject *object = json_object_new();
        cli_json_set_string(object, "name", disk->name);
        cli_json_set_uint(object, "size_bytes", disk->size_bytes);
        cli_json_set_uint(object, "data_pages", disk->data_pages);
        cli_json_set_uint(object, "zero_pages", disk->zero_pages);
        cli_json_set_uint(object, "stored_bytes", disk->stored_bytes);
        json_array_add_object_element(array, object);
    }
    return array;
}

static void show_disk_files(const GPtrArray *files)
{
    if (files->len == 0)
        return;
    puts("\nDisks, which the image refers to (nobody may write to these files):");
    g_autoptr(CliTable) table = cli_table_new("lrlll");
    cli_table_add(table, "NAME", "SIZE", "FORMAT", "FILE", "");
    for (guint i = 0; i < files->len; i++) {
        const StasisDiskFile *file = files->pdata[i];
        g_autofree char *size = cli_format_bytes(file->size_bytes);
        g_autofree char *path =
            g_strdup_printf("%*s%s", (int)MIN(file->depth, 8) * 2, "", file->path);
        cli_table_add(table, file->depth == 0 ? file->disk : "", file->depth == 0 ? size : "",
                      file->format, path, file->problem != NULL ? "NOT AS IT WAS" : "");
    }
    cli_table_print(table, 2);
}

static JsonArray *disk_files_to_json(const GPtrArray *files)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < files->len; i++) {
        const StasisDiskFile *file = files->pdata[i];
        JsonObject *object = json_object_new();
        cli_json_set_string(object, "name", file->disk);
        cli_json_set_uint(object, "size_bytes", file->size_bytes);
        cli_json_set_string(object, "file", file->path);
        cli_json_set_string(object, "format", file->format);
        cli_json_set_uint(object, "depth", file->depth);
        cli_json_set_string(object, "problem", file->problem);
        json_array_add_object_element(array, object);
    }
    return array;
}

static gboolean info_processes(CliCall *call, StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisProcessImageInfo) info = stasis_store_get_process(store, id, error);
    if (info == NULL)
        return FALSE;
    if (call->json)
        cli_take_object(call, cli_process_image_to_json(info));
    else
        cli_print_process_image(info);
    return TRUE;
}

static gboolean info_image(CliCall *call, GError **error)
{
    gboolean process = FALSE;
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autofree char *id =
        store != NULL ? cli_resolve_any(store, call->args[0], &process, error) : NULL;
    if (process)
        return info_processes(call, store, id, error);
    g_autoptr(StasisImageInfo) info = id != NULL ? stasis_store_get_image(store, id, error) : NULL;
    if (info == NULL)
        return FALSE;
    g_autoptr(GPtrArray) devices = NULL;
    if (cli_flag(call, "devices")) {
        devices = stasis_store_get_devices(store, id, error);
        if (devices == NULL)
            return FALSE;
    }
    g_autoptr(GPtrArray) disks = stasis_store_get_disks(store, id, error);
    g_autoptr(GPtrArray) files =
        disks != NULL ? stasis_image_get_disk_files(store, id, error) : NULL;
    if (files == NULL)
        return FALSE;
    if (call->json) {
        JsonObject *object = cli_image_to_json(info);
        json_object_set_array_member(object, "disks", disks_to_json(disks));
        json_object_set_array_member(object, "disk_files", disk_files_to_json(files));
        if (devices != NULL)
            json_object_set_array_member(object, "devices", cli_devices_to_json(devices));
        cli_take_object(call, object);
        return TRUE;
    }
    cli_print_image(info);
    show_disks(disks);
    show_disk_files(files);
    if (devices != NULL) {
        puts("\nDevice state:");
        cli_print_devices(devices, 2);
    }
    return TRUE;
}

static const CliOption list_options[] = {
    { "vm", 0, CLI_VM, "NAME", "only images of this VM" },
    { "tree", 0, CLI_FLAG, NULL, "draw which image is incremental to which" },
    { NULL },
};
static const CliExample list_examples[] = {
    { "checkpoint-list --tree", "All images, children below their parents" },
    { NULL },
};
const CliCommand cli_cmd_checkpoint_list = {
    .group = "checkpoint",
    .name = "checkpoint-list",
    .summary = "list the images of the store",
    .description =
        "List images, oldest first. The ID column is cut to what tells them apart; every "
        "command takes that. A directory that is no valid image is left out.",
    .options = list_options,
    .examples = list_examples,
    .handler = list,
};

static const CliArgument info_arguments[] = {
    { "ID", CLI_ONE, CLI_ANY_IMAGE, "image: its ID, a unique prefix of it, or \"latest\"" },
    { NULL },
};
static const CliOption info_options[] = {
    { "devices", 0, CLI_FLAG, NULL, "also list the saved device state, by device and instance" },
    { NULL },
};
static const CliExample info_examples[] = {
    { "checkpoint-info latest --devices", "The newest image, and the devices in it" },
    { NULL },
};
const CliCommand cli_cmd_checkpoint_info = {
    .group = "checkpoint",
    .name = "checkpoint-info",
    .summary = "describe an image and what it cost",
    .description = "Show what an image is, what it holds, disk by disk, and what taking it cost: "
                   "the pause, pages left for "
                   "it, guest writes that waited.",
    .arguments = info_arguments,
    .options = info_options,
    .examples = info_examples,
    .handler = info_image,
};
