/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image made of hostile bytes is refused or read, and does nothing else. The first byte picks
 * which file the rest goes into; the digests above it are made right, so that the parser behind
 * each of them is reached. Its highest bit makes it an image that was rewritten, with two data
 * files; the one below, one with a disk (version 3).
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>

#include "../unit/test-store-util.h"
#include "base/fd.h"
#include "store/internal.h"
#include "store/manifest-text.h"

#define MAX_READ_PAGES 64u
#define N_PAGES 32u

/* A store with one image. */
typedef struct {
    StasisStore *store;
    char *path, *id, *manifest_text, *index_bytes, *pages_bytes;
    gsize manifest_len, index_len, pages_len;
    int dir_fd;
    guint n_blocks;
} Base;

static Base bases[2], *base; /* without and with a disk; this input's */
static gboolean rewritten;   /* this input's image is */

static void clean_up(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(bases); i++)
        test_remove_tree(bases[i].path);
}

static void load(const char *name, char **ret, gsize *ret_len)
{
    g_autofree char *file = g_build_filename(base->path, "images", base->id, name, NULL);
    if (!g_file_get_contents(file, ret, ret_len, NULL))
        abort();
}

/* Extents of many pages, one of them cut in two by a later page, and each codec. */
static void make_image(void)
{
    static guint8 plain[N_PAGES * STASIS_PAGE_BYTES];
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(base->store, NULL, NULL);
    stasis_image_writer_add_block(writer, "pc.ram", sizeof(plain), NULL);
    if (base->n_blocks > 1)
        stasis_image_writer_add_disk(writer, "virtio0", sizeof(plain) - 512, NULL);
    for (guint page = 0; page < N_PAGES; page++)
        memset(plain + page * STASIS_PAGE_BYTES, (int)page, STASIS_PAGE_BYTES);
    test_add(writer, 0, 0, N_PAGES, STASIS_STORED_ZERO, NULL, NULL);
    test_add(writer, 0, 0, 16, STASIS_STORED_LZ4, plain, NULL);
    test_add(writer, 0, 5, 1, STASIS_STORED_RAW, plain, NULL);
    test_add(writer, 0, 18, 8, STASIS_STORED_ZSTD, plain, NULL);
    if (base->n_blocks > 1) {
        test_add(writer, 1, 0, N_PAGES, STASIS_STORED_ZERO, NULL, NULL);
        test_add(writer, 1, 16, 16, STASIS_STORED_LZ4, plain, NULL);
    }
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, NULL);
    base->id = g_strdup(info->id);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    for (guint i = 0; i < G_N_ELEMENTS(bases); i++) {
        base = &bases[i];
        base->n_blocks = i + 1;
        base->store = test_make_store(&base->path);
        make_image();
        load("manifest.json", &base->manifest_text, &base->manifest_len);
        load("index", &base->index_bytes, &base->index_len);
        load("pages", &base->pages_bytes, &base->pages_len);
        base->dir_fd = openat(base->store->images_fd, base->id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    atexit(clean_up);
    return 0;
}

static void put(const char *name, const void *data, size_t len)
{
    stasis_autofd int fd =
        openat(base->dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data, len) != (ssize_t)len)
        abort();
}

static void make_rewritten(StasisManifest *manifest)
{
    manifest->format = MAX(manifest->format, STASIS_FORMAT_REWRITTEN);
    g_free(manifest->origin);
    manifest->origin = g_strdup(manifest->info->digest);
    manifest->n_data = 2;
    manifest->data[1] = (StasisDataFile){ base->pages_len, 0, 0 };
}

/* manifest.json for these two files: sizes, digest and page counts as they should be. */
static void put_manifest(const void *index, size_t len, size_t n_pages_bytes)
{
    g_autoptr(StasisManifest) manifest =
        stasis_manifest_parse(base->manifest_text, base->manifest_len, NULL);
    StasisImageInfo *info = manifest->info;
    StasisDigest digest;
    stasis_digest_of(&digest, index, len, NULL, 0, NULL);
    stasis_digest_to_hex(&digest, manifest->index.sha256);
    manifest->index.size = len;
    manifest->data[0].size = n_pages_bytes;
    if (rewritten)
        make_rewritten(manifest);
    info->data_pages = info->zero_pages = info->disk_data_pages = info->disk_zero_pages = 0;
    size_t at = 32 + base->n_blocks * sizeof(StasisIndexBlock);
    for (; at + sizeof(StasisIndexRecord) <= len; at += sizeof(StasisIndexRecord)) {
        StasisIndexRecord r;
        memcpy(&r, (const char *)index + at, sizeof(r));
        stasis_manifest_count(manifest, r.block, r.stored_as == STASIS_STORED_ZERO, r.n_pages);
    }
    g_autofree char *text = stasis_manifest_write(manifest, NULL, NULL);
    put("manifest.json", text, strlen(text));
}

/* @data is the text up to the digest line. */
static void fuzz_manifest(const uint8_t *data, size_t size)
{
    g_autofree char *tail = NULL;
    g_autofree char *digest = stasis_manifest_digest((const char *)data, size, &tail, NULL);
    g_autoptr(GString) text = g_string_new_len((const char *)data, (gssize)size);
    g_string_append(text, tail);
    put("manifest.json", text->str, text->len);
}

/* @data: offset (two bytes) and new value, many times, over a valid file. */
static void patch(char *bytes, size_t len, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 3 <= size; i += 3)
        bytes[(data[i] | (size_t)data[i + 1] << 8) % len] = (char)data[i + 2];
}

/* The same over the manifest's text, whose digest is then made right. */
static void fuzz_patched_manifest(const uint8_t *data, size_t size)
{
    g_autoptr(StasisManifest) manifest =
        stasis_manifest_parse(base->manifest_text, base->manifest_len, NULL);
    if (rewritten)
        make_rewritten(manifest);
    g_autofree char *body = stasis_manifest_write(manifest, NULL, NULL);
    gsize body_len = strlen(body) - STASIS_DIGEST_TAIL_BYTES;
    patch(body, body_len, data, size);
    fuzz_manifest((const uint8_t *)body, body_len);
}

static void fuzz_index(const uint8_t *data, size_t size)
{
    put("index", data, size);
    put_manifest(data, size, base->pages_len);
}

/* Of the version that is wanted: a byte behind the magic. */
static char *copy_index(void)
{
    char *bytes = g_memdup2(base->index_bytes, base->index_len);
    bytes[8] = base->n_blocks > 1 ? STASIS_FORMAT_DISKS
               : rewritten        ? STASIS_FORMAT_REWRITTEN
                                  : STASIS_FORMAT_VERSION;
    return bytes;
}

static void fuzz_patched_index(const uint8_t *data, size_t size)
{
    g_autofree char *bytes = copy_index();
    patch(bytes, base->index_len, data, size);
    put("index", bytes, base->index_len);
    put_manifest(bytes, base->index_len, base->pages_len);
}

/* @data is what the extents hold, each record taking a quarter, with checksums that fit. */
static void fuzz_pages(const uint8_t *data, size_t size)
{
    g_autofree char *bytes = copy_index();
    size_t share = MIN(size / 4, STASIS_PAGE_BYTES), offset = 0;
    size_t at = 32 + base->n_blocks * sizeof(StasisIndexBlock);
    for (; at + sizeof(StasisIndexRecord) <= base->index_len; at += sizeof(StasisIndexRecord)) {
        StasisIndexRecord r;
        StasisDigest digest;
        memcpy(&r, bytes + at, sizeof(r));
        if (r.stored_as == STASIS_STORED_ZERO || share == 0 || size - offset < share)
            continue;
        if (r.stored_as == STASIS_STORED_RAW && share < STASIS_PAGE_BYTES)
            r.stored_as = STASIS_STORED_LZ4;
        r.offset = offset;
        r.stored_len = (guint32)share;
        stasis_digest_of(&digest, data + offset, share, NULL, 0, NULL);
        memcpy(r.checksum, digest.bytes, STASIS_CHECKSUM_BYTES);
        memcpy(bytes + at, &r, sizeof(r));
        offset += share;
    }
    put("index", bytes, base->index_len);
    put("pages", data, size);
    put_manifest(bytes, base->index_len, size);
}

static void read_block(StasisImageReader *reader, guint block)
{
    static guint8 buffer[MAX_READ_PAGES * STASIS_PAGE_BYTES];
    guint64 n_pages = stasis_image_reader_get_block(reader, block)->n_pages, n;
    gboolean zero;
    for (guint64 page = 0, i = 0; page < n_pages && i < MAX_READ_PAGES; page += n, i++)
        if (!stasis_image_reader_locate(reader, block, page, &n, &zero, NULL))
            abort(); /* a reader that opened has every page */
    n = MIN(n_pages, MAX_READ_PAGES);
    stasis_image_reader_read_pages(reader, block, 0, n, buffer, NULL);
    stasis_image_reader_read_pages(reader, block, n_pages - n, n, buffer, NULL);
    for (guint64 page = 0; page < n; page++)
        stasis_image_reader_read_pages(reader, block, page, 1, buffer, NULL);
}

static void read_all(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) list = stasis_store_list(base->store, NULL);
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(base->store, base->id, &error);
    if ((reader == NULL) != (error != NULL))
        abort();
    if (error != NULL && strchr(error->message, '\n') != NULL)
        abort();
    if (reader != NULL && list->len != 1)
        abort();
    guint n_blocks = reader == NULL ? 0
                                    : stasis_image_reader_get_n_blocks(reader) +
                                          stasis_image_reader_get_n_disks(reader);
    for (guint i = 0; i < MIN(n_blocks, 8); i++)
        read_block(reader, i);
    if (reader != NULL) {
        g_autoptr(GBytes) part = stasis_image_reader_get_part(reader, "vmstate", NULL);
        stasis_store_verify(base->store, base->id, NULL, NULL, NULL, NULL);
        g_autoptr(GPtrArray) disks = stasis_store_get_disks(base->store, base->id, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const kinds[])(const uint8_t *, size_t) = {
        fuzz_manifest, fuzz_patched_manifest, fuzz_index, fuzz_patched_index, fuzz_pages,
    };
    if (size < 1)
        return 0;
    base = &bases[data[0] >> 6 & 1];
    put("index", base->index_bytes, base->index_len);
    put("pages", base->pages_bytes, base->pages_len);
    rewritten = data[0] >= 128;
    if (rewritten)
        put("pages.1", base->pages_bytes, base->pages_len);
    kinds[data[0] % G_N_ELEMENTS(kinds)](data + 1, size - 1);
    read_all();
    return 0;
}
