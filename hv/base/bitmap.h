/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A dirty bitmap: one bit a page of one RAM block. Set, cleared and read by one thread at a time;
 * the _atomic calls by any number at once. No call but _new allocates.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct {
    guint64 n_pages;
    guint64 *words; /* ⌈n_pages / 64⌉; bits past n_pages are always 0 */
} StasisBitmap;

StasisBitmap *stasis_bitmap_new(guint64 n_pages);
/* The same, or NULL when there is not so much memory: for sizes that others say. */
StasisBitmap *stasis_bitmap_try_new(guint64 n_pages);
void stasis_bitmap_free(StasisBitmap *bitmap);

void stasis_bitmap_set_range(StasisBitmap *bitmap, guint64 first, guint64 n);
void stasis_bitmap_clear_range(StasisBitmap *bitmap, guint64 first, guint64 n);
void stasis_bitmap_clear(StasisBitmap *bitmap);
/* @bitmap |= @other; both of one length. */
void stasis_bitmap_or(StasisBitmap *bitmap, const StasisBitmap *other);
/* Clear what is set in @other. */
void stasis_bitmap_subtract(StasisBitmap *bitmap, const StasisBitmap *other);
void stasis_bitmap_copy(StasisBitmap *bitmap, const StasisBitmap *other);
guint64 stasis_bitmap_count(const StasisBitmap *bitmap);

static inline gboolean stasis_bitmap_test(const StasisBitmap *bitmap, guint64 page)
{
    return (bitmap->words[page / 64] >> (page % 64)) & 1;
}

/* Set bit @page; TRUE if it was clear before. Acquire-release. */
static inline gboolean stasis_bitmap_set_atomic(StasisBitmap *bitmap, guint64 page)
{
    guint64 bit = (guint64)1 << (page % 64);
    return !(__atomic_fetch_or(&bitmap->words[page / 64], bit, __ATOMIC_ACQ_REL) & bit);
}

/* Find the first run of set bits at or after @from: TRUE and [*ret_first, +*ret_n), the run cut at
 * @max_n pages; FALSE when there is none. */
gboolean stasis_bitmap_next_run(const StasisBitmap *bitmap, guint64 from, guint64 max_n,
                                guint64 *ret_first, guint64 *ret_n);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisBitmap, stasis_bitmap_free)

G_END_DECLS
