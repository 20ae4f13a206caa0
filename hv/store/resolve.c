/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * "The later one wins", made true at commit: the extents as they were added, which may overlap,
 * become index records that do not.
 *
 * The records are walked from the newest to the oldest with a bitmap of the pages that are still
 * open: what a record can still fill becomes its piece or pieces. Linear in pages and records,
 * and one bit of memory a page. Whoever adds far more records than there are pages drops in between
 * those that can fill nothing any more. A compressed extent can be superseded in part only: its
 * pieces then share the stored bytes and differ in how many of the pages they skip.
 */
#include <errno.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/io.h"
#include "store/internal.h"

/* The first open page in [@from, @end), or @end. */
static guint64 next_open(const StasisBitmap *open, guint64 from, guint64 end)
{
    while (from < end) {
        guint64 word = open->words[from / 64] >> (from % 64);
        if (word != 0)
            return MIN(from + (guint64)__builtin_ctzll(word), end);
        from = (from / 64 + 1) * 64;
    }
    return end;
}

/* The first page in [@from, @end) that is taken, or @end. */
static guint64 next_taken(const StasisBitmap *open, guint64 from, guint64 end)
{
    while (from < end) {
        guint64 word = ~open->words[from / 64] >> (from % 64);
        if (word != 0)
            return MIN(from + (guint64)__builtin_ctzll(word), end);
        from = (from / 64 + 1) * 64;
    }
    return end;
}

/* Append what @record can still fill; FALSE if that is nothing. */
static gboolean place(const StasisIndexRecord *record, StasisBitmap *open, GArray *pieces)
{
    guint64 end = record->first_page + record->n_pages;
    gboolean placed = FALSE;
    for (guint64 from = next_open(open, record->first_page, end); from < end;) {
        guint64 to = next_taken(open, from, end);
        StasisIndexRecord piece = *record;
        piece.first_page = from;
        piece.n_pages = to - from;
        if (record->stored_as != STASIS_STORED_ZERO)
            piece.skip_pages = (guint16)(record->skip_pages + (from - record->first_page));
        g_array_append_val(pieces, piece);
        stasis_bitmap_clear_range(open, from, to - from);
        placed = TRUE;
        from = next_open(open, to, end);
    }
    return placed;
}

static gint compare_records(gconstpointer a, gconstpointer b)
{
    const StasisIndexRecord *x = a, *y = b;
    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    return x->first_page < y->first_page ? -1 : x->first_page > y->first_page;
}

static gint compare_ranges(gconstpointer a, gconstpointer b)
{
    const StasisDeadRange *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Join neighbouring zero runs, in place, and count. */
static void join_zero_runs(GArray *pieces, StasisManifest *manifest)
{
    StasisIndexRecord *records = (StasisIndexRecord *)(void *)pieces->data;
    guint n = 0;
    for (guint i = 0; i < pieces->len; i++) {
        StasisIndexRecord *r = &records[i], *last = n > 0 ? &records[n - 1] : NULL;
        gboolean zero = r->stored_as == STASIS_STORED_ZERO;
        stasis_manifest_count(manifest, r->block, zero, r->n_pages);
        if (zero && last != NULL && last->stored_as == STASIS_STORED_ZERO &&
            last->block == r->block && last->first_page + last->n_pages == r->first_page)
            last->n_pages += r->n_pages;
        else
            records[n++] = *r;
    }
    g_array_set_size(pieces, n);
}

static void join_ranges(GArray *dead)
{
    g_array_sort(dead, compare_ranges);
    StasisDeadRange *ranges = (StasisDeadRange *)(void *)dead->data;
    guint n = 0;
    for (guint i = 0; i < dead->len; i++) {
        if (n > 0 && ranges[n - 1].offset + ranges[n - 1].len == ranges[i].offset)
            ranges[n - 1].len += ranges[i].len;
        else
            ranges[n++] = ranges[i];
    }
    g_array_set_size(dead, n);
}

/* All pages of all blocks. */
static GPtrArray *open_all(const StasisManifest *manifest, GError **error)
{
    g_autoptr(GPtrArray) open = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_bitmap_free);
    for (guint i = 0; i < manifest->blocks->len; i++) {
        guint64 n_pages = stasis_manifest_block(manifest, i)->n_pages;
        StasisBitmap *bitmap = stasis_bitmap_try_new(n_pages);
        if (bitmap == NULL) {
            stasis_set_errno(error, ENOMEM, "sort %" G_GUINT64_FORMAT " pages", n_pages);
            return NULL;
        }
        stasis_bitmap_set_range(bitmap, 0, n_pages);
        g_ptr_array_add(open, bitmap);
    }
    return g_steal_pointer(&open);
}

static void add_dead(GArray *dead, const StasisIndexRecord *record)
{
    StasisDeadRange range = { record->offset, record->stored_len };
    if (range.len > 0)
        g_array_append_val(dead, range);
}

GArray *stasis_records_compact(GArray *added, const StasisManifest *manifest, GError **error)
{
    g_autoptr(GPtrArray) open = open_all(manifest, error);
    if (open == NULL)
        return NULL;
    GArray *dead = g_array_new(FALSE, FALSE, sizeof(StasisDeadRange));
    g_autoptr(GArray) pieces = g_array_new(FALSE, FALSE, sizeof(StasisIndexRecord));
    StasisIndexRecord *records = (StasisIndexRecord *)(void *)added->data;
    guint kept = added->len;
    for (guint i = added->len; i > 0; i--) {
        const StasisIndexRecord *record = &records[i - 1];
        if (place(record, g_ptr_array_index(open, record->block), pieces))
            records[--kept] = *record;
        else
            add_dead(dead, record);
        g_array_set_size(pieces, 0);
    }
    g_array_remove_range(added, 0, kept);
    join_ranges(dead);
    return dead;
}

GArray *stasis_records_resolve(const GArray *added, StasisManifest *manifest, GArray **ret_dead,
                               GError **error)
{
    g_autoptr(GPtrArray) open = open_all(manifest, error);
    if (open == NULL)
        return NULL;
    GArray *pieces = g_array_sized_new(FALSE, FALSE, sizeof(StasisIndexRecord), added->len);
    g_autoptr(GArray) dead = g_array_new(FALSE, FALSE, sizeof(StasisDeadRange));
    guint64 dead_bytes = 0;
    for (guint i = added->len; i > 0; i--) {
        const StasisIndexRecord *record = &g_array_index(added, StasisIndexRecord, i - 1);
        if (place(record, g_ptr_array_index(open, record->block), pieces))
            continue;
        add_dead(dead, record);
        dead_bytes += record->stored_len;
    }
    g_array_sort(pieces, compare_records);
    manifest->info->data_pages = manifest->info->zero_pages = 0;
    manifest->info->disk_data_pages = manifest->info->disk_zero_pages = 0;
    join_zero_runs(pieces, manifest);
    if (ret_dead != NULL) {
        join_ranges(dead);
        manifest->data[0].dead_bytes = dead_bytes;
        *ret_dead = g_steal_pointer(&dead);
    }
    return pieces;
}
