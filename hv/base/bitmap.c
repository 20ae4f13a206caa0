/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/bitmap.h"

#include <string.h>

#include "base/words.h"

static guint64 n_words(const StasisBitmap *bitmap)
{
    return (bitmap->n_pages + 63) / 64;
}

StasisBitmap *stasis_bitmap_new(guint64 n_pages)
{
    StasisBitmap *bitmap = g_new0(StasisBitmap, 1);
    bitmap->n_pages = n_pages;
    bitmap->words = g_new0(guint64, MAX(n_words(bitmap), 1));
    return bitmap;
}

StasisBitmap *stasis_bitmap_try_new(guint64 n_pages)
{
    StasisBitmap bitmap = { .n_pages = n_pages };
    bitmap.words = g_try_new0(guint64, MAX(n_words(&bitmap), 1));
    return bitmap.words != NULL ? g_memdup2(&bitmap, sizeof bitmap) : NULL;
}

void stasis_bitmap_free(StasisBitmap *bitmap)
{
    if (bitmap == NULL)
        return;
    g_free(bitmap->words);
    g_free(bitmap);
}

/* The bits of word @w that lie in [first, first + n). */
static guint64 word_mask(guint64 w, guint64 first, guint64 n)
{
    guint64 lo = MAX(first, w * 64), hi = MIN(first + n, w * 64 + 64);
    guint64 width = hi - lo;
    guint64 ones = width == 64 ? ~(guint64)0 : ((guint64)1 << width) - 1;
    return ones << (lo % 64);
}

void stasis_bitmap_set_range(StasisBitmap *bitmap, guint64 first, guint64 n)
{
    g_assert(first <= bitmap->n_pages && n <= bitmap->n_pages - first);
    for (guint64 w = first / 64; n > 0 && w <= (first + n - 1) / 64; w++)
        bitmap->words[w] |= word_mask(w, first, n);
}

void stasis_bitmap_clear_range(StasisBitmap *bitmap, guint64 first, guint64 n)
{
    g_assert(first <= bitmap->n_pages && n <= bitmap->n_pages - first);
    for (guint64 w = first / 64; n > 0 && w <= (first + n - 1) / 64; w++)
        bitmap->words[w] &= ~word_mask(w, first, n);
}

void stasis_bitmap_clear(StasisBitmap *bitmap)
{
    memset(bitmap->words, 0, n_words(bitmap) * sizeof(guint64));
}

void stasis_bitmap_or(StasisBitmap *bitmap, const StasisBitmap *other)
{
    g_assert(bitmap->n_pages == other->n_pages);
    guint64 n = n_words(bitmap);
    for (guint64 w = 0; (w = words_next(other->words, w, n)) < n; w++)
        bitmap->words[w] |= other->words[w];
}

void stasis_bitmap_subtract(StasisBitmap *bitmap, const StasisBitmap *other)
{
    g_assert(bitmap->n_pages == other->n_pages);
    guint64 n = n_words(bitmap);
    for (guint64 w = 0; (w = words_next(bitmap->words, w, n)) < n; w++)
        bitmap->words[w] &= ~other->words[w];
}

void stasis_bitmap_copy(StasisBitmap *bitmap, const StasisBitmap *other)
{
    g_assert(bitmap->n_pages == other->n_pages);
    memcpy(bitmap->words, other->words, n_words(bitmap) * sizeof(guint64));
}

guint64 stasis_bitmap_count(const StasisBitmap *bitmap)
{
    guint64 count = 0, n = n_words(bitmap);
    for (guint64 w = 0; (w = words_next(bitmap->words, w, n)) < n; w++)
        count += (guint64)__builtin_popcountll(bitmap->words[w]);
    return count;
}

/* First page at or after @from whose bit is set, or n_pages. */
static guint64 find_set(const StasisBitmap *bitmap, guint64 from)
{
    if (from >= bitmap->n_pages)
        return bitmap->n_pages;
    guint64 w = from / 64, n = n_words(bitmap);
    guint64 word = bitmap->words[w] & (~(guint64)0 << (from % 64));
    if (word == 0) {
        w = words_next(bitmap->words, w + 1, n);
        if (w >= n)
            return bitmap->n_pages;
        word = bitmap->words[w];
    }
    return w * 64 + (guint64)__builtin_ctzll(word);
}

/* The same for a clear one. */
static guint64 find_clear(const StasisBitmap *bitmap, guint64 from)
{
    guint64 w = from / 64, word = ~bitmap->words[w] & (~(guint64)0 << (from % 64));
    while (word == 0) {
        if (++w >= n_words(bitmap))
            return bitmap->n_pages;
        word = ~bitmap->words[w];
    }
    return MIN(w * 64 + (guint64)__builtin_ctzll(word), bitmap->n_pages);
}

gboolean stasis_bitmap_next_run(const StasisBitmap *bitmap, guint64 from, guint64 max_n,
                                guint64 *ret_first, guint64 *ret_n)
{
    guint64 first = find_set(bitmap, from);
    if (first == bitmap->n_pages)
        return FALSE;
    *ret_first = first;
    *ret_n = MIN(find_clear(bitmap, first) - first, max_n);
    return TRUE;
}
