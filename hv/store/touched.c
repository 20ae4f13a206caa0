/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory of a restore: which pages the VM touched first, in that order (docs/format.md). A hint
 * and no more, but a file all the same: bounded, checked, and of this image or not used.
 *
 *     magic "stasisft" · version u32 · count u32 · SHA-256 of the image's digest line
 *     count × (block u32 · reserved u32 · page u64) · first 16 bytes of the SHA-256 of all that
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/io.h"
#include "store/cache-internal.h"

#define MAGIC "stasisft"
#define VERSION 1u

typedef struct {
    char magic[8];
    guint32 version;
    guint32 count;
    guint8 image[32];
} Header;
G_STATIC_ASSERT(sizeof(Header) == 48);

typedef struct {
    guint32 block;
    guint32 reserved;
    guint64 page;
} Entry;
G_STATIC_ASSERT(sizeof(Entry) == 16);

#define MAX_BYTES (sizeof(Header) + STASIS_TOUCHED_MAX * sizeof(Entry) + STASIS_CHECKSUM_BYTES)

static gboolean image_key(StasisImageReader *reader, guint8 ret[32], GError **error)
{
    const char *digest = stasis_image_reader_get_info(reader)->digest;
    StasisDigest key;
    if (!stasis_digest_of(&key, digest, strlen(digest), NULL, 0, error))
        return FALSE;
    memcpy(ret, key.bytes, 32);
    return TRUE;
}

GBytes *stasis_touched_to_bytes(StasisImageReader *reader, const GArray *touched, GError **error)
{
    guint n = MIN(touched->len, STASIS_TOUCHED_MAX);
    Header header = { .magic = MAGIC,
                      .version = GUINT32_TO_LE(VERSION),
                      .count = GUINT32_TO_LE(n) };
    StasisDigest sum;
    if (!image_key(reader, header.image, error))
        return NULL;
    g_autoptr(GByteArray) out = g_byte_array_sized_new((guint)MAX_BYTES);
    g_byte_array_append(out, (const guint8 *)&header, sizeof(header));
    for (guint i = 0; i < n; i++) {
        const StasisTouched *from = &g_array_index(touched, StasisTouched, i);
        Entry entry = { .block = GUINT32_TO_LE(from->block), .page = GUINT64_TO_LE(from->page) };
        g_byte_array_append(out, (const guint8 *)&entry, sizeof(entry));
    }
    if (!stasis_digest_of(&sum, out->data, out->len, NULL, 0, error))
        return NULL;
    g_byte_array_append(out, sum.bytes, STASIS_CHECKSUM_BYTES);
    return g_byte_array_free_to_bytes(g_steal_pointer(&out));
}

static gboolean check(StasisImageReader *reader, const guint8 *data, gsize len, Header *header,
                      GError **error)
{
    guint8 key[32];
    StasisDigest sum;
    if (len < sizeof(Header) + STASIS_CHECKSUM_BYTES || len > MAX_BYTES)
        return stasis_corrupt(error, "touched pages: %zu bytes", len);
    memcpy(header, data, sizeof(*header));
    header->count = GUINT32_FROM_LE(header->count);
    gsize body = len - STASIS_CHECKSUM_BYTES;
    if (memcmp(header->magic, MAGIC, 8) != 0 || GUINT32_FROM_LE(header->version) != VERSION ||
        header->count > STASIS_TOUCHED_MAX ||
        body != sizeof(Header) + header->count * sizeof(Entry))
        return stasis_corrupt(error, "touched pages: no such file of version 1");
    if (!stasis_digest_of(&sum, data, body, NULL, 0, error) || !image_key(reader, key, error))
        return FALSE;
    if (memcmp(sum.bytes, data + body, STASIS_CHECKSUM_BYTES) != 0)
        return stasis_corrupt(error, "touched pages: the checksum differs");
    if (memcmp(key, header->image, sizeof(key)) != 0)
        return stasis_corrupt(error, "touched pages: of another image");
    return TRUE;
}

GArray *stasis_touched_from_bytes(StasisImageReader *reader, const guint8 *data, gsize len,
                                  GError **error)
{
    Header header;
    guint n_blocks = stasis_image_reader_get_n_blocks(reader);
    if (!check(reader, data, len, &header, error))
        return NULL;
    g_autoptr(GArray) touched =
        g_array_sized_new(FALSE, FALSE, sizeof(StasisTouched), header.count);
    for (guint i = 0; i < header.count; i++) {
        Entry entry;
        memcpy(&entry, data + sizeof(Header) + i * sizeof(Entry), sizeof(entry));
        StasisTouched page = { GUINT32_FROM_LE(entry.block), GUINT64_FROM_LE(entry.page) };
        if (page.block >= n_blocks ||
            page.page >= stasis_image_reader_get_block(reader, page.block)->n_pages) {
            stasis_corrupt(error, "touched pages: number %u is in no RAM block", i);
            return NULL;
        }
        g_array_append_val(touched, page);
    }
    return g_steal_pointer(&touched);
}

GArray *stasis_touched_load(StasisStore *store, StasisImageReader *reader, GError **error)
{
    g_autofree char *name =
        stasis_cache_name(stasis_image_reader_get_info(reader)->id, STASIS_CACHE_TOUCHED);
    stasis_autofd int cache_fd = stasis_cache_open(store, FALSE, NULL);
    stasis_autofd int fd = cache_fd >= 0 ? stasis_store_open_file(cache_fd, name, NULL, NULL) : -1;
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "no touched pages are known");
        return NULL;
    }
    gsize len = MIN((gsize)st.st_size, MAX_BYTES + 1);
    g_autofree guint8 *data = g_malloc(MAX(len, 1));
    int r = stasis_pread_all(fd, data, len, 0);
    if (r < 0) {
        stasis_set_errno(error, -r, "read cache/%s", name);
        return NULL;
    }
    return stasis_touched_from_bytes(reader, data, len, error);
}

gboolean stasis_touched_save(StasisStore *store, StasisImageReader *reader, const GArray *touched,
                             GError **error)
{
    const char *id = stasis_image_reader_get_info(reader)->id;
    g_autofree char *name = stasis_cache_name(id, STASIS_CACHE_TOUCHED);
    g_autoptr(GBytes) bytes = stasis_touched_to_bytes(reader, touched, error);
    stasis_autofd int cache_fd = bytes != NULL ? stasis_cache_open(store, TRUE, error) : -1;
    if (cache_fd < 0)
        return FALSE;
    /* Deleted meanwhile: its cache went with it. */
    if (faccessat(store->images_fd, id, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return stasis_set_errno(error, errno, "image %s", id);
    gsize len;
    const void *data = g_bytes_get_data(bytes, &len);
    return stasis_write_file_at(cache_fd, name, data, len, /* durable= */ FALSE, error);
}
