/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading an image with its ancestors. All files are opened at the start, so an image that is
 * deleted meanwhile stays readable; then the object does not change, and any number of threads
 * may read. A page is looked up from the newest image to the oldest; the full one at the end has
 * every page, which was checked on opening.
 */
#include <string.h>

#include "base/fd.h"
#include "store/internal.h"

struct _StasisImageReader {
    GPtrArray *layers; /* of StasisLayer, newest first */
    GArray *part_fds;  /* of int, in the order of the newest manifest's parts */
};

static void close_part(gpointer fd)
{
    stasis_close_fdp(fd);
}

static gboolean open_parts(StasisImageReader *reader, const StasisLayer *layer, GError **error)
{
    for (guint i = 0; i < layer->manifest->parts->len; i++) {
        const StasisFileRef *part = g_ptr_array_index(layer->manifest->parts, i);
        int fd = stasis_store_open_file(layer->dir_fd, part->name, NULL, error);
        if (fd < 0) {
            g_prefix_error(error, "image %s: ", layer->manifest->info->id);
            return FALSE;
        }
        g_array_append_val(reader->part_fds, fd);
    }
    return TRUE;
}

/* Open the chain once. When an image of it was rewritten or deleted in the middle it is to be
 * opened anew, from the newest on. Mixing versions of two images is fine otherwise, as what an
 * image holds never changes. */
static gpointer try_open(StasisStore *store, const char *id, gpointer unused, gboolean *ret_moved,
                         GError **error)
{
    g_autoptr(StasisImageReader) reader = g_new0(StasisImageReader, 1);
    reader->layers = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_layer_free);
    reader->part_fds = g_array_new(FALSE, FALSE, sizeof(int));
    g_array_set_clear_func(reader->part_fds, close_part);

    StasisLayer *layer = stasis_layer_open(store, id, error);
    if (layer == NULL)
        return NULL;
    g_ptr_array_add(reader->layers, layer);
    if (!stasis_layer_admit(store, layer, error))
        return NULL;
    if (!open_parts(reader, layer, error)) {
        *ret_moved = !stasis_store_is_current(store, id, layer->dir_fd);
        return NULL;
    }
    while (layer->manifest->info->parent != NULL) {
        if (reader->layers->len > STASIS_MAX_DEPTH) {
            stasis_corrupt(error, "image %s: more than %u ancestors", id, STASIS_MAX_DEPTH);
            return NULL;
        }
        StasisLayer *parent = stasis_layer_open_parent(store, layer, error);
        if (parent == NULL) {
            *ret_moved = !stasis_store_is_current(store, layer->manifest->info->id, layer->dir_fd);
            return NULL;
        }
        stasis_clear_fd(&layer->dir_fd);
        layer = parent;
        g_ptr_array_add(reader->layers, layer);
        if (!stasis_layer_admit(store, layer, error))
            return NULL;
    }
    stasis_clear_fd(&layer->dir_fd);
    return g_steal_pointer(&reader);
}

StasisImageReader *stasis_image_reader_open(StasisStore *store, const char *id, GError **error)
{
    return stasis_store_look(store, id, try_open, NULL, error);
}

void stasis_image_reader_free(StasisImageReader *reader)
{
    if (reader == NULL)
        return;
    g_ptr_array_unref(reader->layers);
    g_array_unref(reader->part_fds);
    g_free(reader);
}

static const StasisLayer *newest(const StasisImageReader *reader)
{
    return g_ptr_array_index(reader->layers, 0);
}

const GPtrArray *stasis_image_reader_get_layers(const StasisImageReader *reader)
{
    return reader->layers;
}

const StasisImageInfo *stasis_image_reader_get_info(StasisImageReader *reader)
{
    return newest(reader)->manifest->info;
}

gboolean stasis_image_reader_check_memory(StasisImageReader *reader, GError **error)
{
    const StasisManifest *manifest = newest(reader)->manifest;
    if (manifest->n_ram > 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "image %s has the state of devices only, and no memory: device-restore puts one of "
                "them back into VM %s; for this take an image with checkpoint-create",
                manifest->info->id, manifest->info->vm);
    return FALSE;
}

guint stasis_image_reader_get_n_blocks(StasisImageReader *reader)
{
    return newest(reader)->manifest->n_ram;
}

guint stasis_image_reader_get_n_disks(StasisImageReader *reader)
{
    const StasisManifest *manifest = newest(reader)->manifest;
    return manifest->blocks->len - manifest->n_ram;
}

int stasis_image_reader_find_disk(StasisImageReader *reader, const char *name)
{
    const StasisManifest *manifest = newest(reader)->manifest;
    for (guint i = manifest->n_ram; i < manifest->blocks->len; i++)
        if (strcmp(stasis_manifest_block(manifest, i)->name, name) == 0)
            return (int)i;
    return -1;
}

const StasisImageBlock *stasis_image_reader_get_block(StasisImageReader *reader, guint block)
{
    return stasis_manifest_block(newest(reader)->manifest, block);
}

GBytes *stasis_image_reader_get_part(StasisImageReader *reader, const char *name, GError **error)
{
    const StasisManifest *manifest = newest(reader)->manifest;
    for (guint i = 0; i < manifest->parts->len; i++) {
        const StasisFileRef *part = g_ptr_array_index(manifest->parts, i);
        if (strcmp(part->name, name) != 0)
            continue;
        int fd = g_array_index(reader->part_fds, int, i);
        guint8 *data = stasis_store_read_checked(fd, name, part->size, part->sha256, error);
        if (data == NULL) {
            g_prefix_error(error, "image %s: ", manifest->info->id);
            return NULL;
        }
        return stasis_layer_open_part(newest(reader), name, data, part->size, error);
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "image %s has no part \"%s\"",
                manifest->info->id, name);
    return NULL;
}

static gboolean check_range(const StasisImageReader *reader, guint block, guint64 page, guint64 n,
                            GError **error)
{
    const StasisManifest *manifest = newest(reader)->manifest;
    if (block < manifest->blocks->len) {
        guint64 n_pages = stasis_manifest_block(manifest, block)->n_pages;
        if (page <= n_pages && n <= n_pages - page)
            return TRUE;
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "image %s has no %" G_GUINT64_FORMAT " pages from page %" G_GUINT64_FORMAT
                " in RAM block %u",
                manifest->info->id, n, page, block);
    return FALSE;
}

/* The newest record with @page, its image, and the first page behind the run that it serves. */
static const StasisIndexRecord *find(const StasisImageReader *reader, guint block, guint64 page,
                                     const StasisLayer **ret_layer, guint64 *ret_end,
                                     GError **error)
{
    guint64 end = G_MAXUINT64;
    for (guint i = 0; i < reader->layers->len; i++) {
        const StasisLayer *layer = g_ptr_array_index(reader->layers, i);
        const StasisIndexRecord *record = stasis_index_find(&layer->index, block, page, &end);
        if (record == NULL)
            continue;
        *ret_layer = layer;
        *ret_end = end;
        return record;
    }
    stasis_corrupt(error, "image %s: page %" G_GUINT64_FORMAT " of RAM block %u is in no image",
                   newest(reader)->manifest->info->id, page, block);
    return NULL;
}

gboolean stasis_image_reader_locate(StasisImageReader *reader, guint block, guint64 page,
                                    guint64 *ret_n, gboolean *ret_zero, GError **error)
{
    const StasisLayer *layer;
    guint64 end;
    if (!check_range(reader, block, page, 1, error))
        return FALSE;
    const StasisIndexRecord *record = find(reader, block, page, &layer, &end, error);
    if (record == NULL)
        return FALSE;
    *ret_n = end - page;
    *ret_zero = record->stored_as == STASIS_STORED_ZERO;
    return TRUE;
}

void stasis_image_reader_trust(StasisImageReader *reader)
{
    for (guint i = 0; i < reader->layers->len; i++)
        ((StasisLayer *)g_ptr_array_index(reader->layers, i))->trusted = TRUE;
}

/* [@page, +@n) of @record into @dst: straight there when that is the extent's whole. */
static gboolean read_run(const StasisLayer *layer, const StasisIndexRecord *record, guint64 page,
                         guint64 n, guint8 *dst, GError **error)
{
    size_t len = n * STASIS_PAGE_BYTES;
    if (record->stored_as == STASIS_STORED_ZERO) {
        memset(dst, 0, len);
        return TRUE;
    }
    if (n == record->extent_pages)
        return stasis_layer_read_extent(layer, record, dst, error);
    guint8 plain[STASIS_EXTENT_BYTES];
    if (!stasis_layer_read_extent(layer, record, plain, error))
        return FALSE;
    guint64 skip = record->skip_pages + (page - record->first_page);
    memcpy(dst, plain + skip * STASIS_PAGE_BYTES, len);
    return TRUE;
}

gboolean stasis_image_reader_read_pages(StasisImageReader *reader, guint block, guint64 first_page,
                                        guint64 n_pages, void *dst, GError **error)
{
    if (!check_range(reader, block, first_page, n_pages, error))
        return FALSE;
    guint8 *out = dst;
    guint64 end = first_page + n_pages;
    for (guint64 page = first_page; page < end;) {
        const StasisLayer *layer;
        guint64 run_end;
        const StasisIndexRecord *record = find(reader, block, page, &layer, &run_end, error);
        if (record == NULL)
            return FALSE;
        guint64 n = MIN(run_end, end) - page;
        if (!read_run(layer, record, page, n, out, error))
            return FALSE;
        out += n * STASIS_PAGE_BYTES;
        page += n;
    }
    const StasisImageBlock *info = stasis_image_reader_get_block(reader, block);
    size_t odd = info->size_bytes % STASIS_PAGE_BYTES;
    if (n_pages > 0 && end == info->n_pages && odd != 0)
        memset(out - STASIS_PAGE_BYTES + odd, 0, STASIS_PAGE_BYTES - odd);
    return TRUE;
}
