/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/bitmaps.h"

#include <stasis/error.h>
#include <string.h>

#include "base/json.h"
#include "disk/internal.h"

/* An extent of an image: nothing finer would save anything. */
#define GRANULARITY_BYTES 65536

typedef struct {
    char *node, *name;
    gboolean recording;
} Entry;

struct _StasisBitmaps {
    GPtrArray *entries;
};

static void entry_free(gpointer data)
{
    Entry *entry = data;
    g_free(entry->node);
    g_free(entry->name);
    g_free(entry);
}

char *stasis_bitmap_name(const char *image)
{
    return g_strconcat(STASIS_DISK_PREFIX, image, NULL);
}

static void read_node(JsonObject *node, GPtrArray *entries)
{
    JsonArray *bitmaps;
    const char *name, *node_name = stasis_json_string_or(node, "node-name", NULL);
    if (node_name == NULL || !stasis_json_array(node, "dirty-bitmaps", &bitmaps, NULL))
        return;
    for (guint i = 0; i < json_array_get_length(bitmaps); i++) {
        JsonObject *bitmap;
        if (!stasis_json_object_at(bitmaps, i, &bitmap, NULL) ||
            !stasis_json_string(bitmap, "name", &name, NULL) ||
            !g_str_has_prefix(name, STASIS_DISK_PREFIX))
            continue;
        Entry *entry = g_new0(Entry, 1);
        entry->node = g_strdup(node_name);
        entry->name = g_strdup(name);
        entry->recording = stasis_json_bool_or(bitmap, "recording", FALSE) &&
                           !stasis_json_bool_or(bitmap, "inconsistent", FALSE);
        g_ptr_array_add(entries, entry);
    }
}

StasisBitmaps *stasis_bitmaps_list(StasisQmp *qmp, GError **error)
{
    JsonArray *list;
    g_autoptr(JsonNode) answer = stasis_disk_ask_nodes(qmp, &list, error);
    if (answer == NULL)
        return NULL;
    StasisBitmaps *bitmaps = g_new0(StasisBitmaps, 1);
    bitmaps->entries = g_ptr_array_new_with_free_func(entry_free);
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *node;
        if (stasis_json_object_at(list, i, &node, NULL))
            read_node(node, bitmaps->entries);
    }
    return bitmaps;
}

void stasis_bitmaps_free(StasisBitmaps *bitmaps)
{
    if (bitmaps == NULL)
        return;
    g_ptr_array_unref(bitmaps->entries);
    g_free(bitmaps);
}

gboolean stasis_bitmaps_has(const StasisBitmaps *bitmaps, const char *node, const char *image)
{
    g_autofree char *name = stasis_bitmap_name(image);
    for (guint i = 0; i < bitmaps->entries->len; i++) {
        const Entry *entry = g_ptr_array_index(bitmaps->entries, i);
        if (entry->recording && strcmp(entry->node, node) == 0 && strcmp(entry->name, name) == 0)
            return TRUE;
    }
    return FALSE;
}

gboolean stasis_bitmaps_put_back(const StasisBitmaps *bitmaps, StasisQmp *qmp, GError **error)
{
    for (guint i = 0; i < bitmaps->entries->len; i++) {
        const Entry *entry = g_ptr_array_index(bitmaps->entries, i);
        if (g_str_has_prefix(entry->name, STASIS_BITMAP_OWNER) &&
            !stasis_disk_give(qmp, entry->name + strlen(STASIS_BITMAP_OWNER), entry->node, error))
            return FALSE;
    }
    return TRUE;
}

gboolean stasis_bitmaps_sweep(const StasisBitmaps *bitmaps, StasisQmp *qmp, const char *keep,
                              GError **error)
{
    g_autofree char *kept = keep != NULL ? stasis_bitmap_name(keep) : NULL;
    for (guint i = 0; i < bitmaps->entries->len; i++) {
        const Entry *entry = g_ptr_array_index(bitmaps->entries, i);
        if (entry->recording && g_strcmp0(entry->name, kept) == 0)
            continue;
        if (!stasis_disk_undo(qmp, error, "block-dirty-bitmap-remove", "node", entry->node, "name",
                              entry->name, NULL))
            return FALSE;
    }
    return TRUE;
}

void stasis_bitmap_add(JsonArray *actions, const char *node, const char *name)
{
    JsonObject *data = stasis_disk_args("node", node, "name", name, NULL);
    json_object_set_int_member(data, "granularity", GRANULARITY_BYTES);
    stasis_disk_add_action(actions, "block-dirty-bitmap-add", data);
}

void stasis_bitmap_act(JsonArray *actions, const char *what, const char *node, const char *name)
{
    stasis_disk_add_action(actions, what, stasis_disk_args("node", node, "name", name, NULL));
}

void stasis_bitmap_merge(JsonArray *actions, const char *node, const char *from, const char *into)
{
    JsonArray *sources = json_array_new();
    json_array_add_string_element(sources, from);
    JsonObject *data = stasis_disk_args("node", node, "target", into, NULL);
    json_object_set_array_member(data, "bitmaps", sources);
    stasis_disk_add_action(actions, "block-dirty-bitmap-merge", data);
}
