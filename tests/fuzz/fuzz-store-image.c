/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image made of hostile bytes is refused or read, and does nothing else. The first byte picks
 * which file the rest goes into; the digests above it are made right, so that the parser behind
 * each of them is reached. Its highest bit makes it an image of version 2, with two data files.
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

static StasisStore *store;
static char *path, *id, *manifest_text, *index_bytes, *pages_bytes;
static gsize manifest_len, index_len, pages_len;
static int dir_fd;
static gboolean rewritten; /* this input's image is of version 2 */

static void clean_up(void)
{
    test_remove_tree(path);
}

static void load(const char *name, char **ret, gsize *ret_len)
{
    g_autofree char *file = g_build_filename(path, "images", id, name, NULL);
    if (!g_file_get_contents(file, ret, ret_len, NULL))
        abort();
}

/* Extents of many pages, one of them cut in two by a later page, and each codec. */
static void make_image(void)
{
    static guint8 plain[N_PAGES * STASIS_PAGE_BYTES];
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, NULL);
    stasis_image_writer_add_block(writer, "pc.ram", sizeof(plain), NULL);
    for (guint page = 0; page < N_PAGES; page++)
        memset(plain + page * STASIS_PAGE_BYTES, (int)page, STASIS_PAGE_BYTES);
    test_add(writer, 0, 0, N_PAGES, STASIS_STORED_ZERO, NULL, NULL);
    test_add(writer, 0, 0, 16, STASIS_STORED_LZ4, plain, NULL);
    test_add(writer, 0, 5, 1, STASIS_STORED_RAW, plain, NULL);
    test_add(writer, 0, 18, 8, STASIS_STORED_ZSTD, plain, NULL);
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, NULL);
    id = g_strdup(info->id);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    store = test_make_store(&path);
    atexit(clean_up);
    make_image();
    load("manifest.json", &manifest_text, &manifest_len);
    load("index", &index_bytes, &index_len);
    load("pages", &pages_bytes, &pages_len);
    dir_fd = openat(store->images_fd, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return 0;
}

static void put(const char *name, const void *data, size_t len)
{
    stasis_autofd int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data, len) != (ssize_t)len)
        abort();
}

static void make_rewritten(StasisManifest *manifest)
{
    manifest->format = STASIS_FORMAT_REWRITTEN;
    g_free(manifest->origin);
    manifest->origin = g_strdup(manifest->info->digest);
    manifest->n_data = 2;
    manifest->data[1] = (StasisDataFile){ pages_len, 0, 0 };
}

/* manifest.json for these two files: sizes, digest and page counts as they should be. */
static void put_manifest(const void *index, size_t len, size_t n_pages_bytes)
{
    g_autoptr(StasisManifest) manifest = stasis_manifest_parse(manifest_text, manifest_len, NULL);
    StasisImageInfo *info = manifest->info;
    StasisDigest digest;
    stasis_digest_of(&digest, index, len, NULL, 0, NULL);
    stasis_digest_to_hex(&digest, manifest->index.sha256);
    manifest->index.size = len;
    manifest->data[0].size = n_pages_bytes;
    if (rewritten)
        make_rewritten(manifest);
    info->data_pages = info->zero_pages = 0;
    size_t at = 32 + sizeof(StasisIndexBlock);
    for (; at + sizeof(StasisIndexRecord) <= len; at += sizeof(StasisIndexRecord)) {
        StasisIndexRecord r;
        memcpy(&r, (const char *)index + at, sizeof(r));
        *(r.stored_as == STASIS_STORED_ZERO ? &info->zero_pages : &info->data_pages) += r.n_pages;
    }
    g_autofree char *text = stasis_manifest_write(manifest, NULL);
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
    g_autoptr(StasisManifest) manifest = stasis_manifest_parse(manifest_text, manifest_len, NULL);
    if (rewritten)
        make_rewritten(manifest);
    g_autofree char *body = stasis_manifest_write(manifest, NULL);
    gsize body_len = strlen(body) - STASIS_DIGEST_TAIL_BYTES;
    patch(body, body_len, data, size);
    fuzz_manifest((const uint8_t *)body, body_len);
}

static void fuzz_index(const uint8_t *data, size_t size)
{
    put("index", data, size);
    put_manifest(data, size, pages_len);
}

/* Of the version that is wanted: a byte behind the magic. */
static char *copy_index(void)
{
    char *bytes = g_memdup2(index_bytes, index_len);
    bytes[8] = rewritten ? STASIS_FORMAT_REWRITTEN : STASIS_FORMAT_VERSION;
    return bytes;
}

static void fuzz_patched_index(const uint8_t *data, size_t size)
{
    g_autofree char *bytes = copy_index();
    patch(bytes, index_len, data, size);
    put("index", bytes, index_len);
    put_manifest(bytes, index_len, pages_len);
}

/* @data is what the extents hold, each record taking a quarter, with checksums that fit. */
static void fuzz_pages(const uint8_t *data, size_t size)
{
    g_autofree char *bytes = copy_index();
    size_t share = MIN(size / 4, STASIS_PAGE_BYTES), offset = 0;
    size_t at = 32 + sizeof(StasisIndexBlock);
    for (; at + sizeof(StasisIndexRecord) <= index_len; at += sizeof(StasisIndexRecord)) {
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
    put("index", bytes, index_len);
    put("pages", data, size);
    put_manifest(bytes, index_len, size);
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
    g_autoptr(GPtrArray) list = stasis_store_list(store, NULL);
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, id, &error);
    if ((reader == NULL) != (error != NULL))
        abort();
    if (error != NULL && strchr(error->message, '\n') != NULL)
        abort();
    if (reader != NULL && list->len != 1)
        abort();
    guint n_blocks = reader == NULL ? 0 : stasis_image_reader_get_n_blocks(reader);
    for (guint i = 0; i < MIN(n_blocks, 8); i++)
        read_block(reader, i);
    if (reader != NULL) {
        g_autoptr(GBytes) part = stasis_image_reader_get_part(reader, "vmstate", NULL);
        stasis_store_verify(store, id, NULL, NULL, NULL, NULL);
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
    put("index", index_bytes, index_len);
    put("pages", pages_bytes, pages_len);
    rewritten = data[0] >= 128;
    if (rewritten)
        put("pages.1", pages_bytes, pages_len);
    kinds[data[0] % G_N_ELEMENTS(kinds)](data + 1, size - 1);
    read_all();
    return 0;
}
