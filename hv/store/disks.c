/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an image holds of each of its disks. */
#include "store/internal.h"

void stasis_disk_info_free(StasisDiskInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->name);
    g_free(info);
}

/* Pages of one extent may be in several records: neighbours, which are counted once. */
static void count_records(const StasisIndex *index, guint block, StasisDiskInfo *info)
{
    const StasisIndexBlock *table = &index->blocks[block];
    const StasisIndexRecord *records = index->records + table->first_record;
    for (guint64 i = 0; i < table->n_records; i++) {
        const StasisIndexRecord *r = &records[i], *last = i > 0 ? &records[i - 1] : NULL;
        *(r->stored_as == STASIS_STORED_ZERO ? &info->zero_pages : &info->data_pages) += r->n_pages;
        if (last == NULL || last->offset != r->offset || last->file != r->file)
            info->stored_bytes += r->stored_len;
    }
}

GPtrArray *stasis_store_get_disks(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisLayer) layer = stasis_layer_open(store, id, error);
    if (layer == NULL)
        return NULL;
    GPtrArray *disks = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_disk_info_free);
    for (guint i = layer->manifest->n_ram; i < layer->manifest->blocks->len; i++) {
        const StasisImageBlock *block = stasis_manifest_block(layer->manifest, i);
        StasisDiskInfo *info = g_new0(StasisDiskInfo, 1);
        info->name = g_strdup(block->name);
        info->size_bytes = block->size_bytes;
        count_records(&layer->index, i, info);
        g_ptr_array_add(disks, info);
    }
    return disks;
}
