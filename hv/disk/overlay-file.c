/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files of overlays that are put on a running VM's disks: their names, and making them. */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "disk/freeze.h"
#include "disk/internal.h"
#include "disk/layers.h"
#include "disk/overlay.h"

#define SUFFIX ".stasis-"
#define ID_CHARS 26u
/* Of a node's name QEMU keeps 31 characters; the last ones of an ID are random. */
#define NODE_ID_CHARS 10u
/* Each layer is one more file to open, and one more place to look for what was never written. */
#define MAX_LAYERS 64u

gsize stasis_disk_overlay_stem(const char *path)
{
    gsize len = strlen(path), tail = strlen(SUFFIX) + ID_CHARS;
    if (len <= tail || strncmp(path + len - tail, SUFFIX, strlen(SUFFIX)) != 0 ||
        strspn(path + len - ID_CHARS, "0123456789abcdefghjkmnpqrstvwxyz") != ID_CHARS)
        return len;
    return len - tail;
}

gboolean stasis_disk_is_overlay_path(const char *path)
{
    return stasis_disk_overlay_stem(path) < strlen(path);
}

static gboolean refuse(const StasisDisk *disk, const char *why, GError **error)
{
    g_autofree char *shown = g_strescape(disk->name, NULL);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "disk %.200s: %s; --disk copy can have it in the image", shown, why);
    return FALSE;
}

static gboolean check(const StasisDisk *disk, const char *cwd, GError **error)
{
    if (disk->has_iothread)
        return refuse(disk, "no overlay is put on one whose device has an iothread", error);
    if (disk->layers->len >= MAX_LAYERS)
        return refuse(disk, "it lies in 64 files already (see disk-commit)", error);
    for (guint i = 0; i < disk->layers->len; i++) {
        const StasisDiskLayer *layer = g_ptr_array_index(disk->layers, i);
        g_autoptr(StasisDiskLayer) now = stasis_disk_layer_new(layer->path, layer->format);
        g_autoptr(GError) local = NULL;
        if (strcmp(layer->format, "raw") != 0 && strcmp(layer->format, "qcow2") != 0)
            return refuse(disk, "an image refers to raw and qcow2 files only", error);
        if (!stasis_disk_layer_look(now, cwd, &local))
            return refuse(disk, local->message, error);
    }
    return TRUE;
}

char *stasis_disk_overlay_path(const char *base, const char *id)
{
    return g_strdup_printf("%.*s" SUFFIX "%s", (int)stasis_disk_overlay_stem(base), base, id);
}

char **stasis_disk_overlay_paths(const GPtrArray *disks, const char *cwd, const char *id,
                                 GError **error)
{
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks, i);
        if (!disk->writable)
            continue;
        if (!check(disk, cwd, error))
            return NULL;
        g_autofree char *base = g_canonicalize_filename(disk->filename, cwd);
        g_ptr_array_add(paths, stasis_disk_overlay_path(base, id));
    }
    g_ptr_array_add(paths, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&paths), FALSE);
}

char *stasis_disk_overlay_node(const char *id, guint number)
{
    gsize len = strlen(id);
    return g_strdup_printf(STASIS_DISK_OVERLAY_PREFIX "%s-%u", id + len - MIN(len, NODE_ID_CHARS),
                           number);
}

/* Its name is durable before a guest's data are in it. */
static gboolean sync_dir(const char *path, GError **error)
{
    g_autofree char *dir = g_path_get_dirname(path);
    stasis_autofd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return (fd >= 0 && fsync(fd) == 0) || stasis_set_errno(error, errno, "sync %s", dir);
}

gboolean stasis_disk_overlay_make(const char *path, const char *like, const char *base,
                                  const char *base_format, guint64 size_bytes, GError **error)
{
    struct stat st;
    g_autoptr(GBytes) bytes = stasis_overlay_new(size_bytes, base, base_format, error);
    if (bytes == NULL)
        return FALSE;
    if (stat(like, &st) < 0)
        return stasis_set_errno(error, errno, "%s", like);
    stasis_autofd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    gsize len;
    const void *data = g_bytes_get_data(bytes, &len);
    int r = fd >= 0 ? stasis_write_all(fd, data, len) : -errno;
    if (r == 0 && (fchown(fd, st.st_uid, st.st_gid) < 0 || fchmod(fd, st.st_mode & 0777) < 0 ||
                   fsync(fd) < 0))
        r = -errno;
    if (r == 0)
        return sync_dir(path, error);
    if (fd >= 0)
        unlink(path);
    return stasis_set_errno(error, -r, "make %s", path);
}

/* @below: a node, or NULL. */
static JsonObject *node_args(const StasisDisk *disk, const char *path, const char *format,
                             const char *node, const char *below)
{
    JsonObject *args = stasis_disk_args("driver", format, "node-name", node, NULL);
    JsonObject *cache = json_object_new();
    json_object_set_boolean_member(cache, "direct", disk->cache_direct);
    json_object_set_boolean_member(cache, "no-flush", disk->cache_no_flush);
    json_object_set_object_member(args, "cache", cache);
    json_object_set_object_member(args, "file",
                                  stasis_disk_args("driver", "file", "filename", path, NULL));
    if (below != NULL)
        json_object_set_string_member(args, "backing", below);
    return args;
}

gboolean stasis_disk_overlay_open(StasisQmp *qmp, const StasisDisk *disk, const char *path,
                                  const char *node, const char *base_node, GError **error)
{
    JsonObject *args = node_args(disk, path, "qcow2", node, base_node);
    json_object_set_string_member(args, "discard", "unmap");
    return stasis_disk_run(qmp, "blockdev-add", args, error);
}

char *stasis_disk_layers_open(StasisQmp *qmp, const StasisDisk *disk, const GPtrArray *layers,
                              const char *cwd, const char *id, guint *number, GError **error)
{
    g_autofree char *below = NULL;
    guint first = 0;
    /* From the top down to one that QEMU has, or to the last; then up again. */
    for (; first < layers->len && below == NULL; first++) {
        const StasisDiskLayer *layer = g_ptr_array_index(layers, first);
        if (!stasis_disk_find_node(qmp, layer->path, layer->format, "", cwd, &below, error))
            return NULL;
    }
    for (guint i = below != NULL ? first - 1 : layers->len; i-- > 0;) {
        const StasisDiskLayer *layer = g_ptr_array_index(layers, i);
        g_autofree char *node = stasis_disk_overlay_node(id, (*number)++);
        JsonObject *args = node_args(disk, layer->path, layer->format, node, below);
        json_object_set_boolean_member(args, "read-only", TRUE);
        if (!stasis_disk_run(qmp, "blockdev-add", args, error))
            return NULL;
        g_free(below);
        below = g_steal_pointer(&node);
    }
    return g_steal_pointer(&below);
}
