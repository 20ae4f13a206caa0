/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest-physical layout: which RAM block shows at which address.
 *
 * `info mtree -f` has the ranges, but names memory regions, not blocks (a back end's region need
 * not be called like its block). So each range is resolved by address: `gpa2hva` of its first page
 * must fall into one of our blocks at the very offset that the view states, with room for the
 * whole range. The same comparison is the proof that our idea of a block's address is right.
 */
#include <stasis/error.h>
#include <string.h>

#include "vmm/ram-internal.h"

#define TRIES 3

void stasis_gpa_range_free(StasisGpaRange *range)
{
    if (range == NULL)
        return;
    g_free(range->block);
    g_free(range);
}

static const StasisRamBlock *block_at(const StasisRam *ram, guint64 hva)
{
    for (guint i = 0; i < ram->blocks->len; i++) {
        const StasisRamBlock *block = g_ptr_array_index(ram->blocks, i);
        if (hva >= block->hva && hva - block->hva < block->max_bytes)
            return block;
    }
    return NULL;
}

/* The block that @range shows; NULL with an error that says what disagrees. */
static const StasisRamBlock *resolve(StasisQmp *qmp, const StasisRam *ram,
                                     const StasisViewRange *range, GError **error)
{
    g_autofree char *command = g_strdup_printf("gpa2hva 0x%" G_GINT64_MODIFIER "x", range->gpa);
    g_autofree char *answer = stasis_qmp_human(qmp, command, error);
    if (answer == NULL)
        return NULL;
    guint64 hva = 0;
    if (!stasis_gpa2hva_parse(answer, &hva)) {
        g_autofree char *shown = g_strescape(g_strchomp(answer), NULL);
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED, "%s: QEMU answers \"%.200s\"",
                    command, shown);
        return NULL;
    }
    const StasisRamBlock *block = block_at(ram, hva);
    if (block == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "guest memory at 0x%" G_GINT64_MODIFIER
                    "x (\"%s\") is in no RAM block that QEMU saves; remove its device",
                    range->gpa, range->region);
        return NULL;
    }
    if (hva - block->hva != range->region_offset ||
        range->size_bytes > block->max_bytes - range->region_offset) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "RAM block \"%s\": found at 0x%" G_GINT64_MODIFIER
                    "x, but QEMU has guest address 0x%" G_GINT64_MODIFIER
                    "x of it at 0x%" G_GINT64_MODIFIER "x",
                    block->name, block->hva, range->gpa, hva);
        return NULL;
    }
    return block;
}

static void append(GPtrArray *layout, const StasisViewRange *view, const StasisRamBlock *block)
{
    StasisGpaRange *last = layout->len > 0 ? g_ptr_array_index(layout, layout->len - 1) : NULL;
    if (last != NULL && last->gpa + last->size_bytes == view->gpa && last->rom == view->rom &&
        last->offset + last->size_bytes == view->region_offset &&
        strcmp(last->block, block->name) == 0) {
        last->size_bytes += view->size_bytes;
        return;
    }
    StasisGpaRange *range = g_new0(StasisGpaRange, 1);
    *range = (StasisGpaRange){
        .gpa = view->gpa,
        .size_bytes = view->size_bytes,
        .block = g_strdup(block->name),
        .offset = view->region_offset,
        .rom = view->rom,
    };
    g_ptr_array_add(layout, range);
}

GPtrArray *stasis_gpa_layout_once(StasisQmp *qmp, const StasisRam *ram, gboolean *ret_raced,
                                  GError **error)
{
    *ret_raced = FALSE;
    g_autofree char *text = stasis_qmp_human(qmp, "info mtree -f", error);
    g_autoptr(GPtrArray) view = text != NULL ? stasis_gpa_view_parse(text, error) : NULL;
    if (view == NULL)
        return NULL;
    g_autoptr(GPtrArray) layout =
        g_ptr_array_new_with_free_func((GDestroyNotify)stasis_gpa_range_free);
    for (guint i = 0; i < view->len; i++) {
        const StasisViewRange *range = g_ptr_array_index(view, i);
        const StasisRamBlock *block = resolve(qmp, ram, range, error);
        *ret_raced = block == NULL;
        if (block == NULL)
            return NULL;
        append(layout, range, block);
    }
    return g_steal_pointer(&layout);
}

GPtrArray *stasis_gpa_layout(StasisQmp *qmp, const StasisRam *ram, GError **error)
{
    for (int try = 1;; try++) {
        g_autoptr(GError) local = NULL;
        gboolean raced;
        GPtrArray *layout = stasis_gpa_layout_once(qmp, ram, &raced, &local);
        if (layout != NULL)
            return layout;
        if (!raced || try == TRIES) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
    }
}
