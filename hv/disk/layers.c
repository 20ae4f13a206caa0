/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/layers.h"

#include <errno.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>

#include "base/io.h"
#include "base/json.h"

#define MAX_PATH_BYTES 4096u

StasisDiskLayer *stasis_disk_layer_new(const char *path, const char *format)
{
    StasisDiskLayer *layer = g_new0(StasisDiskLayer, 1);
    layer->path = g_strdup(path);
    layer->format = g_strdup(format);
    return layer;
}

void stasis_disk_layer_free(StasisDiskLayer *layer)
{
    g_free(layer->path);
    g_free(layer->format);
    g_free(layer);
}

/* JSON has signed numbers. */
static guint64 bounded(guint64 n)
{
    return MIN(n, (guint64)G_MAXINT64);
}

static gboolean look(const char *path, StasisDiskLayer *ret, GError **error)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return stasis_set_errno(error, errno, "%s", path);
    if (!S_ISREG(st.st_mode)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "%s is no regular file: nothing would tell whether somebody writes to it later",
                    path);
        return FALSE;
    }
    ret->file_bytes = bounded((guint64)st.st_size);
    ret->modified_ns =
        bounded((guint64)MAX(st.st_mtim.tv_sec, 0) * 1000000000u + (guint64)st.st_mtim.tv_nsec);
    ret->inode = bounded((guint64)st.st_ino);
    return TRUE;
}

gboolean stasis_disk_layer_look(StasisDiskLayer *layer, const char *cwd, GError **error)
{
    char *path = g_canonicalize_filename(layer->path, cwd);
    g_free(layer->path);
    layer->path = path;
    return look(path, layer, error);
}

gboolean stasis_disk_layer_check(const StasisDiskLayer *layer, GError **error)
{
    StasisDiskLayer now = { 0 };
    const char *what = NULL;
    if (!look(layer->path, &now, error)) {
        g_prefix_error(error, "the image refers to a file that is not there as it was: ");
        return FALSE;
    }
    if (now.file_bytes != layer->file_bytes)
        what = "has another size";
    else if (now.modified_ns != layer->modified_ns)
        what = "was written to";
    else if (now.inode != layer->inode)
        what = "was replaced";
    if (what == NULL)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "%s %s since the image was taken, which refers to it and can't be used any more; a "
                "copy that has kept size and time may be put in its place",
                layer->path, what);
    return FALSE;
}

JsonObject *stasis_disk_layer_to_json(const StasisDiskLayer *layer)
{
    JsonObject *object = json_object_new();
    stasis_json_set_string(object, "file", layer->path);
    stasis_json_set_string(object, "format", layer->format);
    stasis_json_set_uint(object, "file_bytes", layer->file_bytes);
    stasis_json_set_uint(object, "modified_ns", layer->modified_ns);
    stasis_json_set_uint(object, "inode", layer->inode);
    return object;
}

static gboolean is_path(const char *path)
{
    gsize len = strlen(path);
    if (path[0] != '/' || len > MAX_PATH_BYTES || !g_utf8_validate(path, -1, NULL))
        return FALSE;
    for (gsize i = 0; i < len; i++)
        if (g_ascii_iscntrl(path[i]))
            return FALSE;
    return TRUE;
}

StasisDiskLayer *stasis_disk_layer_from_json(JsonObject *object, GError **error)
{
    const char *path, *format;
    StasisDiskLayer numbers;
    if (!stasis_json_string(object, "file", &path, error) ||
        !stasis_json_string(object, "format", &format, error) ||
        !stasis_json_uint(object, "file_bytes", &numbers.file_bytes, error) ||
        !stasis_json_uint(object, "modified_ns", &numbers.modified_ns, error) ||
        !stasis_json_uint(object, "inode", &numbers.inode, error))
        return NULL;
    if (!is_path(path) || (strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0)) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                            "a layer that is no raw or qcow2 file with an absolute path");
        return NULL;
    }
    StasisDiskLayer *layer = stasis_disk_layer_new(path, format);
    layer->file_bytes = numbers.file_bytes;
    layer->modified_ns = numbers.modified_ns;
    layer->inode = numbers.inode;
    return layer;
}
