/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages of a migration stream, as they come, into extents of an image. All memory is zero at first,
 * as in a fresh machine; of what comes later the last counts, which is how an image's writer has it
 * anyway. So nothing is kept but the run that is just coming together.
 */
#include <string.h>

#include "engine/exchange/import-internal.h"

typedef struct {
    char *name;
    guint64 size_bytes;
    guint index; /* in the image */
} Block;

struct _StasisImportRam {
    StasisImageWriter *writer;
    const StasisCodecOps *codec; /* NULL: store raw */
    GArray *blocks;              /* of Block, in the stream's order */
    gboolean begun;              /* the image has all blocks */
    /* The run: pages that follow each other in one block, all zero, or none and in one extent. */
    guint block;
    guint64 first, n;
    gboolean zero;
    guint8 pages[STASIS_EXTENT_BYTES];
    guint8 packed[STASIS_EXTENT_BYTES];
};

static void block_clear(gpointer data)
{
    g_free(((Block *)data)->name);
}

StasisImportRam *stasis_import_ram_new(StasisImageWriter *writer, StasisCodec codec)
{
    StasisImportRam *ram = g_new0(StasisImportRam, 1);
    ram->writer = writer;
    ram->codec = stasis_codec_compressing(codec);
    ram->blocks = g_array_new(FALSE, FALSE, sizeof(Block));
    g_array_set_clear_func(ram->blocks, block_clear);
    return ram;
}

void stasis_import_ram_free(StasisImportRam *ram)
{
    g_array_unref(ram->blocks);
    g_free(ram);
}

gboolean stasis_import_ram_block(guint block, const char *name, guint64 size_bytes,
                                 gpointer user_data, GError **error)
{
    StasisImportRam *ram = user_data;
    Block entry = { .name = g_strdup(name), .size_bytes = size_bytes };
    g_array_append_val(ram->blocks, entry);
    return TRUE;
}

static int by_name(gconstpointer a, gconstpointer b)
{
    return strcmp((*(Block *const *)a)->name, (*(Block *const *)b)->name);
}

/* Blocks by name, as checkpoints have them, so that one can be incremental to this image; all of
 * them zero. */
static gboolean begin(StasisImportRam *ram, GError **error)
{
    g_autoptr(GPtrArray) sorted = g_ptr_array_new();
    for (guint i = 0; i < ram->blocks->len; i++)
        g_ptr_array_add(sorted, &g_array_index(ram->blocks, Block, i));
    g_ptr_array_sort(sorted, by_name);
    for (guint i = 0; i < sorted->len; i++) {
        Block *block = g_ptr_array_index(sorted, i);
        block->index = i;
        if (stasis_image_writer_add_block(ram->writer, block->name, block->size_bytes, error) < 0)
            return FALSE;
    }
    for (guint i = 0; i < sorted->len; i++) {
        const Block *block = g_ptr_array_index(sorted, i);
        if (!stasis_image_writer_add_extent(ram->writer, i, 0,
                                            block->size_bytes / STASIS_PAGE_BYTES,
                                            STASIS_STORED_ZERO, NULL, 0, error))
            return FALSE;
    }
    ram->begun = TRUE;
    return TRUE;
}

static gboolean flush(StasisImportRam *ram, GError **error)
{
    guint64 n = ram->n;
    ram->n = 0;
    if (n == 0)
        return TRUE;
    if (ram->zero)
        return stasis_image_writer_add_extent(ram->writer, ram->block, ram->first, n,
                                              STASIS_STORED_ZERO, NULL, 0, error);
    gsize len = n * STASIS_PAGE_BYTES;
    gsize packed = ram->codec != NULL ? ram->codec->compress(ram->packed, len, ram->pages, len) : 0;
    if (packed > 0)
        return stasis_image_writer_add_extent(ram->writer, ram->block, ram->first, n,
                                              ram->codec->id, ram->packed, packed, error);
    return stasis_image_writer_add_extent(ram->writer, ram->block, ram->first, n, STASIS_STORED_RAW,
                                          ram->pages, len, error);
}

/* Extents begin at multiples of their greatest length. */
static gboolean continues(const StasisImportRam *ram, guint block, guint64 page, gboolean zero)
{
    return ram->n > 0 && ram->block == block && ram->zero == zero && page == ram->first + ram->n &&
           (zero || page % STASIS_EXTENT_PAGES != 0);
}

gboolean stasis_import_ram_page(guint block, guint64 offset, const guint8 *bytes,
                                gpointer user_data, GError **error)
{
    StasisImportRam *ram = user_data;
    guint64 page = offset / STASIS_PAGE_BYTES;
    gboolean zero = bytes == NULL;
    if (!ram->begun && !begin(ram, error))
        return FALSE;
    block = g_array_index(ram->blocks, Block, block).index;
    if (!continues(ram, block, page, zero)) {
        if (!flush(ram, error))
            return FALSE;
        ram->block = block;
        ram->first = page;
        ram->zero = zero;
    }
    if (!zero)
        memcpy(ram->pages + ram->n * STASIS_PAGE_BYTES, bytes, STASIS_PAGE_BYTES);
    ram->n++;
    return TRUE;
}

gboolean stasis_import_ram_finish(StasisImportRam *ram, GError **error)
{
    return flush(ram, error);
}
