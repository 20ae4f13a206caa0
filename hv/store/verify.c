/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Verify: read all of an image and of its ancestors and compare. Opening a layer checks manifest,
 * index and their place in the chain; here come the parts and every extent, decompressed. One
 * layer is open at a time, so a chain of any length needs few descriptors.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "store/internal.h"

#define REPORT_EVERY_US 50000u

typedef struct {
    StasisProgressFunc func;
    gpointer data;
    GCancellable *cancellable;
    StasisProgress progress;
    guint64 reported_us;
} Verify;

/* FALSE when the caller has had enough. */
static gboolean advance(Verify *verify, guint64 bytes, GError **error)
{
    /* Stored bytes that two records share are read twice: never more than all. */
    StasisProgress *progress = &verify->progress;
    progress->done_bytes = MIN(progress->done_bytes + bytes, progress->total_bytes);
    if (g_cancellable_set_error_if_cancelled(verify->cancellable, error))
        return FALSE;
    guint64 now = verify->func == NULL ? 0 : stasis_now_us();
    if (verify->func == NULL || now - verify->reported_us < REPORT_EVERY_US)
        return TRUE;
    verify->reported_us = now;
    verify->func(&verify->progress, verify->data);
    return TRUE;
}

static gboolean verify_parts(Verify *verify, const StasisLayer *layer, GError **error)
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
        if (!advance(verify, part->size, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean verify_extents(Verify *verify, const StasisLayer *layer, GError **error)
{
    guint8 plain[STASIS_EXTENT_BYTES];
    for (guint block = 0; block < layer->manifest->blocks->len; block++) {
        const StasisIndexBlock *table = &layer->index.blocks[block];
        const StasisIndexRecord *records = layer->index.records + table->first_record;
        for (guint64 i = 0; i < table->n_records; i++) {
            const StasisIndexRecord *r = &records[i];
            if (r->stored_as == STASIS_STORED_ZERO)
                continue;
            if (!stasis_layer_read_extent(layer, r, plain, error) ||
                !advance(verify, r->stored_len, error))
                return FALSE;
        }
    }
    return TRUE;
}

/* The sum over the chain, as far as it can be known; what is wrong shows later. */
static guint64 total_bytes(StasisStore *store, const char *id)
{
    guint64 sum = 0, depth = STASIS_MAX_DEPTH + 1;
    g_autofree char *next = g_strdup(id);
    while (next != NULL) {
        g_autoptr(StasisManifest) manifest = stasis_manifest_load(store, next, NULL, NULL);
        if (manifest == NULL || manifest->depth >= depth)
            break;
        depth = manifest->depth;
        sum += manifest->pages_bytes - manifest->dead_bytes;
        for (guint i = 0; i < manifest->parts->len; i++)
            sum += ((const StasisFileRef *)g_ptr_array_index(manifest->parts, i))->size;
        g_free(next);
        next = g_strdup(manifest->info->parent);
    }
    return sum;
}

gboolean stasis_store_verify(StasisStore *store, const char *id, StasisProgressFunc progress,
                             gpointer user_data, GCancellable *cancellable, GError **error)
{
    Verify verify = { .func = progress, .data = user_data, .cancellable = cancellable };
    verify.progress.phase = "verify";
    verify.progress.total_bytes = progress != NULL ? total_bytes(store, id) : 0;
    g_autoptr(StasisLayer) layer = stasis_layer_open(store, id, error);
    while (layer != NULL) {
        if (!verify_parts(&verify, layer, error) || !verify_extents(&verify, layer, error) ||
            !stasis_dead_check(layer, error))
            return FALSE;
        if (layer->manifest->info->parent == NULL)
            return TRUE;
        StasisLayer *parent = stasis_layer_open_parent(store, layer, error);
        stasis_layer_free(layer);
        layer = parent;
    }
    return FALSE;
}
