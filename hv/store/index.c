/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The index: which run of pages lies where. A header, a table of blocks and then fixed-size
 * records sorted by block and page, none overlapping, so that a reader can search it as it lies
 * on the disk. It is read into memory whole: a mapping of an untrusted file could be cut short
 * under us. Every field is checked once, here, and then relied upon.
 */
#include <string.h>

#include "base/io.h"
#include "store/internal.h"

#define INDEX_MAGIC "stasisix"

typedef struct {
    char magic[8];
    guint32 version;
    guint32 record_bytes;
    guint64 n_records;
    guint32 n_blocks;
    guint32 block_bytes;
} IndexHeader;
G_STATIC_ASSERT(sizeof(IndexHeader) == 32);

/* Both ways, as little-endian to host and host to little-endian are the same swap or none. */
static void swap_header(IndexHeader *header)
{
    header->version = GUINT32_FROM_LE(header->version);
    header->record_bytes = GUINT32_FROM_LE(header->record_bytes);
    header->n_records = GUINT64_FROM_LE(header->n_records);
    header->n_blocks = GUINT32_FROM_LE(header->n_blocks);
    header->block_bytes = GUINT32_FROM_LE(header->block_bytes);
}

static void swap_block(StasisIndexBlock *block)
{
    block->first_record = GUINT64_FROM_LE(block->first_record);
    block->n_records = GUINT64_FROM_LE(block->n_records);
    block->n_pages = GUINT64_FROM_LE(block->n_pages);
}

static void swap_record(StasisIndexRecord *record)
{
    record->first_page = GUINT64_FROM_LE(record->first_page);
    record->n_pages = GUINT64_FROM_LE(record->n_pages);
    record->offset = GUINT64_FROM_LE(record->offset);
    record->block = GUINT32_FROM_LE(record->block);
    record->stored_len = GUINT32_FROM_LE(record->stored_len);
    record->skip_pages = GUINT16_FROM_LE(record->skip_pages);
    record->extent_pages = GUINT16_FROM_LE(record->extent_pages);
}

static gboolean check_header(const guint8 *bytes, size_t len, const StasisManifest *manifest,
                             IndexHeader *ret, GError **error)
{
    if (len < sizeof(*ret))
        return stasis_corrupt(error, "index: shorter than its header");
    memcpy(ret, bytes, sizeof(*ret));
    swap_header(ret);
    if (memcmp(ret->magic, INDEX_MAGIC, sizeof(ret->magic)) != 0 ||
        ret->version != stasis_manifest_file_format(manifest) ||
        ret->record_bytes != sizeof(StasisIndexRecord) ||
        ret->block_bytes != sizeof(StasisIndexBlock))
        return stasis_corrupt(error, "index: unknown magic, version or record size");
    size_t rest = len - sizeof(*ret);
    if (ret->n_blocks != manifest->blocks->len || rest / sizeof(StasisIndexBlock) < ret->n_blocks)
        return stasis_corrupt(error, "index: %u blocks, the manifest says %u", ret->n_blocks,
                              manifest->blocks->len);
    rest -= ret->n_blocks * sizeof(StasisIndexBlock);
    if (rest % sizeof(StasisIndexRecord) != 0 || rest / sizeof(StasisIndexRecord) != ret->n_records)
        return stasis_corrupt(error, "index: %" G_GUINT64_FORMAT " records do not fill the file",
                              ret->n_records);
    return TRUE;
}

static gboolean stored_is_valid(const StasisIndexRecord *r, const StasisManifest *manifest)
{
    if (r->stored_as == STASIS_STORED_ZERO)
        return r->offset == 0 && r->stored_len == 0 && r->skip_pages == 0 && r->extent_pages == 0 &&
               r->file == 0;
    if (stasis_codec_ops(r->stored_as) == NULL || r->extent_pages == 0 ||
        r->extent_pages > STASIS_EXTENT_PAGES || r->skip_pages >= r->extent_pages ||
        r->n_pages > (guint64)(r->extent_pages - r->skip_pages))
        return FALSE;
    guint32 plain_len = r->extent_pages * STASIS_PAGE_BYTES;
    guint32 extra = stasis_manifest_seal_bytes(manifest);
    if (r->stored_len <= extra || r->stored_len - extra > plain_len ||
        (r->stored_as == STASIS_STORED_RAW && r->stored_len - extra != plain_len))
        return FALSE;
    if (extra > 0 && r->skip_pages > r->first_page)
        return FALSE;
    if (r->file >= manifest->n_data)
        return FALSE;
    guint64 size = manifest->data[r->file].size;
    return r->offset <= size && r->stored_len <= size - r->offset;
}

/* The records of one block: sorted, apart, inside the block; adds up their pages. */
static gboolean check_block(StasisIndex *index, guint block, const StasisManifest *manifest,
                            guint64 *data_pages, guint64 *zero_pages, GError **error)
{
    const StasisIndexBlock *table = &index->blocks[block];
    guint64 n_pages = stasis_manifest_block(manifest, block)->n_pages;
    if (table->n_pages != n_pages)
        return stasis_corrupt(error, "index: block %u has not the manifest's size", block);
    guint64 next = 0;
    for (guint64 i = 0; i < table->n_records; i++) {
        guint64 number = table->first_record + i;
        StasisIndexRecord *r = &index->records[number];
        swap_record(r);
        if (stasis_manifest_file_format(manifest) == STASIS_FORMAT_VERSION)
            r->file = 0; /* a reserved byte there, which readers ignore */
        if (r->block != block || r->n_pages == 0 || r->first_page < next ||
            r->first_page >= n_pages || r->n_pages > n_pages - r->first_page ||
            !stored_is_valid(r, manifest))
            return stasis_corrupt(error,
                                  "index: record %" G_GUINT64_FORMAT " (offset %" G_GUINT64_FORMAT
                                  ") has a field out of range",
                                  number, (guint64)((const guint8 *)r - index->bytes));
        next = r->first_page + r->n_pages;
        *(r->stored_as == STASIS_STORED_ZERO ? zero_pages : data_pages) += r->n_pages;
    }
    return TRUE;
}

static gboolean check_records(StasisIndex *index, guint64 n_records, const StasisManifest *manifest,
                              GError **error)
{
    /* Of RAM, and of disks. */
    guint64 next = 0, data_pages[2] = { 0 }, zero_pages[2] = { 0 };
    for (guint i = 0; i < manifest->blocks->len; i++) {
        StasisIndexBlock *block = &index->blocks[i];
        swap_block(block);
        if (block->first_record != next || block->n_records > n_records - next)
            return stasis_corrupt(error, "index: block %u has not the records that follow", i);
        next += block->n_records;
        int kind = i >= manifest->n_ram;
        if (!check_block(index, i, manifest, &data_pages[kind], &zero_pages[kind], error))
            return FALSE;
    }
    if (next != n_records)
        return stasis_corrupt(error, "index: records behind the last block's");
    const StasisImageInfo *info = manifest->info;
    if (data_pages[0] != info->data_pages || zero_pages[0] != info->zero_pages ||
        data_pages[1] != info->disk_data_pages || zero_pages[1] != info->disk_zero_pages)
        return stasis_corrupt(error, "index: other page counts than in the manifest");
    if (info->parent == NULL && stasis_manifest_known_pages(manifest) != manifest->n_pages)
        return stasis_corrupt(error, "index: a full image that lacks pages");
    return TRUE;
}

gboolean stasis_index_parse(guint8 *bytes, size_t len, const StasisManifest *manifest,
                            StasisIndex *ret, GError **error)
{
    StasisIndex index = { .bytes = bytes };
    IndexHeader header;
    gboolean ok = check_header(bytes, len, manifest, &header, error);
    if (ok) {
        /* g_malloc()ed memory, and all of the sizes are multiples of 8. */
        index.blocks = (StasisIndexBlock *)(void *)(bytes + sizeof(header));
        index.records = (StasisIndexRecord *)(void *)(index.blocks + header.n_blocks);
        ok = check_records(&index, header.n_records, manifest, error);
    }
    if (!ok) {
        g_free(bytes);
        return FALSE;
    }
    *ret = index;
    return TRUE;
}

void stasis_index_clear(StasisIndex *index)
{
    g_clear_pointer(&index->bytes, g_free);
    index->blocks = NULL;
    index->records = NULL;
}

const StasisIndexRecord *stasis_index_find(const StasisIndex *index, guint block, guint64 page,
                                           guint64 *limit)
{
    const StasisIndexBlock *table = &index->blocks[block];
    const StasisIndexRecord *records = index->records + table->first_record;
    /* The first record that starts behind @page. */
    guint64 low = 0, high = table->n_records;
    while (low < high) {
        guint64 middle = low + (high - low) / 2;
        if (records[middle].first_page <= page)
            low = middle + 1;
        else
            high = middle;
    }
    if (low > 0) {
        const StasisIndexRecord *r = &records[low - 1];
        if (page < r->first_page + r->n_pages) {
            *limit = MIN(*limit, r->first_page + r->n_pages);
            return r;
        }
    }
    if (low < table->n_records)
        *limit = MIN(*limit, records[low].first_page);
    return NULL;
}

/* Header and block table in disk order; @records are still in host order. */
static GByteArray *make_head(const GArray *records, const StasisManifest *manifest)
{
    IndexHeader header = { .magic = INDEX_MAGIC,
                           .version = stasis_manifest_file_format(manifest),
                           .record_bytes = sizeof(StasisIndexRecord),
                           .n_records = records->len,
                           .n_blocks = manifest->blocks->len,
                           .block_bytes = sizeof(StasisIndexBlock) };
    swap_header(&header);
    GByteArray *head = g_byte_array_new();
    g_byte_array_append(head, (const guint8 *)&header, sizeof(header));
    guint64 next = 0;
    for (guint i = 0; i < manifest->blocks->len; i++) {
        StasisIndexBlock block = { .first_record = next,
                                   .n_pages = stasis_manifest_block(manifest, i)->n_pages };
        while (next < records->len && g_array_index(records, StasisIndexRecord, next).block == i)
            next++;
        block.n_records = next - block.first_record;
        swap_block(&block);
        g_byte_array_append(head, (const guint8 *)&block, sizeof(block));
    }
    return head;
}

gboolean stasis_index_write(int fd, GArray *records, StasisManifest *manifest, GError **error)
{
    g_autoptr(GByteArray) head = make_head(records, manifest);
    for (guint i = 0; i < records->len; i++)
        swap_record(&g_array_index(records, StasisIndexRecord, i));
    size_t len = records->len * sizeof(StasisIndexRecord);
    if (head->len + len > STASIS_MAX_INDEX_BYTES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "index: %u extents, more than an image can have", records->len);
        return FALSE;
    }
    StasisDigest digest;
    if (!stasis_digest_of(&digest, head->data, head->len, records->data, len, error))
        return FALSE;
    int r = stasis_pwrite_all(fd, head->data, head->len, 0);
    if (r == 0)
        r = stasis_pwrite_all(fd, records->data, len, head->len);
    if (r < 0)
        return stasis_set_errno(error, -r, "index: write %zu bytes", head->len + len);
    manifest->index.name = g_strdup("index");
    manifest->index.size = head->len + len;
    stasis_digest_to_hex(&digest, manifest->index.sha256);
    return TRUE;
}
