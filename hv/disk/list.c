/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stasis/error.h>
#include <string.h>

#include "base/json.h"
#include "disk/device.h"
#include "disk/freeze.h"
#include "disk/internal.h"

/* The copy-before-write filter that lets a guest's write pass when there is no room to save what it
 * overwrites, the driver that reads through it, and exported bitmaps by node are all there from 7.2
 * on (QEMU's qapi/block-core.json, qapi/block-export.json). */
#define FIRST_VERSION 70200u
/* Of AioContexts; see README.md. */
#define FIRST_WITHOUT_LOCKS 90000u

static void disk_free(gpointer data)
{
    StasisDisk *disk = data;
    g_free(disk->name);
    g_free(disk->qdev);
    g_free(disk->node);
    g_free(disk->format);
    g_free(disk->filename);
    g_free(disk->line_node);
    g_free(disk->line_filename);
    g_clear_pointer(&disk->layers, g_ptr_array_unref);
    g_free(disk);
}

StasisDisk *stasis_disk_at(const GPtrArray *disks, guint i)
{
    return g_ptr_array_index(disks, i);
}

/* QEMU gives a device's ID where it has one, and its path in the tree of objects otherwise. */
static char *absolute_path(const char *qdev)
{
    return qdev[0] == '/' ? g_strdup(qdev) : g_strconcat("/machine/peripheral/", qdev, NULL);
}

/* The name of a device without a drive's name: its ID if it has one. */
static char *device_name(const char *qdev)
{
    static const char parent[] = "/machine/peripheral/", child[] = "/virtio-backend";
    g_autofree char *name = g_strdup(qdev);
    if (g_str_has_suffix(name, child))
        name[strlen(name) - strlen(child)] = '\0';
    if (g_str_has_prefix(name, parent) && strchr(name + strlen(parent), '/') == NULL)
        return g_strdup(name + strlen(parent));
    return g_steal_pointer(&name);
}

/* What is given all its layers one by one, as libvirt does with a disk on top of another, has them
 * all for a name: "json:{…}" (QEMU's qapi/block-core.json, ImageInfo). Then that of the lowest
 * layer of its own. */
static char *own_file(const char *filename)
{
    g_autoptr(JsonObject) layers = NULL;
    if (g_str_has_prefix(filename, "json:"))
        layers = stasis_json_parse_deep(filename + strlen("json:"), -1, NULL);
    JsonObject *layer = layers, *below;
    while (layer != NULL && stasis_json_object(layer, "file", &below, NULL))
        layer = below;
    const char *path = layer != NULL ? stasis_json_string_or(layer, "filename", NULL) : NULL;
    return g_strdup(path != NULL ? path : filename);
}

static void read_layers(JsonObject *image, GPtrArray *layers)
{
    JsonObject *below = image;
    do {
        image = below;
        g_autofree char *path = own_file(stasis_json_string_or(image, "filename", ""));
        g_ptr_array_add(layers,
                        stasis_disk_layer_new(path, stasis_json_string_or(image, "format", "")));
    } while (stasis_json_object(image, "backing-image", &below, NULL));
}

static void read_cache(JsonObject *inserted, StasisDisk *disk)
{
    JsonObject *cache;
    if (!stasis_json_object(inserted, "cache", &cache, NULL))
        return;
    disk->cache_direct = stasis_json_bool_or(cache, "direct", FALSE);
    disk->cache_no_flush = stasis_json_bool_or(cache, "no-flush", FALSE);
}

/* FALSE without @error: nothing to keep in mind. */
static gboolean read_disk(JsonObject *item, GPtrArray *disks, GError **error)
{
    JsonObject *inserted, *image;
    const char *qdev = stasis_json_string_or(item, "qdev", NULL);
    const char *name = stasis_json_string_or(item, "device", "");
    const char *node, *format, *filename;
    gboolean read_only;
    guint64 size;
    if (qdev == NULL || !stasis_json_object(item, "inserted", &inserted, NULL))
        return FALSE;
    if (!stasis_json_string(inserted, "node-name", &node, error) ||
        !stasis_json_string(inserted, "drv", &format, error) ||
        !stasis_json_bool(inserted, "ro", &read_only, error) ||
        !stasis_json_object(inserted, "image", &image, error) ||
        !stasis_json_string(image, "filename", &filename, error) ||
        !stasis_json_uint(image, "virtual-size", &size, error))
        return FALSE;
    if (size == 0)
        return FALSE;
    StasisDisk *disk = g_new0(StasisDisk, 1);
    disk->name = *name != '\0' ? g_strdup(name) : device_name(qdev);
    disk->qdev = absolute_path(qdev);
    disk->node = g_strdup(node);
    disk->format = g_strdup(format);
    disk->filename = own_file(filename);
    disk->size_bytes = size;
    disk->writable = !read_only;
    disk->layers = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_disk_layer_free);
    read_layers(image, disk->layers);
    read_cache(inserted, disk);
    g_ptr_array_add(disks, disk);
    return TRUE;
}

/* Below the overlays that it got while it ran. */
static void find_line(StasisQmp *qmp, StasisDisk *disk)
{
    guint depth = 0;
    disk->line_node = g_strdup(disk->node);
    while (g_str_has_prefix(disk->line_node, STASIS_DISK_OVERLAY_PREFIX) &&
           depth + 1 < disk->layers->len) {
        char *below = stasis_disk_child(qmp, disk->line_node, "backing", NULL);
        if (below == NULL)
            break;
        g_free(disk->line_node);
        disk->line_node = below;
        depth++;
    }
    const StasisDiskLayer *layer = g_ptr_array_index(disk->layers, depth);
    disk->line_filename = g_strdup(layer->path);
}

GPtrArray *stasis_disks_list(StasisQmp *qmp, GError **error)
{
    JsonArray *list;
    g_autoptr(JsonNode) answer = stasis_disk_ask_list(qmp, "query-block", NULL, &list, error);
    if (answer == NULL)
        return NULL;
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func(disk_free);
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *item;
        g_autoptr(GError) local = NULL;
        if (stasis_json_object_at(list, i, &item, &local) && read_disk(item, disks, &local))
            find_line(qmp, stasis_disk_at(disks, disks->len - 1));
        if (local != NULL) {
            g_propagate_prefixed_error(error, g_steal_pointer(&local), "query-block: ");
            return NULL;
        }
    }
    return g_steal_pointer(&disks);
}

/* ---- what can't be copied ---- */

static gboolean refuse(const StasisDisk *disk, const char *why, GError **error)
{
    g_autofree char *shown = g_strescape(disk->name, NULL);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "disk %.200s: %s; --disk none leaves the disks out of the image", shown, why);
    return FALSE;
}

static gboolean has_thread(StasisQmp *qmp, const char *path)
{
    g_autoptr(JsonNode) thread = stasis_device_property(qmp, path, "iothread");
    return stasis_device_text(thread) != NULL && *stasis_device_text(thread) != '\0';
}

/* The disk's device, or one above it (its controller), does its I/O in a thread of its own. */
static gboolean has_iothread(StasisQmp *qmp, const StasisDisk *disk)
{
    return stasis_device_any(qmp, disk->qdev, has_thread);
}

void stasis_disks_find_iothreads(StasisQmp *qmp, const GPtrArray *disks)
{
    for (guint i = 0; i < disks->len; i++)
        if (stasis_disk_at(disks, i)->writable)
            stasis_disk_at(disks, i)->has_iothread = has_iothread(qmp, stasis_disk_at(disks, i));
}

static gboolean check_disk(StasisQmp *qmp, StasisDisk *disk, GError **error)
{
    static const char *const passthrough[] = { "scsi-block", "scsi-generic", NULL };
    g_autoptr(JsonNode) drive = stasis_device_property(qmp, disk->qdev, "drive");
    g_autoptr(JsonNode) type = stasis_device_property(qmp, disk->qdev, "type");
    g_autoptr(JsonNode) shared = stasis_device_property(qmp, disk->qdev, "share-rw");
    if (stasis_device_text(type) != NULL && g_strv_contains(passthrough, stasis_device_text(type)))
        return refuse(disk, "the guest sends it SCSI commands past QEMU's block layer", error);
    if (stasis_device_is_true(shared))
        return refuse(disk, "it is shared with others who write to it (share-rw=on)", error);
    if (stasis_device_text(drive) == NULL)
        return refuse(disk, "no copy-before-write filter can be put in front of it", error);
    disk->has_iothread = has_iothread(qmp, disk);
    if (disk->has_iothread && stasis_qmp_get_version_number(qmp) < FIRST_WITHOUT_LOCKS &&
        g_strcmp0(stasis_device_text(type), "virtio-blk-device") != 0)
        return refuse(disk,
                      "its controller has an iothread, in which this QEMU's block layer can't be "
                      "changed safely (9.0 is the first where it can); virtio-blk's can",
                      error);
    return strlen(disk->name) <= 200 || refuse(disk, "its name is too long", error);
}

gboolean stasis_disks_check(StasisQmp *qmp, const GPtrArray *disks, GError **error)
{
    for (guint i = 0; i < disks->len; i++) {
        StasisDisk *disk = stasis_disk_at(disks, i);
        if (!disk->writable)
            continue;
        if (stasis_qmp_get_version_number(qmp) < FIRST_VERSION)
            return refuse(disk, "copying it as of an instant needs QEMU 7.2 or later", error);
        for (guint j = 0; j < i; j++)
            if (strcmp(stasis_disk_at(disks, j)->name, disk->name) == 0)
                return refuse(disk, "two disks have this name", error);
        if (!check_disk(qmp, disk, error))
            return FALSE;
    }
    return TRUE;
}
