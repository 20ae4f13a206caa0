/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What of the VM's memory is not the image's: by comparing two images, by holes, or byte by byte.
 */
#include <stasis/error.h>
#include <string.h>

#include "base/io.h"
#include "engine/rollback/rewrite-internal.h"

#define PAGE STASIS_PAGE_BYTES
#define PROGRESS_BYTES (16u << 20)

gboolean stasis_rewrite_mark_differing(StasisRewrite *rewrite, StasisImageReader *other,
                                       StasisDirty *dirty)
{
    /* Those of disks stay NULL. */
    g_autofree StasisBitmap **maps = g_new0(
        StasisBitmap *, rewrite->n_blocks + stasis_image_reader_get_n_disks(rewrite->reader));
    for (guint i = 0; i < rewrite->n_blocks; i++)
        maps[rewrite->blocks[i].image_block] = dirty->blocks[i];
    return stasis_image_reader_mark_differing(rewrite->reader, other, maps);
}

/* Of [@first, @end), which has no memory. */
static gboolean mark_not_zero(StasisRewrite *rewrite, const StasisRewriteBlock *self, guint64 first,
                              guint64 end, StasisBitmap *pages, GError **error)
{
    for (guint64 page = first, run; page < end; page += run) {
        gboolean zero;
        if (!stasis_image_reader_locate(rewrite->reader, self->image_block, page, &run, &zero,
                                        error))
            return FALSE;
        run = MIN(run, end - page);
        if (!zero)
            stasis_bitmap_set_range(pages, page, run);
    }
    return TRUE;
}

gboolean stasis_rewrite_mark_discarded(StasisRewrite *rewrite, StasisDirty *dirty, GError **error)
{
    for (guint i = 0; i < rewrite->n_blocks; i++) {
        const StasisRewriteBlock *self = &rewrite->blocks[i];
        for (guint64 page = 0, n; page < self->n_pages; page += n) {
            guint64 same, offset = page * PAGE, left = self->block->size_bytes - offset;
            gboolean hole = stasis_ram_is_hole(rewrite->ram, self->block, offset, left, &same);
            /* What ends within a page is that page. */
            n = MIN((same + PAGE - 1) / PAGE, self->n_pages - page);
            if (hole && !mark_not_zero(rewrite, self, page, page + n, dirty->blocks[i], error))
                return FALSE;
        }
    }
    return TRUE;
}

gboolean stasis_rewrite_compare_chunk(StasisRewrite *rewrite, const StasisRewriteBlock *self,
                                      guint64 first, guint64 n, StasisBitmap *differs,
                                      GError **error)
{
    guint64 len = n * PAGE, same;
    guint64 n_zero;
    gboolean zero;
    if (!stasis_image_reader_locate(rewrite->reader, self->image_block, first, &n_zero, &zero,
                                    error))
        return FALSE;
    if (zero && n_zero >= n &&
        stasis_ram_is_hole(rewrite->ram, self->block, first * PAGE, len, &same) && same >= len)
        return TRUE;
    if (!stasis_image_reader_read_pages(rewrite->reader, self->image_block, first, n,
                                        rewrite->image_chunk, error))
        return FALSE;
    int r = stasis_ram_read(rewrite->ram, self->block, first * PAGE, rewrite->ram_chunk, len);
    if (r < 0)
        return stasis_set_errno(error, -r, "read RAM block %s", self->block->name);
    for (guint64 i = 0; i < n; i++)
        if (memcmp(rewrite->image_chunk + i * PAGE, rewrite->ram_chunk + i * PAGE, PAGE) != 0)
            stasis_bitmap_set_range(differs, first + i, 1);
    return TRUE;
}

gboolean stasis_rewrite_compare(StasisRewrite *rewrite, StasisDirty *dirty,
                                StasisProgressFunc progress, gpointer user_data,
                                GCancellable *cancellable, GError **error)
{
    StasisProgress now = { "compare", 0, rewrite->ram->total_bytes };
    for (guint i = 0; i < rewrite->n_blocks; i++) {
        const StasisRewriteBlock *block = &rewrite->blocks[i];
        for (guint64 page = 0, n; page < block->n_pages; page += n) {
            n = MIN(block->n_pages - page, STASIS_REWRITE_CHUNK_PAGES);
            if (cancellable != NULL && g_cancellable_is_cancelled(cancellable))
                return stasis_set_cancelled(error);
            if (!stasis_rewrite_compare_chunk(rewrite, block, page, n, dirty->blocks[i], error))
                return FALSE;
            now.done_bytes += n * PAGE;
            if (progress != NULL && now.done_bytes % PROGRESS_BYTES == 0)
                progress(&now, user_data);
        }
    }
    return TRUE;
}
