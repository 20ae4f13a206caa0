/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 *  {"disks": [{"name": "virtio0", "node": "#block123", "format": "qcow2", "file": "web.qcow2",
 *              "size": 1073741824, "content": true, "file_bytes": 0, "modified_us": 0}, …]}
 */
#include "disk/describe.h"

#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"

#define MAX_DISKS 1024u
#define MAX_NAME_BYTES 255u
#define MAX_FILE_BYTES 65536u

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

GBytes *stasis_disks_describe(const GPtrArray *disks, gboolean copy, const char *cwd)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks, i);
        JsonObject *object = json_object_new();
        json_object_set_string_member(object, "name", disk->name);
        json_object_set_string_member(object, "node", disk->node);
        json_object_set_string_member(object, "format", disk->format);
        json_object_set_string_member(object, "file", disk->filename);
        json_object_set_int_member(object, "size", (gint64)disk->size_bytes);
        json_object_set_boolean_member(object, "content", copy && disk->writable);
        set_identity(object, disk->filename, cwd);
        json_array_add_object_element(array, object);
    }
    g_autoptr(JsonObject) root = json_object_new();
    json_object_set_array_member(root, "disks", array);
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

static gboolean read_note(JsonObject *object, StasisDiskNote *note, GError **error)
{
    const char *name, *node, *format, *filename;
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
    return note->size_bytes > 0 || corrupt(error, "a disk without size");
}

static gboolean is_unique(const GPtrArray *notes, const StasisDiskNote *note)
{
    for (guint i = 0; i < notes->len; i++) {
        const StasisDiskNote *other = g_ptr_array_index(notes, i);
        if (other != note && strcmp(other->name, note->name) == 0 &&
            (other->content || note->content))
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
