/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which pages may differ between two images: those that an image holds on the way from either to
 * their nearest common ancestor. Every other page is read from that ancestor, or from one before
 * it, by both.
 *
 *     F ── P ── A        between A and B: what A, and what B and C hold;
 *          └─── C ── B   not what P or F hold
 *
 * An image is known by its ID: its content never changes, whatever of its data is moved between it
 * and its neighbours when one of them is deleted or a chain is folded.
 */
#include <string.h>

#include "store/internal.h"

static guint find_layer(const GPtrArray *layers, const char *id)
{
    for (guint i = 0; i < layers->len; i++) {
        const StasisLayer *layer = g_ptr_array_index(layers, i);
        if (strcmp(layer->manifest->info->id, id) == 0)
            return i;
    }
    return layers->len;
}

static void mark_layers(const GPtrArray *layers, guint n, StasisBitmap *const *maps)
{
    for (guint i = 0; i < n; i++) {
        const StasisLayer *layer = g_ptr_array_index(layers, i);
        for (guint b = 0; b < layer->manifest->blocks->len; b++) {
            const StasisIndexBlock *block = &layer->index.blocks[b];
            const StasisIndexRecord *records = layer->index.records + block->first_record;
            for (guint64 r = 0; maps[b] != NULL && r < block->n_records; r++)
                stasis_bitmap_set_range(maps[b], records[r].first_page, records[r].n_pages);
        }
    }
}

gboolean stasis_image_reader_mark_differing(StasisImageReader *a, StasisImageReader *b,
                                            StasisBitmap *const *maps)
{
    const GPtrArray *layers_a = stasis_image_reader_get_layers(a);
    const GPtrArray *layers_b = stasis_image_reader_get_layers(b);
    guint at_a = 0, at_b = layers_b->len;
    for (; at_a < layers_a->len && at_b == layers_b->len; at_a++) {
        const StasisLayer *layer = g_ptr_array_index(layers_a, at_a);
        at_b = find_layer(layers_b, layer->manifest->info->id);
    }
    if (at_b == layers_b->len)
        return FALSE;
    mark_layers(layers_a, at_a - 1, maps);
    mark_layers(layers_b, at_b, maps);
    return TRUE;
}
