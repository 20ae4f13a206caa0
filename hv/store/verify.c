/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Verify: read all of an image and of its ancestors and compare. Opening a layer checks manifest,
 * index and their place in the chain; here come the parts and every extent, decompressed. One
 * layer is open at a time, so a chain of any length needs few descriptors.
 */
#include <string.h>
#include "base/clock.h"
#include "base/fd.h"
#include "store/internal.h"

#define REPORT_EVERY_US 50000u

/* Stored bytes that two records share are read twice: never more than all is reported. */
gboolean stasis_task_advance(StasisTask *task, guint64 bytes, GError **error)
{
    task->progress.done_bytes = MIN(task->progress.done_bytes + bytes, task->progress.total_bytes);
    if (g_cancellable_set_error_if_cancelled(task->cancellable, error))
        return FALSE;
    guint64 now = task->func == NULL ? 0 : stasis_now_us();
    if (task->func == NULL || now - task->reported_us < REPORT_EVERY_US)
        return TRUE;
    task->reported_us = now;
    task->func(&task->progress, task->data);
    return TRUE;
}

/* Without its key an encrypted image can be compared with its checksums, and no further. */
static gboolean can_open(const StasisLayer *layer)
{
    return layer->manifest->seal_key[0] == '\0' || layer->key != NULL;
}

static gboolean verify_parts(StasisTask *task, const StasisLayer *layer, GError **error)
{
    for (guint i = 0; i < layer->manifest->parts->len; i++) {
        const StasisFileRef *part = g_ptr_array_index(layer->manifest->parts, i);
        stasis_autofd int fd = stasis_store_open_file(layer->dir_fd, part->name, NULL, error);
        g_autofree guint8 *data =
            fd < 0 ? NULL
                   : stasis_store_read_checked(fd, part->name, part->size, part->sha256, error);
        if (data == NULL) {
            g_prefix_error(error, "image %s: ", layer->manifest->info->id);
            return FALSE;
        }
        g_autoptr(GBytes) plain = NULL;
        if (can_open(layer))
            plain = stasis_layer_open_part(layer, part->name, g_steal_pointer(&data), part->size,
                                           error);
        if (can_open(layer) && plain == NULL)
            return FALSE;
        if (!stasis_task_advance(task, part->size, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean verify_extents(StasisTask *task, const StasisLayer *layer, GError **error)
{
    guint8 plain[STASIS_EXTENT_BYTES];
    for (guint block = 0; block < layer->manifest->blocks->len; block++) {
        const StasisIndexBlock *table = &layer->index.blocks[block];
        const StasisIndexRecord *records = layer->index.records + table->first_record;
        for (guint64 i = 0; i < table->n_records; i++) {
            const StasisIndexRecord *r = &records[i];
            if (r->stored_as == STASIS_STORED_ZERO)
                continue;
            if (!(can_open(layer) ? stasis_layer_read_extent(layer, r, plain, error)
                                  : stasis_layer_check_extent(layer, r, error)) ||
                !stasis_task_advance(task, r->stored_len, error))
                return FALSE;
        }
    }
    return TRUE;
}

gboolean stasis_layer_verify(const StasisLayer *layer, StasisTask *task, GError **error)
{
    return verify_parts(task, layer, error) && verify_extents(task, layer, error) &&
           stasis_dead_check(layer, error);
}

/* The sum over the chain, as far as it can be known; what is wrong shows later. */
static guint64 total_bytes(StasisStore *store, const char *id)
{
    guint64 sum = 0, depth = G_MAXUINT64;
    g_autofree char *next = g_strdup(id);
    while (next != NULL) {
        g_autoptr(StasisManifest) manifest = stasis_manifest_load(store, next, NULL, NULL);
        if (manifest == NULL || manifest->depth >= depth)
            break;
        depth = manifest->depth;
        sum += stasis_manifest_live_bytes(manifest);
        for (guint i = 0; i < manifest->parts->len; i++)
            sum += ((const StasisFileRef *)g_ptr_array_index(manifest->parts, i))->size;
        g_free(next);
        next = g_strdup(manifest->info->parent);
    }
    return sum;
}

/* @own, of the chain of @id, was rewritten, or is gone because those that need it were: then from
 * the beginning. */
static StasisLayer *open_again(StasisStore *store, const char *own, const char *id, GError **error)
{
    g_autoptr(GError) local = NULL;
    StasisLayer *again = stasis_layer_open(store, own, &local);
    if (again != NULL)
        return again;
    if (g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND) && strcmp(own, id) != 0)
        return stasis_layer_open(store, id, error);
    g_propagate_error(error, g_steal_pointer(&local));
    return NULL;
}

/* The next one to verify in place of @layer (ownership passes): its parent or, if the image was
 * rewritten meanwhile and the parent is gone, itself once more. */
static StasisLayer *next_layer(StasisStore *store, StasisLayer *layer, const char *id,
                               GError **error)
{
    g_autoptr(StasisLayer) child = layer;
    g_autoptr(GError) local = NULL;
    StasisLayer *parent = stasis_layer_open_parent(store, layer, &local);
    if (parent != NULL)
        return parent;
    const char *own = layer->manifest->info->id;
    if (!stasis_store_is_current(store, own, layer->dir_fd))
        return open_again(store, own, id, error);
    g_propagate_error(error, g_steal_pointer(&local));
    return NULL;
}

gboolean stasis_store_verify(StasisStore *store, const char *id, StasisProgressFunc progress,
                             gpointer user_data, GCancellable *cancellable, GError **error)
{
    StasisTask task = { .func = progress, .data = user_data, .cancellable = cancellable };
    task.progress.phase = "verify";
    task.progress.total_bytes = progress != NULL ? total_bytes(store, id) : 0;
    g_autoptr(StasisLayer) layer = stasis_layer_open(store, id, error);
    while (layer != NULL) {
        g_autoptr(GError) local = NULL;
        if (!stasis_layer_verify(layer, &task, &local)) {
            /* Its parts are opened one by one: they may be gone because it was rewritten. */
            const char *own = layer->manifest->info->id;
            if (g_error_matches(local, STASIS_ERROR, STASIS_ERROR_CORRUPT) &&
                !stasis_store_is_current(store, own, layer->dir_fd)) {
                StasisLayer *again = open_again(store, own, id, error);
                stasis_layer_free(layer);
                layer = again;
                continue;
            }
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        if (layer->manifest->info->parent == NULL)
            return TRUE;
        layer = next_layer(store, g_steal_pointer(&layer), id, error);
    }
    return FALSE;
}
