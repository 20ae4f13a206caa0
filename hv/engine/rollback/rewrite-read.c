/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages of the image, read ahead by all CPUs and kept. They lie in slabs, of one huge page each
 * where there are such: memory that was never used faults as well; a block has one number for each
 * page that says where.
 */
#include <stasis/error.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/rollback/rewrite-internal.h"

#define PAGE STASIS_PAGE_BYTES
#define SLAB_PAGES 512u
#define SLAB_BYTES ((gsize)SLAB_PAGES * PAGE)
/* To start a thread takes as long as to read so many. */
#define PIECES_FOR_HELPER 16u

static guint8 *kept_page(const StasisRewrite *rewrite, guint32 number)
{
    guint8 *slab = g_ptr_array_index(rewrite->slabs, (number - STASIS_KEPT_FIRST) / SLAB_PAGES);
    return slab + (gsize)((number - STASIS_KEPT_FIRST) % SLAB_PAGES) * PAGE;
}

const guint8 *stasis_rewrite_kept_run(const StasisRewrite *rewrite, const StasisRewriteBlock *self,
                                      guint64 first, guint64 n, guint64 *ret_n)
{
    guint64 number = self->kept[first] - STASIS_KEPT_FIRST, most = SLAB_PAGES - number % SLAB_PAGES;
    guint64 len = 1;
    while (len < MIN(n, most) && self->kept[first + len] == self->kept[first] + len)
        len++;
    *ret_n = len;
    return kept_page(rewrite, self->kept[first]);
}

static guint8 *new_slab(void)
{
    guint8 *slab = aligned_alloc(SLAB_BYTES, SLAB_BYTES);
    if (slab == NULL)
        g_error("no memory for the pages of a rollback");
    madvise(slab, SLAB_BYTES, MADV_HUGEPAGE);
    return slab;
}

/* Room for up to *@n pages from @first on, side by side, at most to a slab's end. */
static guint8 *make_room(StasisRewrite *rewrite, StasisRewriteBlock *self, guint64 first,
                         guint64 *n)
{
    if (rewrite->n_kept == rewrite->max_kept)
        return NULL;
    if (rewrite->n_kept % SLAB_PAGES == 0)
        g_ptr_array_add(rewrite->slabs, new_slab());
    *n = MIN(*n, SLAB_PAGES - rewrite->n_kept % SLAB_PAGES);
    *n = MIN(*n, rewrite->max_kept - rewrite->n_kept);
    guint32 number = (guint32)(STASIS_KEPT_FIRST + rewrite->n_kept);
    for (guint64 i = 0; i < *n; i++)
        self->kept[first + i] = number + (guint32)i;
    rewrite->n_kept += *n;
    return kept_page(rewrite, number);
}

/* Of [@first, +@n), none of which is kept, a piece; *ret_n: how much. */
static gboolean plan_some(StasisRewrite *rewrite, StasisRewriteBlock *self, guint64 first,
                          guint64 n, GArray *pieces, guint64 *ret_n, GError **error)
{
    guint64 run;
    gboolean zero;
    if (!stasis_image_reader_locate(rewrite->reader, self->image_block, first, &run, &zero, error))
        return FALSE;
    *ret_n = MIN(run, zero ? n : MIN(n, STASIS_REWRITE_CHUNK_PAGES));
    if (zero) {
        for (guint64 i = 0; i < *ret_n; i++)
            self->kept[first + i] = STASIS_KEPT_ZERO;
        return TRUE;
    }
    StasisRewritePiece piece = { .block = self, .first = first };
    piece.to = make_room(rewrite, self, first, ret_n);
    piece.n = *ret_n;
    g_array_append_val(pieces, piece);
    rewrite->n_read += *ret_n;
    return TRUE;
}

/* The first run in [@first, @end) of pages that are not kept, at most to @end. */
static guint64 skip_kept(const StasisRewriteBlock *self, guint64 first, guint64 end)
{
    while (first < end && self->kept[first] != STASIS_KEPT_UNKNOWN)
        first++;
    return first;
}

guint64 stasis_rewrite_unknown_run(const StasisRewriteBlock *self, guint64 first, guint64 end)
{
    guint64 at = first;
    while (at < end && self->kept[at] == STASIS_KEPT_UNKNOWN)
        at++;
    return at - first;
}

static gboolean plan_block(StasisRewrite *rewrite, StasisRewriteBlock *self,
                           const StasisBitmap *pages, GArray *pieces, GError **error)
{
    guint64 first, n, at = 0;
    while (stasis_bitmap_next_run(pages, at, G_MAXUINT64, &first, &n)) {
        at = first + n;
        for (guint64 page = skip_kept(self, first, at), some; page < at;
             page = skip_kept(self, page + some, at))
            if (!plan_some(rewrite, self, page, stasis_rewrite_unknown_run(self, page, at), pieces,
                           &some, error))
                return FALSE;
    }
    return TRUE;
}

/* A mapping that it goes to is made ready, too: to fault page by page takes as long as to copy. */
static gboolean read_piece(const StasisRewrite *rewrite, const StasisRewritePiece *piece,
                           guint8 *spare, GError **error)
{
    StasisRewriteBlock *self = piece->block;
    if (self->map != NULL && !self->by_file)
        madvise(self->map + piece->first * PAGE, piece->n * PAGE, MADV_POPULATE_WRITE);
    return stasis_image_reader_read_pages(rewrite->reader, self->image_block, piece->first,
                                          piece->n, piece->to != NULL ? piece->to : spare, error);
}

static gboolean put_piece(StasisRewrite *rewrite, const StasisRewritePiece *piece, guint8 *spare,
                          GError **error)
{
    return read_piece(rewrite, piece, spare, error) &&
           stasis_rewrite_write_pages(rewrite, piece->block, piece->first, piece->n, spare, error);
}

static gpointer read_pieces(gpointer data)
{
    StasisRewriteReading *reading = data;
    g_autofree guint8 *spare = g_malloc(STASIS_REWRITE_CHUNK_PAGES * PAGE);
    for (;;) {
        guint i = (guint)g_atomic_int_add(&reading->next, 1);
        if (i >= reading->pieces->len || g_atomic_pointer_get(&reading->failed) != NULL)
            return NULL;
        GError *local = NULL;
        const StasisRewritePiece *piece = &g_array_index(reading->pieces, StasisRewritePiece, i);
        gboolean ok = reading->put ? put_piece(reading->rewrite, piece, spare, &local)
                                   : read_piece(reading->rewrite, piece, spare, &local);
        if (!ok && !g_atomic_pointer_compare_and_exchange(&reading->failed, NULL, local))
            g_error_free(local);
    }
}

/* What was planned and not read is not kept. */
static void forget(const GArray *pieces)
{
    for (guint i = 0; i < pieces->len; i++) {
        const StasisRewritePiece *piece = &g_array_index(pieces, StasisRewritePiece, i);
        for (guint64 k = 0; k < piece->n; k++)
            piece->block->kept[piece->first + k] = STASIS_KEPT_UNKNOWN;
    }
}

static void reading_free(StasisRewriteReading *reading)
{
    g_array_unref(reading->pieces);
    g_free(reading);
}

/* With all CPUs: somebody waits for it. */
void stasis_rewrite_read_begin(StasisRewriteReading *reading)
{
    guint n = MIN(g_get_num_processors() - 1, STASIS_REWRITE_MAX_HELPERS);
    reading->n_helpers = MIN(reading->pieces->len / PIECES_FOR_HELPER, n);
    for (guint i = 0; i < reading->n_helpers; i++) {
        reading->helpers[i] = g_thread_try_new("stasis-read", read_pieces, reading, NULL);
        /* There may be no more threads: who waits reads the rest himself. */
        if (reading->helpers[i] == NULL)
            reading->n_helpers = i;
    }
}

gboolean stasis_rewrite_read_end(StasisRewriteReading *reading, GError **error)
{
    read_pieces(reading);
    for (guint i = 0; i < reading->n_helpers; i++)
        g_thread_join(reading->helpers[i]);
    if (reading->failed == NULL)
        return TRUE;
    g_propagate_error(error, reading->failed);
    return FALSE;
}

gboolean stasis_rewrite_prefetch_begin(StasisRewrite *rewrite, const StasisDirty *dirty,
                                       GError **error)
{
    StasisRewriteReading *reading = g_new0(StasisRewriteReading, 1);
    *reading =
        (StasisRewriteReading){ .rewrite = rewrite,
                                .pieces = g_array_new(FALSE, FALSE, sizeof(StasisRewritePiece)),
                                .n_read_before = rewrite->n_read };
    for (guint i = 0; !rewrite->direct && i < rewrite->n_blocks; i++) {
        if (plan_block(rewrite, &rewrite->blocks[i], dirty->blocks[i], reading->pieces, error))
            continue;
        forget(reading->pieces);
        reading_free(reading);
        return FALSE;
    }
    stasis_rewrite_read_begin(reading);
    rewrite->reading = reading;
    return TRUE;
}

gboolean stasis_rewrite_prefetch_end(StasisRewrite *rewrite, guint64 *ret_read, GError **error)
{
    StasisRewriteReading *reading = g_steal_pointer(&rewrite->reading);
    gboolean ok = stasis_rewrite_read_end(reading, error);
    if (!ok) {
        forget(reading->pieces);
    } else if (ret_read != NULL) {
        *ret_read = rewrite->n_read - reading->n_read_before;
    }
    reading_free(reading);
    return ok;
}

gboolean stasis_rewrite_is_prefetching(const StasisRewrite *rewrite)
{
    return rewrite->reading != NULL;
}

gboolean stasis_rewrite_prefetch(StasisRewrite *rewrite, const StasisDirty *dirty,
                                 guint64 *ret_read, GError **error)
{
    return stasis_rewrite_prefetch_begin(rewrite, dirty, error) &&
           stasis_rewrite_prefetch_end(rewrite, ret_read, error);
}
