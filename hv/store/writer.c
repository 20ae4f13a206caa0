/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing an image: everything goes into tmp/ID, which no reader looks at, until commit.c gives it
 * its place. Several threads add extents: a thread takes its place in the data file with one
 * atomic addition, hashes and writes with no lock held, and takes the mutex to note one record.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"
#include "store/seal-manifest.h"

/* Start writing to the disk each time this much has come together, so that the sync at the end
 * finds little to do. */
#define WRITEBACK_BYTES ((guint64)8 << 20)
/* Not for a few records too many. */
#define SPARE_RECORDS 4096u

static gboolean set_parent(StasisImageWriter *writer, const char *parent, GError **error)
{
    writer->parent = stasis_manifest_load(writer->store, parent, NULL, error);
    if (writer->parent == NULL)
        return FALSE;
    if (writer->parent->depth >= STASIS_MAX_DEPTH &&
        (writer->parent->depth >= STASIS_MAX_HEIGHT ||
         stasis_store_count_ancestors(writer->store, writer->parent) >= STASIS_MAX_DEPTH)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "image %s has %u ancestors, the most there can be; store-fold makes them fewer",
                    parent, STASIS_MAX_DEPTH);
        return FALSE;
    }
    if (strcmp(writer->parent->seal_key, writer->manifest->seal_key) != 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_KEY,
                    "image %s is encrypted with another key than the store's is now; take a full "
                    "image",
                    parent);
        return FALSE;
    }
    writer->manifest->depth = writer->parent->depth + 1;
    writer->manifest->info->parent = g_strdup(parent);
    writer->manifest->parent_digest = g_strdup(stasis_manifest_identity(writer->parent));
    return TRUE;
}

static char *make_id(StasisStore *store, GError **error)
{
    g_auto(GStrv) ids = stasis_store_list_ids(store, error);
    if (ids == NULL)
        return NULL;
    guint n = g_strv_length(ids);
    return stasis_id_new(n > 0 ? ids[n - 1] : NULL, error);
}

static gboolean open_aside(StasisImageWriter *writer, GError **error)
{
    const char *id = writer->manifest->info->id;
    if (mkdirat(writer->tmp_fd, id, 0700) < 0)
        return stasis_set_errno(error, errno, "store %s: make tmp/%s", writer->store->path, id);
    writer->dir_fd = stasis_store_open_dir(writer->tmp_fd, id);
    if (writer->dir_fd < 0)
        return stasis_set_errno(error, errno, "store %s: open tmp/%s", writer->store->path, id);
    if (!stasis_fault(STASIS_FAULT_WRITER_OPEN, error))
        return FALSE;
    writer->pages_fd = stasis_store_create_file(writer->dir_fd, "pages", error);
    return writer->pages_fd >= 0;
}

/* All keys that the image needs in the end are looked for at its start. */
static gboolean set_keys(StasisImageWriter *writer, GError **error)
{
    StasisSeals seals;
    StasisManifest *manifest = writer->manifest;
    g_strlcpy(manifest->seal_key, writer->store->config.keys.encrypt, STASIS_KEY_ID);
    if (!stasis_seals_get(writer->store, manifest->seal_key, &seals, error))
        return FALSE;
    if (seals.mac != NULL)
        writer->sealer = stasis_sealer_new(writer->store->keys, seals.mac, error);
    return seals.mac == NULL || writer->sealer != NULL;
}

StasisImageWriter *stasis_image_writer_new(StasisStore *store, const char *parent, GError **error)
{
    g_autoptr(StasisImageWriter) writer = g_new0(StasisImageWriter, 1);
    writer->store = stasis_store_ref(store);
    writer->lock_fd = writer->tmp_fd = writer->dir_fd = writer->pages_fd = -1;
    writer->manifest = stasis_manifest_new();
    writer->records = g_array_new(FALSE, TRUE, sizeof(StasisIndexRecord));
    g_mutex_init(&writer->mutex);

    if (!set_keys(writer, error))
        return NULL;
    writer->lock_fd =
        stasis_store_lock(store, STASIS_STORE_LOCK_WAIT_MS, NULL, &writer->tmp_fd, error);
    if (writer->lock_fd < 0)
        return NULL;
    writer->manifest->info->id = make_id(store, error);
    if (writer->manifest->info->id == NULL)
        return NULL;
    if (parent != NULL && !set_parent(writer, parent, error))
        return NULL;
    if (!open_aside(writer, error))
        return NULL;
    return g_steal_pointer(&writer);
}

const char *stasis_image_writer_get_id(StasisImageWriter *writer)
{
    return writer->manifest->info->id;
}

static gboolean usage(GError **error, const char *message)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "image writer: %s", message);
    return FALSE;
}

static int add_block(StasisImageWriter *writer, const char *name, guint64 size_bytes, gboolean disk,
                     GError **error)
{
    guint n = writer->manifest->blocks->len;
    if (writer->records->len > 0) {
        usage(error, "a block after the first page");
        return -1;
    }
    if (writer->parent != NULL) {
        const StasisImageBlock *block =
            n < writer->parent->blocks->len ? stasis_manifest_block(writer->parent, n) : NULL;
        if (block == NULL || strcmp(block->name, name) != 0 || block->size_bytes != size_bytes ||
            block->disk != disk) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                        "%s \"%s\" is not that of parent image %s; take a full image",
                        disk ? "disk" : "RAM block", name, writer->parent->info->id);
            return -1;
        }
    }
    g_autoptr(GError) local = NULL;
    if (!stasis_manifest_add_block(writer->manifest, name, size_bytes, disk, &local)) {
        usage(error, local->message);
        return -1;
    }
    return (int)n;
}

int stasis_image_writer_add_block(StasisImageWriter *writer, const char *name, guint64 size_bytes,
                                  GError **error)
{
    return add_block(writer, name, size_bytes, FALSE, error);
}

int stasis_image_writer_add_disk(StasisImageWriter *writer, const char *name, guint64 size_bytes,
                                 GError **error)
{
    int block = add_block(writer, name, size_bytes, TRUE, error);
    if (block >= 0)
        writer->manifest->format = STASIS_FORMAT_DISKS;
    return block;
}

gboolean stasis_image_writer_has_all(const StasisImageWriter *writer)
{
    return writer->parent == NULL || writer->manifest->blocks->len == writer->parent->blocks->len;
}

void stasis_image_writer_set_refers(StasisImageWriter *writer)
{
    writer->manifest->format = STASIS_FORMAT_REFERS;
    writer->manifest->info->disks_refer = TRUE;
}

void stasis_image_writer_set_devices_only(StasisImageWriter *writer)
{
    writer->manifest->format = STASIS_FORMAT_DEVICES;
}

static gboolean check_extent(StasisImageWriter *writer, const StasisIndexRecord *r,
                             const void *stored, GError **error)
{
    if (r->block >= writer->manifest->blocks->len)
        return usage(error, "an extent of an unknown block");
    guint64 n_pages = stasis_manifest_block(writer->manifest, r->block)->n_pages;
    if (r->n_pages == 0 || r->first_page >= n_pages || r->n_pages > n_pages - r->first_page)
        return usage(error, "an extent outside its block");
    if (r->stored_as == STASIS_STORED_ZERO)
        return r->stored_len == 0 || usage(error, "a zero extent with data");
    if (stasis_codec_ops(r->stored_as) == NULL || stored == NULL ||
        r->n_pages > STASIS_EXTENT_PAGES || r->stored_len == 0 ||
        r->stored_len > r->n_pages * STASIS_PAGE_BYTES ||
        (r->stored_as == STASIS_STORED_RAW && r->stored_len != r->n_pages * STASIS_PAGE_BYTES))
        return usage(error, "an extent of a bad size or codec");
    return TRUE;
}

/* Of an encrypted image: seal the @len bytes of @r into @dst. */
static gboolean seal_extent(StasisImageWriter *writer, StasisIndexRecord *r, const void *plain,
                            guint8 *dst, GError **error)
{
    StasisSealPlace place;
    stasis_seal_place_extent(&place, r->block, r->first_page, (guint)r->n_pages, r->stored_as);
    if (!stasis_sealer_seal(writer->sealer, &place, plain, r->stored_len, dst, error))
        return FALSE;
    r->stored_len += STASIS_SEAL_BYTES;
    return TRUE;
}

/* Hash and write @stored, whose place is r->offset. */
static gboolean write_extent(StasisImageWriter *writer, StasisIndexRecord *r, const void *stored,
                             GError **error)
{
    StasisDigest digest;
    if (!stasis_digest_of(&digest, stored, r->stored_len, NULL, 0, error))
        return FALSE;
    memcpy(r->checksum, digest.bytes, STASIS_CHECKSUM_BYTES);
    int e = stasis_pwrite_all(writer->pages_fd, stored, r->stored_len, (off_t)r->offset);
    if (e < 0)
        return stasis_set_errno(error, -e,
                                "image %s: pages: write %u bytes at offset %" G_GUINT64_FORMAT,
                                writer->manifest->info->id, r->stored_len, r->offset);
    guint64 chunk = r->offset / WRITEBACK_BYTES;
    if ((r->offset + r->stored_len) / WRITEBACK_BYTES != chunk)
        sync_file_range(writer->pages_fd, (off_t)(chunk * WRITEBACK_BYTES), WRITEBACK_BYTES,
                        SYNC_FILE_RANGE_WRITE);
    return TRUE;
}

/* A stream may have its pages any number of times: what is superseded takes neither memory nor
 * room. There are never more records than pages after it, so it costs little for each that is
 * added. */
static gboolean compact(StasisImageWriter *writer, GError **error)
{
    guint64 holes = 0;
    if (writer->records->len < 2 * writer->manifest->n_pages + SPARE_RECORDS)
        return TRUE;
    g_autoptr(GArray) dead = stasis_records_compact(writer->records, writer->manifest, error);
    if (dead == NULL || !stasis_dead_clear(writer->pages_fd, dead, &holes, error))
        return FALSE;
    for (guint i = 0; i < dead->len; i++)
        writer->dead_bytes += g_array_index(dead, StasisDeadRange, i).len;
    writer->hole_bytes += holes;
    return TRUE;
}

/* What is written already, or zero. */
static gboolean note(StasisImageWriter *writer, const StasisIndexRecord *record, GError **error)
{
    g_mutex_lock(&writer->mutex);
    g_array_append_vals(writer->records, record, 1);
    gboolean ok = compact(writer, error);
    g_mutex_unlock(&writer->mutex);
    if (!ok)
        g_atomic_int_set(&writer->failed, 1);
    return ok;
}

gboolean stasis_image_writer_add_extent(StasisImageWriter *writer, guint block, guint64 first_page,
                                        guint64 n_pages, StasisStoredAs stored_as,
                                        const void *stored, size_t stored_len, GError **error)
{
    StasisIndexRecord record = { .first_page = first_page,
                                 .n_pages = n_pages,
                                 .block = block,
                                 .stored_len = (guint32)MIN(stored_len, G_MAXUINT32),
                                 .stored_as = (guint8)stored_as };
    if (!check_extent(writer, &record, stored, error))
        return FALSE;
    guint8 sealed[STASIS_EXTENT_BYTES + STASIS_SEAL_BYTES];
    if (writer->sealer != NULL && stored_as != STASIS_STORED_ZERO) {
        if (!seal_extent(writer, &record, stored, sealed, error))
            return FALSE;
        stored = sealed;
    }
    if (stored_as != STASIS_STORED_ZERO) {
        record.extent_pages = (guint16)n_pages;
        record.offset = __atomic_fetch_add(&writer->end, record.stored_len, __ATOMIC_RELAXED);
        if (!write_extent(writer, &record, stored, error)) {
            g_atomic_int_set(&writer->failed, 1);
            return FALSE;
        }
    }
    return note(writer, &record, error);
}

gboolean stasis_image_writer_add_part(StasisImageWriter *writer, const char *name, GBytes *data,
                                      GError **error)
{
    size_t len;
    const void *bytes = g_bytes_get_data(data, &len);
    if (!stasis_part_name_is_valid(name) || len > STASIS_MAX_PART_BYTES ||
        writer->manifest->parts->len >= STASIS_MAX_PARTS ||
        stasis_manifest_find_part(writer->manifest, name) != NULL)
        return usage(error, "a part of a bad name, twice, too large, or too many parts");
    g_autofree guint8 *sealed = NULL;
    if (writer->sealer != NULL) {
        StasisSealPlace place;
        stasis_seal_place_part(&place, writer->manifest->info->id, name);
        sealed = g_malloc(len + STASIS_SEAL_BYTES);
        if (!stasis_sealer_seal(writer->sealer, &place, bytes, len, sealed, error))
            return FALSE;
        bytes = sealed;
        len += STASIS_SEAL_BYTES;
    }
    StasisDigest digest;
    if (!stasis_digest_of(&digest, bytes, len, NULL, 0, error))
        return FALSE;
    stasis_autofd int fd = stasis_store_create_file(writer->dir_fd, name, error);
    if (fd < 0)
        return FALSE;
    int e = stasis_pwrite_all(fd, bytes, len, 0);
    if (e < 0)
        return stasis_set_errno(error, -e, "image %s: %s: write %zu bytes",
                                writer->manifest->info->id, name, len);
    StasisFileRef *part = g_new0(StasisFileRef, 1);
    part->name = g_strdup(name);
    part->size = len;
    stasis_digest_to_hex(&digest, part->sha256);
    g_ptr_array_add(writer->manifest->parts, part);
    return TRUE;
}

void stasis_image_writer_set_info(StasisImageWriter *writer, const StasisImageInfo *info)
{
    StasisImageInfo *own = writer->manifest->info;
    StasisImageInfo *copy = stasis_image_info_copy(info);
    g_free(copy->id);
    g_free(copy->parent);
    g_free(copy->digest);
    copy->id = g_steal_pointer(&own->id);
    copy->parent = g_steal_pointer(&own->parent);
    copy->digest = NULL;
    copy->ram_bytes = own->ram_bytes;
    copy->disk_bytes = own->disk_bytes;
    copy->n_disks = own->n_disks;
    copy->disks_refer = own->disks_refer;
    stasis_image_info_free(own);
    writer->manifest->info = copy;
}

void stasis_image_writer_free(StasisImageWriter *writer)
{
    if (writer == NULL)
        return;
    if (writer->dir_fd >= 0 && !writer->committed)
        stasis_store_remove_dir(writer->tmp_fd, writer->manifest->info->id);
    stasis_close_fdp(&writer->pages_fd);
    stasis_close_fdp(&writer->dir_fd);
    stasis_close_fdp(&writer->tmp_fd);
    stasis_store_unlock(&writer->lock_fd);
    stasis_manifest_free(writer->manifest);
    stasis_manifest_free(writer->parent);
    g_array_unref(writer->records);
    stasis_sealer_free(writer->sealer);
    g_mutex_clear(&writer->mutex);
    stasis_store_unref(writer->store);
    g_free(writer);
}
