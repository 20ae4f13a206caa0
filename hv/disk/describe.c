/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 *  {"disks": [{"name": "virtio0", "node": "#block123", "format": "qcow2", "file": "web.qcow2",
 *              "size": 1073741824, "content": true, "file_bytes": 0, "modified_us": 0}, …]}
 *
 * and, where the content is not in the image but in files: "content": false, "layers": [{"file":
 * "/vm/web.qcow2", "format": "qcow2", "file_bytes": …, "modified_ns": …, "inode": …}, …].
 */
#include "disk/describe.h"

#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"

#define MAX_DISKS 1024u
#define MAX_NAME_BYTES 255u
#define MAX_FILE_BYTES 65536u
#define MAX_LAYERS 1024u

static void set_identity(JsonObject *object, const char *filename, const char *cwd)
{
    g_autofree char *path = g_canonicalize_filename(filename, cwd);
    struct stat st;
    guint64 size = 0, modified_us = 0;
    if (stat(path, &st) == 0 && st.st_size >= 0 && st.st_mtim.tv_sec >= 0) {
        size = (guint64)st.st_size;
        modified_us = (guint64)st.st_mtim.tv_sec * 1000000 + (guint64)st.st_mtim.tv_nsec / 1000;
    }
    json_object_set_int_member(object, "file_bytes", (gint64)size);
    json_object_set_int_member(object, "modified_us", (gint64)modified_us);
}

static JsonArray *describe_layers(const StasisDisk *disk, const char *cwd, GError **error)
{
    g_autoptr(JsonArray) array = json_array_new();
    for (guint i = 0; i < disk->layers->len; i++) {
        const StasisDiskLayer *known = g_ptr_array_index(disk->layers, i);
        g_autoptr(StasisDiskLayer) layer = stasis_disk_layer_new(known->path, known->format);
        if (!stasis_disk_layer_look(layer, cwd, error)) {
            g_prefix_error(error, "disk %s: ", disk->name);
            return NULL;
        }
        json_array_add_object_element(array, stasis_disk_layer_to_json(layer));
    }
    return g_steal_pointer(&array);
}

GBytes *stasis_disks_describe(const GPtrArray *disks, gboolean refer, const char *cwd,
                              GError **error)
{
    g_autoptr(JsonObject) root = json_object_new();
    JsonArray *array = json_array_new();
    json_object_set_array_member(root, "disks", array);
    for (guint i = 0; i < disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks, i);
        JsonObject *object = json_object_new();
        json_array_add_object_element(array, object);
        json_object_set_string_member(object, "name", disk->name);
        json_object_set_string_member(object, "node", disk->line_node);
        json_object_set_string_member(object, "format", disk->format);
        json_object_set_string_member(object, "file", disk->filename);
        json_object_set_int_member(object, "size", (gint64)disk->size_bytes);
        json_object_set_boolean_member(object, "content", !refer && disk->writable);
        set_identity(object, disk->filename, cwd);
        JsonArray *layers =
            refer && disk->writable ? describe_layers(disk, cwd, error) : json_array_new();
        if (layers == NULL)
            return NULL;
        if (json_array_get_length(layers) > 0)
            json_object_set_array_member(object, "layers", layers);
        else
            json_array_unref(layers);
    }
    char *text = stasis_json_to_text(root, TRUE);
    return g_bytes_new_take(text, strlen(text));
}

/* ---- reading ---- */

static void note_free(gpointer data)
{
    StasisDiskNote *note = data;
    g_free(note->name);
    g_free(note->node);
    g_free(note->format);
    g_free(note->filename);
    g_clear_pointer(&note->layers, g_ptr_array_unref);
    g_free(note);
}

static gboolean corrupt(GError **error, const char *what)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, STASIS_DISKS_PART ": %s", what);
    return FALSE;
}

/* json-glib checks the file to be UTF-8, but "\\222" in it becomes a bare byte. */
static gboolean is_text(const char *text, gsize max_bytes)
{
    gsize len = strlen(text);
    if (len == 0 || len > max_bytes || !g_utf8_validate(text, -1, NULL))
        return FALSE;
    for (gsize i = 0; i < len; i++)
        if (g_ascii_iscntrl(text[i]))
            return FALSE;
    return TRUE;
}

static gboolean read_layers(JsonArray *array, StasisDiskNote *note, GError **error)
{
    guint n = json_array_get_length(array);
    if (n == 0 || n > MAX_LAYERS || note->content)
        return corrupt(error, "a disk with no layer, too many, or with content besides");
    note->layers = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_disk_layer_free);
    for (guint i = 0; i < n; i++) {
        JsonObject *object;
        StasisDiskLayer *layer = NULL;
        if (stasis_json_object_at(array, i, &object, error))
            layer = stasis_disk_layer_from_json(object, error);
        if (layer == NULL) {
            g_prefix_error(error, STASIS_DISKS_PART ": ");
            return FALSE;
        }
        g_ptr_array_add(note->layers, layer);
    }
    return TRUE;
}

static gboolean read_note(JsonObject *object, StasisDiskNote *note, GError **error)
{
    const char *name, *node, *format, *filename;
    JsonArray *layers;
    if (!stasis_json_string(object, "name", &name, error) ||
        !stasis_json_string(object, "node", &node, error) ||
        !stasis_json_string(object, "format", &format, error) ||
        !stasis_json_string(object, "file", &filename, error) ||
        !stasis_json_uint(object, "size", &note->size_bytes, error) ||
        !stasis_json_bool(object, "content", &note->content, error) ||
        !stasis_json_uint(object, "file_bytes", &note->file_bytes, error) ||
        !stasis_json_uint(object, "modified_us", &note->modified_us, error)) {
        g_prefix_error(error, STASIS_DISKS_PART ": ");
        return FALSE;
    }
    if (!is_text(name, MAX_NAME_BYTES) || !is_text(node, MAX_NAME_BYTES) ||
        !is_text(format, MAX_NAME_BYTES) ||
        (*filename != '\0' && !is_text(filename, MAX_FILE_BYTES)))
        return corrupt(error, "a name that is empty, too long or not printable");
    note->name = g_strdup(name);
    note->node = g_strdup(node);
    note->format = g_strdup(format);
    note->filename = g_strdup(filename);
    if (json_object_has_member(object, "layers") &&
        (!stasis_json_array(object, "layers", &layers, error) || !read_layers(layers, note, error)))
        return FALSE;
    return note->size_bytes > 0 || corrupt(error, "a disk without size");
}

gboolean stasis_disk_note_has_content(const StasisDiskNote *note)
{
    return note->content || note->layers != NULL;
}

gboolean stasis_disk_note_check(const StasisDiskNote *note, GError **error)
{
    for (guint i = 0; note->layers != NULL && i < note->layers->len; i++) {
        if (stasis_disk_layer_check(g_ptr_array_index(note->layers, i), error))
            continue;
        g_prefix_error(error, "disk %s: ", note->name);
        return FALSE;
    }
    return TRUE;
}

static gboolean is_unique(const GPtrArray *notes, const StasisDiskNote *note)
{
    for (guint i = 0; i < notes->len; i++) {
        const StasisDiskNote *other = g_ptr_array_index(notes, i);
        if (other != note && strcmp(other->name, note->name) == 0 &&
            (stasis_disk_note_has_content(other) || stasis_disk_note_has_content(note)))
            return FALSE;
    }
    return TRUE;
}

GPtrArray *stasis_disks_parse(GBytes *json, GError **error)
{
    gsize len;
    const char *text = g_bytes_get_data(json, &len);
    JsonArray *array;
    g_autoptr(JsonObject) root =
        text != NULL ? stasis_json_parse_object(text, (gssize)len, error) : NULL;
    if (text == NULL)
        corrupt(error, "empty");
    if (root == NULL || !stasis_json_array(root, "disks", &array, error))
        return NULL;
    if (json_array_get_length(array) > MAX_DISKS) {
        corrupt(error, "too many disks");
        return NULL;
    }
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(note_free);
    for (guint i = 0; i < json_array_get_length(array); i++) {
        JsonObject *object;
        StasisDiskNote *note = g_new0(StasisDiskNote, 1);
        g_ptr_array_add(notes, note);
        if (!stasis_json_object_at(array, i, &object, error) || !read_note(object, note, error))
            return NULL;
        if (!is_unique(notes, note)) {
            corrupt(error, "two disks of one name");
            return NULL;
        }
    }
    return g_steal_pointer(&notes);
}
