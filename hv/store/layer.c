/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One image of a chain, open for reading: its manifest and index, checked, and the descriptor of
 * its data. The data file is read with pread(2), each extent checked when it is read.
 */
#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"
#include "store/seal-manifest.h"

static gboolean open_index(StasisLayer *layer, GError **error)
{
    const StasisFileRef *ref = &layer->manifest->index;
    stasis_autofd int fd = stasis_store_open_file(layer->dir_fd, "index", NULL, error);
    if (fd < 0)
        return FALSE;
    guint8 *bytes = stasis_store_read_checked(fd, "index", ref->size, ref->sha256, error);
    return bytes != NULL &&
           stasis_index_parse(bytes, ref->size, layer->manifest, &layer->index, error);
}

static int open_of_size(const StasisLayer *layer, const char *name, guint64 expected,
                        GError **error)
{
    guint64 size;
    stasis_autofd int fd = stasis_store_open_file(layer->dir_fd, name, &size, error);
    if (fd < 0 || size == expected)
        return stasis_steal_fd(&fd);
    stasis_corrupt(error, "%s: %" G_GUINT64_FORMAT " bytes, the manifest says %" G_GUINT64_FORMAT,
                   name, size, expected);
    return -1;
}

static gboolean open_data(StasisLayer *layer, GError **error)
{
    for (guint i = 0; i < layer->manifest->n_data; i++) {
        layer->data_fds[i] =
            open_of_size(layer, stasis_data_file_name(i), layer->manifest->data[i].size, error);
        if (layer->data_fds[i] < 0)
            return FALSE;
    }
    return TRUE;
}

gboolean stasis_layer_check_parts(const StasisLayer *layer, GError **error)
{
    for (guint i = 0; i < layer->manifest->parts->len; i++) {
        const StasisFileRef *part = g_ptr_array_index(layer->manifest->parts, i);
        stasis_autofd int fd = open_of_size(layer, part->name, part->size, error);
        if (fd < 0)
            return FALSE;
    }
    return TRUE;
}

static StasisLayer *layer_new(void)
{
    StasisLayer *layer = g_new0(StasisLayer, 1);
    layer->dir_fd = -1;
    for (guint i = 0; i < STASIS_MAX_DATA_FILES; i++)
        layer->data_fds[i] = -1;
    return layer;
}

gboolean stasis_layer_check_files(int dir_fd, StasisManifest *manifest, GError **error)
{
    g_autoptr(StasisLayer) layer = layer_new();
    layer->dir_fd = dir_fd;
    layer->manifest = manifest;
    gboolean ok = open_index(layer, error) && open_data(layer, error) &&
                  stasis_layer_check_parts(layer, error);
    /* Both are the caller's. */
    layer->dir_fd = -1;
    layer->manifest = NULL;
    return ok;
}

static gpointer try_open(StasisStore *store, const char *id, gpointer unused, gboolean *ret_moved,
                         GError **error)
{
    g_autoptr(StasisLayer) layer = layer_new();
    layer->manifest = stasis_manifest_load(store, id, &layer->dir_fd, error);
    if (layer->manifest == NULL)
        return NULL;
    layer->keys = stasis_keys_ref(store->keys);
    layer->key = stasis_keys_find(layer->keys, STASIS_KEY_SEAL, layer->manifest->seal_key);
    if (!open_index(layer, error) || !open_data(layer, error)) {
        *ret_moved = !stasis_store_is_current(store, id, layer->dir_fd);
        stasis_store_explain(store, id, "", error);
        return NULL;
    }
    return g_steal_pointer(&layer);
}

StasisLayer *stasis_layer_open(StasisStore *store, const char *id, GError **error)
{
    return stasis_store_look(store, id, try_open, NULL, error);
}

StasisLayer *stasis_layer_open_parent(StasisStore *store, const StasisLayer *child, GError **error)
{
    const char *id = child->manifest->info->parent;
    if (id == NULL)
        return NULL;
    g_autoptr(GError) local = NULL;
    g_autoptr(StasisLayer) parent = stasis_layer_open(store, id, &local);
    if (parent == NULL) {
        if (g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
            stasis_corrupt(error, "image %s: its parent %s is missing in store %s",
                           child->manifest->info->id, id, store->path);
        else
            g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    if (!stasis_manifest_check_parent(child->manifest, parent->manifest, error))
        return NULL;
    return g_steal_pointer(&parent);
}

void stasis_layer_free(StasisLayer *layer)
{
    if (layer == NULL)
        return;
    stasis_index_clear(&layer->index);
    stasis_manifest_free(layer->manifest);
    stasis_keys_unref(layer->keys);
    stasis_close_fdp(&layer->dir_fd);
    for (guint i = 0; i < STASIS_MAX_DATA_FILES; i++)
        stasis_close_fdp(&layer->data_fds[i]);
    g_free(layer);
}

static gboolean damaged(const StasisLayer *layer, const StasisIndexRecord *r, const char *what,
                        GError **error)
{
    return stasis_corrupt(
        error,
        "image %s: %s: extent at offset %" G_GUINT64_FORMAT
        " (%u bytes, block \"%s\", page %" G_GUINT64_FORMAT ") %s; use another image",
        layer->manifest->info->id, stasis_data_file_name(r->file), r->offset, r->stored_len,
        stasis_manifest_block(layer->manifest, r->block)->name, r->first_page, what);
}

gboolean stasis_layer_admit(StasisStore *store, const StasisLayer *layer, GError **error)
{
    const StasisImageInfo *info = layer->manifest->info;
    const StasisSealChecks checks = { info->encryption_checked, info->signature_checked };
    return stasis_seal_admit(store, info->id, layer->manifest->seal_key, info->signed_by, &checks,
                             error);
}

/* The stored bytes of @r at @dst, their checksum compared if @check. */
static gboolean read_stored(const StasisLayer *layer, const StasisIndexRecord *r, gboolean check,
                            guint8 *dst, GError **error)
{
    int e = stasis_pread_all(layer->data_fds[r->file], dst, r->stored_len, (off_t)r->offset);
    if (e == -ENODATA)
        return damaged(layer, r, "lies behind the end of the file", error);
    if (e < 0)
        return stasis_set_errno(error, -e, "image %s: %s: read at offset %" G_GUINT64_FORMAT,
                                layer->manifest->info->id, stasis_data_file_name(r->file),
                                r->offset);
    if (!check)
        return TRUE;
    StasisDigest digest;
    if (!stasis_digest_of(&digest, dst, r->stored_len, NULL, 0, error))
        return FALSE;
    return memcmp(digest.bytes, r->checksum, STASIS_CHECKSUM_BYTES) == 0 ||
           damaged(layer, r, "differs from its checksum", error);
}

gboolean stasis_layer_check_extent(const StasisLayer *layer, const StasisIndexRecord *r,
                                   GError **error)
{
    guint8 stored[STASIS_EXTENT_BYTES + STASIS_SEAL_BYTES];
    return read_stored(layer, r, TRUE, stored, error);
}

static gboolean no_key(const StasisLayer *layer, GError **error)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_KEY,
                "image %s is encrypted with key %s, which is not there", layer->manifest->info->id,
                layer->manifest->seal_key);
    return FALSE;
}

/* The extent of @r as the codec made it, from the @stored bytes to @dst. */
static gboolean unseal_extent(const StasisLayer *layer, const StasisIndexRecord *r,
                              const guint8 *stored, guint8 *dst, GError **error)
{
    StasisSealPlace place;
    if (layer->key == NULL)
        return no_key(layer, error);
    stasis_seal_place_extent(&place, r->block, r->first_page - r->skip_pages, r->extent_pages,
                             r->stored_as);
    return stasis_unseal(layer->key, &place, stored, r->stored_len, dst) ||
           damaged(layer, r, "is not what was sealed there", error);
}

gboolean stasis_layer_read_extent(const StasisLayer *layer, const StasisIndexRecord *r, guint8 *dst,
                                  GError **error)
{
    size_t plain_len = r->extent_pages * STASIS_PAGE_BYTES, len = r->stored_len;
    guint8 stored[STASIS_EXTENT_BYTES + STASIS_SEAL_BYTES], *bytes = stored;
    gboolean raw = r->stored_as == STASIS_STORED_RAW, sealed = layer->manifest->seal_key[0] != '\0';
    if (!read_stored(layer, r, !layer->trusted, raw && !sealed ? dst : stored, error))
        return FALSE;
    if (sealed) {
        bytes = raw ? dst : stored + STASIS_SEAL_NONCE_BYTES;
        len -= STASIS_SEAL_BYTES;
        if (!unseal_extent(layer, r, stored, bytes, error))
            return FALSE;
    }
    if (!raw && !stasis_codec_ops(r->stored_as)->decompress(dst, plain_len, bytes, len))
        return damaged(layer, r, "does not decompress", error);
    return TRUE;
}

GBytes *stasis_layer_open_part(const StasisLayer *layer, const char *name, guint8 *stored,
                               gsize len, GError **error)
{
    const StasisManifest *manifest = layer->manifest;
    g_autofree guint8 *own = stored;
    StasisSealPlace place;
    if (manifest->seal_key[0] == '\0')
        return g_bytes_new_take(g_steal_pointer(&own), len);
    if (layer->key == NULL) {
        no_key(layer, error);
        return NULL;
    }
    stasis_seal_place_part(&place, manifest->info->id, name);
    if (!stasis_unseal(layer->key, &place, own, len, own)) {
        stasis_corrupt(error, "image %s: %s is not what was sealed there; use another image",
                       manifest->info->id, name);
        return NULL;
    }
    return g_bytes_new_take(g_steal_pointer(&own), len - STASIS_SEAL_BYTES);
}
