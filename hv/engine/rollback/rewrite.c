/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A shared block is written through its file: past the dirty tracker, which watches QEMU's mapping;
 * so a page that was re-armed and then written here counts as clean, which it is: it is the
 * image's. By pwrite(2), not through a mapping of our own, in which each page would fault first,
 * twice where the host is a guest itself; huge pages have no write(2), and are mapped. A private
 * block can be written through QEMU only.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <stasis/error.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/io.h"
#include "engine/rollback/rewrite-internal.h"
#include "track/uffd-ram.h"

#define PAGE STASIS_PAGE_BYTES
/* A run of zero pages at least this long becomes a hole where the block can have one. */
#define HOLE_PAGES 512u

static const guint8 zero_page[PAGE];

/* ---- blocks ---- */

/* Not fatal when it can't be had: writes then go through QEMU. */
static void map_block(StasisRewriteBlock *self)
{
    const StasisRamBlock *block = self->block;
    guint64 unit = MAX(block->page_bytes, PAGE);
    self->map_bytes = (block->size_bytes + unit - 1) / unit * unit;
    if (!block->shared || block->fd < 0)
        return;
    void *map = mmap(NULL, self->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, block->fd,
                     (off_t)block->fd_offset);
    if (map != MAP_FAILED)
        self->map = map;
    self->by_file = self->map != NULL && unit == PAGE && block->size_bytes % PAGE == 0;
}

static gboolean find_image_block(StasisRewrite *rewrite, StasisRewriteBlock *self, GError **error)
{
    guint n = stasis_image_reader_get_n_blocks(rewrite->reader);
    guint64 size = 0;
    for (guint i = 0; i < n; i++) {
        const StasisImageBlock *image = stasis_image_reader_get_block(rewrite->reader, i);
        if (strcmp(image->name, self->block->name) != 0)
            continue;
        size = image->size_bytes;
        self->image_block = i;
    }
    if (size == self->block->size_bytes)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "RAM block %s has %" G_GUINT64_FORMAT " bytes in the machine and %" G_GUINT64_FORMAT
                " in the image: the machine has changed since; restore the image as a new VM",
                self->block->name, self->block->size_bytes, size);
    return FALSE;
}

static gboolean open_blocks(StasisRewrite *rewrite, GError **error)
{
    rewrite->n_blocks = rewrite->ram->blocks->len;
    rewrite->blocks = g_new0(StasisRewriteBlock, rewrite->n_blocks);
    for (guint i = 0; i < rewrite->n_blocks; i++) {
        StasisRewriteBlock *block = &rewrite->blocks[i];
        block->block = stasis_ram_block(rewrite->ram, i);
        if (!find_image_block(rewrite, block, error))
            return FALSE;
        block->n_pages = stasis_ram_block_pages(block->block);
        block->kept = g_new0(guint32, block->n_pages);
        map_block(block);
    }
    guint n = stasis_image_reader_get_n_blocks(rewrite->reader);
    if (n == rewrite->n_blocks)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "the machine has %u RAM blocks, the image %u: the machine has changed since; "
                "restore the image as a new VM",
                rewrite->n_blocks, n);
    return FALSE;
}

StasisRewrite *stasis_rewrite_new(const StasisRam *ram, StasisImageReader *reader,
                                  guint64 max_cache_bytes, GError **error)
{
    g_autoptr(StasisRewrite) rewrite = g_new0(StasisRewrite, 1);
    rewrite->ram = ram;
    rewrite->reader = reader;
    rewrite->slabs = g_ptr_array_new_with_free_func(free);
    rewrite->max_kept = MIN(max_cache_bytes / PAGE, G_MAXUINT32 - STASIS_KEPT_FIRST);
    rewrite->image_chunk = g_malloc(STASIS_REWRITE_CHUNK_PAGES * PAGE);
    rewrite->ram_chunk = g_malloc(STASIS_REWRITE_CHUNK_PAGES * PAGE);
    return open_blocks(rewrite, error) ? g_steal_pointer(&rewrite) : NULL;
}

void stasis_rewrite_free(StasisRewrite *rewrite)
{
    if (rewrite == NULL)
        return;
    if (rewrite->reading != NULL)
        stasis_rewrite_prefetch_end(rewrite, NULL, NULL);
    for (guint i = 0; i < rewrite->n_blocks; i++) {
        if (rewrite->blocks[i].map != NULL)
            munmap(rewrite->blocks[i].map, rewrite->blocks[i].map_bytes);
        g_free(rewrite->blocks[i].kept);
    }
    g_free(rewrite->blocks);
    g_ptr_array_unref(rewrite->slabs);
    g_free(rewrite->image_chunk);
    g_free(rewrite->ram_chunk);
    g_free(rewrite);
}

gboolean stasis_rewrite_is_tracked(const StasisRewrite *rewrite, const StasisDirty *dirty)
{
    for (guint i = 0; i < rewrite->n_blocks; i++)
        if (rewrite->blocks[i].map == NULL && stasis_bitmap_count(dirty->blocks[i]) > 0)
            return TRUE;
    return FALSE;
}

/* ---- writing ---- */

gboolean stasis_rewrite_write_pages(StasisRewrite *rewrite, const StasisRewriteBlock *self,
                                    guint64 first, guint64 n, const guint8 *data, GError **error)
{
    if (self->by_file && stasis_pwrite_all(self->block->fd, data, n * PAGE,
                                           (off_t)(self->block->fd_offset + first * PAGE)) == 0)
        return TRUE;
    if (self->map != NULL) {
        memcpy(self->map + first * PAGE, data, n * PAGE);
        return TRUE;
    }
    int r = stasis_ram_write(rewrite->ram, self->block, first * PAGE, data, n * PAGE);
    return r == 0 || stasis_set_errno(error, -r, "write RAM block %s", self->block->name);
}

static gboolean make_zero(StasisRewrite *rewrite, const StasisRewriteBlock *self, guint64 first,
                          guint64 n, GError **error)
{
    guint64 len = n * PAGE, same;
    if (stasis_ram_is_hole(rewrite->ram, self->block, first * PAGE, len, &same) && same >= len)
        return TRUE;
    if (n >= HOLE_PAGES && self->map != NULL && self->block->backing == STASIS_BACKING_MEMFD &&
        fallocate(self->block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)(self->block->fd_offset + first * PAGE), (off_t)len) == 0)
        return TRUE;
    for (guint64 i = 0; i < n; i++)
        if (!stasis_rewrite_write_pages(rewrite, self, first + i, 1, zero_page, error))
            return FALSE;
    return TRUE;
}

/* Write as much of [@first, +@n) as is of one kind; *ret_n: how much. */
static gboolean put_some(StasisRewrite *rewrite, const StasisRewriteBlock *self, guint64 first,
                         guint64 n, guint64 *ret_n, GError **error)
{
    guint32 kind = self->kept[first];
    *ret_n = 1;
    if (kind == STASIS_KEPT_ZERO) {
        while (*ret_n < n && self->kept[first + *ret_n] == STASIS_KEPT_ZERO)
            (*ret_n)++;
        return make_zero(rewrite, self, first, *ret_n, error);
    }
    if (kind != STASIS_KEPT_UNKNOWN) {
        const guint8 *data = stasis_rewrite_kept_run(rewrite, self, first, n, ret_n);
        return stasis_rewrite_write_pages(rewrite, self, first, *ret_n, data, error);
    }
    *ret_n = MIN(stasis_rewrite_unknown_run(self, first, first + n), STASIS_REWRITE_CHUNK_PAGES);
    return stasis_image_reader_read_pages(rewrite->reader, self->image_block, first, *ret_n,
                                          rewrite->image_chunk, error) &&
           stasis_rewrite_write_pages(rewrite, self, first, *ret_n, rewrite->image_chunk, error);
}

static gboolean put_block(StasisRewrite *rewrite, const StasisRewriteBlock *self,
                          const StasisBitmap *pages, guint64 *written, GError **error)
{
    guint64 first, n, at = 0;
    while (stasis_bitmap_next_run(pages, at, G_MAXUINT64, &first, &n)) {
        at = first + n;
        *written += n;
        for (guint64 page = first, some; page < at; page += some)
            if (!put_some(rewrite, self, page, at - page, &some, error))
                return FALSE;
    }
    return TRUE;
}

/* Only the pages of @pages that differ. */
static gboolean put_block_compared(StasisRewrite *rewrite, const StasisRewriteBlock *self,
                                   const StasisBitmap *pages, guint64 *written, GError **error)
{
    g_autoptr(StasisBitmap) differs = stasis_bitmap_new(self->n_pages);
    guint64 first, n, at = 0;
    while (stasis_bitmap_next_run(pages, at, STASIS_REWRITE_CHUNK_PAGES, &first, &n)) {
        at = first + n;
        if (!stasis_rewrite_compare_chunk(rewrite, self, first, n, differs, error))
            return FALSE;
    }
    return put_block(rewrite, self, differs, written, error);
}

/* ---- without reading ahead ---- */

void stasis_rewrite_set_direct(StasisRewrite *rewrite)
{
    rewrite->direct = TRUE;
}

gboolean stasis_rewrite_is_direct(const StasisRewrite *rewrite)
{
    return rewrite->direct;
}

/* What is zero is written at once, the rest becomes pieces. */
static gboolean plan_direct(StasisRewrite *rewrite, StasisRewriteBlock *self,
                            const StasisBitmap *pages, GArray *pieces, guint64 *written,
                            GError **error)
{
    guint64 first, n, run;
    gboolean zero;
    for (guint64 at = 0; stasis_bitmap_next_run(pages, at, G_MAXUINT64, &first, &n);) {
        if (!stasis_image_reader_locate(rewrite->reader, self->image_block, first, &run, &zero,
                                        error))
            return FALSE;
        n = MIN(n, zero ? run : MIN(run, STASIS_REWRITE_CHUNK_PAGES));
        if (zero && !make_zero(rewrite, self, first, n, error))
            return FALSE;
        StasisRewritePiece piece = { .block = self, .first = first, .n = n };
        if (!zero)
            g_array_append_val(pieces, piece);
        *written += n;
        at = first + n;
    }
    return TRUE;
}

static gboolean put_direct(StasisRewrite *rewrite, const StasisDirty *dirty, guint64 *ret_written,
                           GError **error)
{
    g_autoptr(GArray) pieces = g_array_new(FALSE, FALSE, sizeof(StasisRewritePiece));
    StasisRewriteReading reading = { .rewrite = rewrite, .pieces = pieces, .put = TRUE };
    guint64 written = 0;
    for (guint i = 0; i < rewrite->n_blocks; i++)
        if (!plan_direct(rewrite, &rewrite->blocks[i], dirty->blocks[i], pieces, &written, error))
            return FALSE;
    stasis_rewrite_read_begin(&reading);
    if (!stasis_rewrite_read_end(&reading, error))
        return FALSE;
    *ret_written = written;
    return TRUE;
}

gboolean stasis_rewrite_put(StasisRewrite *rewrite, const StasisDirty *dirty, gboolean compare,
                            guint64 *ret_written, GError **error)
{
    guint64 written = 0;
    if (rewrite->direct && !compare)
        return put_direct(rewrite, dirty, ret_written, error);
    for (guint i = 0; i < rewrite->n_blocks; i++) {
        const StasisRewriteBlock *block = &rewrite->blocks[i];
        if (!(compare ? put_block_compared : put_block)(rewrite, block, dirty->blocks[i], &written,
                                                        error))
            return FALSE;
    }
    *ret_written = written;
    return TRUE;
}
