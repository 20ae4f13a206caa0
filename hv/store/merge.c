/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merging images of a chain, on paper: which records the merged image has, and what becomes of each
 * file of stored pages. Stored extents are never unpacked; most are not even moved, since an image
 * may have several data files and several images may share one by hard links. So that deleting the
 * oldest image of a chain costs what its child is large, not what the oldest is, and folding a
 * chain costs its indexes.
 *
 * A file is copied, as far as it is needed, when linking it would keep more dead bytes than live
 * ones on the disk, or when the image would have too many files. The smallest go then, down to half
 * of what there may be, so each byte is copied a few times at most in however long a chain.
 */
#include <string.h>
#include <sys/stat.h>

#include "store/internal.h"

#define KEPT_FILES (STASIS_MAX_DATA_FILES / 2)
/* A bit of memory is needed for each, whatever of them the image has: a small file may tell of any
 * number. */
#define MAX_PAGES ((guint64)1 << 34)

/* Until numbers are given, a record's three spare bytes say which source it is in. */
static void set_source(StasisIndexRecord *r, guint source)
{
    r->file = (guint8)source;
    r->reserved[0] = (guint8)(source >> 8);
    r->reserved[1] = (guint8)(source >> 16);
}

static guint get_source(const StasisIndexRecord *r)
{
    return r->file | (guint)r->reserved[0] << 8 | (guint)r->reserved[1] << 16;
}

StasisMerge *stasis_merge_new(const StasisManifest *newest)
{
    StasisMerge *merge = g_new0(StasisMerge, 1);
    merge->manifest = stasis_manifest_new();
    merge->manifest->format = MAX(newest->format, STASIS_FORMAT_REWRITTEN);
    memcpy(merge->manifest->seal_key, newest->seal_key, sizeof(newest->seal_key));
    for (guint i = 0; i < newest->blocks->len; i++) {
        const StasisImageBlock *block = stasis_manifest_block(newest, i);
        stasis_manifest_add_block(merge->manifest, block->name, block->size_bytes, block->disk,
                                  NULL);
    }
    merge->layers = g_ptr_array_new_with_free_func((GDestroyNotify)g_array_unref);
    merge->sources = g_array_new(FALSE, TRUE, sizeof(StasisSource));
    merge->moves = g_array_new(FALSE, TRUE, sizeof(StasisMove));
    return merge;
}

void stasis_merge_free(StasisMerge *merge)
{
    if (merge == NULL)
        return;
    stasis_manifest_free(merge->manifest);
    g_ptr_array_unref(merge->layers);
    g_array_unref(merge->sources);
    g_array_unref(merge->moves);
    if (merge->records != NULL)
        g_array_unref(merge->records);
    g_free(merge);
}

static StasisSource *source_at(const StasisMerge *merge, guint i)
{
    return &g_array_index(merge->sources, StasisSource, i);
}

static guint find_or_add_source(StasisMerge *merge, const struct stat *st, guint64 hole_bytes)
{
    for (guint i = 0; i < merge->sources->len; i++)
        if (source_at(merge, i)->dev == st->st_dev && source_at(merge, i)->ino == st->st_ino)
            return i;
    StasisSource source = { .dev = st->st_dev,
                            .ino = st->st_ino,
                            .n_links = st->st_nlink,
                            .size = (guint64)st->st_size,
                            .hole_bytes = hole_bytes,
                            .fate = STASIS_FATE_LINK };
    g_array_append_val(merge->sources, source);
    return merge->sources->len - 1;
}

static guint64 count_pages(const StasisManifest *manifest)
{
    guint64 n = 0;
    for (guint i = 0; i < manifest->blocks->len; i++)
        n += stasis_manifest_block(manifest, i)->n_pages;
    return n;
}

gboolean stasis_merge_add(StasisMerge *merge, const StasisLayer *layer, gboolean goes,
                          guint ret_sources[STASIS_MAX_DATA_FILES], GError **error)
{
    const StasisManifest *manifest = layer->manifest;
    if (count_pages(manifest) > MAX_PAGES)
        return stasis_corrupt(error, "image %s: of more than 64 TiB, too large to merge",
                              manifest->info->id);
    for (guint i = 0; i < manifest->n_data; i++) {
        struct stat st;
        if (fstat(layer->data_fds[i], &st) < 0)
            return stasis_corrupt(error, "image %s: %s: can't be looked at", manifest->info->id,
                                  stasis_data_file_name(i));
        ret_sources[i] = find_or_add_source(merge, &st, manifest->data[i].hole_bytes);
        source_at(merge, ret_sources[i])->n_going += goes;
    }
    guint64 n = 0;
    for (guint i = 0; i < manifest->blocks->len; i++)
        n += layer->index.blocks[i].n_records;
    if (n > G_MAXUINT32)
        return stasis_corrupt(error, "image %s: too many extents to merge", manifest->info->id);
    GArray *records = g_array_sized_new(FALSE, FALSE, sizeof(StasisIndexRecord), (guint)n);
    g_array_append_vals(records, layer->index.records, (guint)n);
    for (guint i = 0; i < records->len; i++) {
        StasisIndexRecord *r = &g_array_index(records, StasisIndexRecord, i);
        set_source(r, r->stored_as == STASIS_STORED_ZERO ? 0 : ret_sources[r->file]);
    }
    g_ptr_array_add(merge->layers, records);
    return TRUE;
}

/* ---- deciding ---- */

static gboolean resolve(StasisMerge *merge, GError **error)
{
    g_autoptr(GArray) added = g_array_new(FALSE, FALSE, sizeof(StasisIndexRecord));
    for (guint i = merge->layers->len; i > 0; i--) {
        const GArray *records = g_ptr_array_index(merge->layers, i - 1);
        g_array_append_vals(added, records->data, records->len);
        g_ptr_array_remove_index(merge->layers, i - 1);
    }
    merge->records = stasis_records_resolve(added, merge->manifest, NULL, error);
    return merge->records != NULL;
}

static gint compare_moves(gconstpointer a, gconstpointer b)
{
    const StasisMove *x = a, *y = b;
    if (x->source != y->source)
        return x->source < y->source ? -1 : 1;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->len < y->len ? -1 : x->len > y->len;
}

/* Every extent that is needed, once. */
static void find_extents(StasisMerge *merge)
{
    GArray *moves = merge->moves;
    for (guint i = 0; i < merge->records->len; i++) {
        const StasisIndexRecord *r = &g_array_index(merge->records, StasisIndexRecord, i);
        StasisMove move = { .source = get_source(r), .len = r->stored_len, .offset = r->offset };
        if (r->stored_as != STASIS_STORED_ZERO)
            g_array_append_val(moves, move);
    }
    g_array_sort(moves, compare_moves);
    guint n = 0;
    for (guint i = 0; i < moves->len; i++) {
        StasisMove *move = &g_array_index(moves, StasisMove, i);
        if (n == 0 || compare_moves(&g_array_index(moves, StasisMove, n - 1), move) != 0)
            g_array_index(moves, StasisMove, n++) = *move;
    }
    g_array_set_size(moves, n);
}

/* Extents of a hostile index may overlap: no byte counts twice. */
static void count_live(StasisMerge *merge)
{
    guint64 end = 0;
    for (guint i = 0; i < merge->moves->len; i++) {
        const StasisMove *move = &g_array_index(merge->moves, StasisMove, i);
        if (i == 0 || move->source != g_array_index(merge->moves, StasisMove, i - 1).source)
            end = 0;
        guint64 from = MAX(move->offset, end), to = move->offset + move->len;
        if (to > from)
            source_at(merge, move->source)->live_bytes += to - from;
        end = MAX(end, to);
    }
}

static gint compare_live(gconstpointer a, gconstpointer b)
{
    const StasisSource *x = *(StasisSource *const *)a, *y = *(StasisSource *const *)b;
    return x->live_bytes > y->live_bytes ? -1 : x->live_bytes < y->live_bytes;
}

static gboolean is_worth_linking(const StasisSource *source)
{
    guint64 on_disk = source->size - MIN(source->hole_bytes, source->size);
    return source->n_links > source->n_going || source->live_bytes >= on_disk / 2;
}

/* Largest first; numbers are given to those that are linked. */
static void choose_fates(StasisMerge *merge)
{
    g_autoptr(GPtrArray) linked = g_ptr_array_new();
    gboolean copies = FALSE;
    for (guint i = 0; i < merge->sources->len; i++) {
        StasisSource *source = source_at(merge, i);
        if (source->live_bytes == 0)
            source->fate = STASIS_FATE_DROP;
        else if (source->fate == STASIS_FATE_LINK && !is_worth_linking(source))
            source->fate = STASIS_FATE_COPY;
        copies |= source->fate == STASIS_FATE_COPY;
        if (source->fate == STASIS_FATE_LINK)
            g_ptr_array_add(linked, source);
    }
    g_ptr_array_sort(linked, compare_live);
    guint most = linked->len + copies > STASIS_MAX_DATA_FILES ? KEPT_FILES : linked->len;
    for (guint i = 0; i < linked->len; i++) {
        StasisSource *source = g_ptr_array_index(linked, i);
        source->number = i;
        if (i >= most)
            source->fate = STASIS_FATE_COPY;
    }
    copies |= most < linked->len;
    merge->has_new_file = copies || most == 0;
    merge->manifest->n_data = most + merge->has_new_file;
}

/* Keep the moves that are to be made, and give each its place in the new file. */
static void place_moves(StasisMerge *merge)
{
    guint n = 0;
    for (guint i = 0; i < merge->moves->len; i++) {
        StasisMove move = g_array_index(merge->moves, StasisMove, i);
        if (source_at(merge, move.source)->fate != STASIS_FATE_COPY)
            continue;
        move.to = merge->copied_bytes;
        merge->copied_bytes += move.len;
        g_array_index(merge->moves, StasisMove, n++) = move;
    }
    g_array_set_size(merge->moves, n);
}

static void fill_data_files(StasisMerge *merge)
{
    StasisManifest *manifest = merge->manifest;
    memset(manifest->data, 0, sizeof(manifest->data));
    for (guint i = 0; i < merge->sources->len; i++) {
        StasisSource *source = source_at(merge, i);
        guint64 dead = source->size - MIN(source->live_bytes, source->size);
        if (source->fate == STASIS_FATE_COPY)
            source->number = manifest->n_data - 1;
        else if (source->fate == STASIS_FATE_LINK)
            manifest->data[source->number] =
                (StasisDataFile){ source->size, dead, MIN(source->hole_bytes, dead) };
    }
    if (merge->has_new_file)
        manifest->data[manifest->n_data - 1] = (StasisDataFile){ merge->copied_bytes, 0, 0 };
}

static void renumber_records(StasisMerge *merge)
{
    for (guint i = 0; i < merge->records->len; i++) {
        StasisIndexRecord *r = &g_array_index(merge->records, StasisIndexRecord, i);
        if (r->stored_as == STASIS_STORED_ZERO) {
            set_source(r, 0);
            continue;
        }
        StasisMove key = { .source = get_source(r), .len = r->stored_len, .offset = r->offset };
        const StasisSource *source = source_at(merge, key.source);
        guint at;
        if (source->fate == STASIS_FATE_COPY &&
            g_array_binary_search(merge->moves, &key, compare_moves, &at))
            r->offset = g_array_index(merge->moves, StasisMove, at).to;
        set_source(r, source->number);
    }
}

gboolean stasis_merge_decide(StasisMerge *merge, gboolean full, GError **error)
{
    if (!resolve(merge, error))
        return FALSE;
    guint64 known = stasis_manifest_known_pages(merge->manifest);
    if (full && known != merge->manifest->n_pages)
        return stasis_corrupt(error,
                              "%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                              " pages are in no image of the chain",
                              merge->manifest->n_pages - known, merge->manifest->n_pages);
    find_extents(merge);
    count_live(merge);
    choose_fates(merge);
    place_moves(merge);
    fill_data_files(merge);
    renumber_records(merge);
    return TRUE;
}
