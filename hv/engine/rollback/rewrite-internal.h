/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of rewrite.h share: rewrite.c (blocks, writing), rewrite-differs.c,
 * rewrite-read.c. */
#pragma once

#include "engine/rollback/rewrite.h"

G_BEGIN_DECLS

#define STASIS_REWRITE_CHUNK_PAGES 256u
#define STASIS_REWRITE_MAX_HELPERS 3u

/* Where a page of the image is: STASIS_KEPT_FIRST and above are numbers of pages in the slabs. */
enum { STASIS_KEPT_UNKNOWN, STASIS_KEPT_ZERO, STASIS_KEPT_FIRST };

typedef struct {
    const StasisRamBlock *block;
    guint image_block;
    guint64 n_pages;
    guint8 *map; /* ours, writable; NULL for a private block */
    gsize map_bytes;
    gboolean by_file; /* map is not needed for writing */
    guint32 *kept;    /* of each page, where it is */
} StasisRewriteBlock;

/* To be read, into where it is kept; NULL: there is no room, it is only checked. */
typedef struct {
    StasisRewriteBlock *block;
    guint64 first, n;
    guint8 *to;
} StasisRewritePiece;

/* What several threads take pieces from. */
typedef struct {
    StasisRewrite *rewrite;
    GArray *pieces; /* of StasisRewritePiece */
    gint next;      /* atomic */
    GError *failed; /* atomic: the first one's */
    guint64 n_read_before;
    gboolean put; /* each is written where it belongs, and not kept */
    guint n_helpers;
    GThread *helpers[STASIS_REWRITE_MAX_HELPERS];
} StasisRewriteReading;

struct _StasisRewrite {
    const StasisRam *ram;
    StasisImageReader *reader;
    guint n_blocks;
    StasisRewriteBlock *blocks;
    GPtrArray *slabs; /* what is kept */
    guint64 n_kept, max_kept;
    guint64 n_read;                  /* pages that were prefetched, zero pages left out */
    guint8 *image_chunk, *ram_chunk; /* STASIS_REWRITE_CHUNK_PAGES each */
    StasisRewriteReading *reading;   /* under way, or NULL */
    gboolean direct;
};

/* rewrite.c */
gboolean stasis_rewrite_write_pages(StasisRewrite *rewrite, const StasisRewriteBlock *block,
                                    guint64 first, guint64 n, const guint8 *data, GError **error);

/* rewrite-differs.c. Compare [@first, +@n), at most a chunk; bits of what differs go into @differs.
 */
gboolean stasis_rewrite_compare_chunk(StasisRewrite *rewrite, const StasisRewriteBlock *block,
                                      guint64 first, guint64 n, StasisBitmap *differs,
                                      GError **error);

/* rewrite-read.c. Of [@first, @end), how many from @first on are not kept. */
guint64 stasis_rewrite_unknown_run(const StasisRewriteBlock *block, guint64 first, guint64 end);
/* Of [@first, +@n), the first of which is kept, what lies side by side there as well; it, and how
 * much that is. */
const guint8 *stasis_rewrite_kept_run(const StasisRewrite *rewrite, const StasisRewriteBlock *block,
                                      guint64 first, guint64 n, guint64 *ret_n);
/* Threads begin to read @reading's pieces; the caller helps, and waits for all. */
void stasis_rewrite_read_begin(StasisRewriteReading *reading);
gboolean stasis_rewrite_read_end(StasisRewriteReading *reading, GError **error);

G_END_DECLS
