/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/disks/disk-rewrite.h"

#include <stasis/error.h>
#include <string.h>

#include "base/fault.h"
#include "disk/access.h"
#include "disk/bitmaps.h"
#include "disk/internal.h"
#include "disk/nbd-load.h"
#include "engine/disks/disk-swap.h"
#include "engine/disks/vm-disks.h"

#define PAGE STASIS_PAGE_BYTES
/* Read, compared and written at once. */
#define CHUNK_PAGES 256u

typedef struct {
    const StasisDisk *disk;
    guint block;           /* of the image */
    StasisBitmap *differs; /* by the chains */
} Item;

struct _StasisDiskRewrite {
    StasisSession *session;
    StasisImageReader *reader;
    GPtrArray *notes;     /* of StasisDiskNote, of an image that refers to disks; else NULL */
    StasisDiskSwap *swap; /* does all of it then */
    GPtrArray *disks;     /* of StasisDisk, all of the VM's */
    GArray *items;        /* of Item */
    char *base;           /* image since which the bitmaps count; NULL: compare */
    guint8 *image_chunk, *disk_chunk;
};

static void item_clear(gpointer data)
{
    stasis_bitmap_free(((Item *)data)->differs);
}

static Item *item_at(const StasisDiskRewrite *rewrite, guint i)
{
    return &g_array_index(rewrite->items, Item, i);
}

static gboolean changed(const char *name, const char *what, GError **error)
{
    g_autofree char *shown = g_strescape(name, NULL);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "disk %.200s %s: the machine has changed since; restore the image as a new VM",
                shown, what);
    return FALSE;
}

static gboolean match_disks(StasisDiskRewrite *rewrite, GError **error)
{
    StasisImageReader *reader = rewrite->reader;
    guint first = stasis_image_reader_get_n_blocks(reader);
    for (guint i = 0; i < rewrite->disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(rewrite->disks, i);
        if (!disk->writable)
            continue;
        int block = stasis_image_reader_find_disk(reader, disk->name);
        if (block < 0)
            return changed(disk->name, "of the machine is not in the image", error);
        const StasisImageBlock *content = stasis_image_reader_get_block(reader, (guint)block);
        if (content->size_bytes != disk->size_bytes)
            return changed(disk->name, "has another size in the image", error);
        Item item = { disk, (guint)block, stasis_bitmap_new(content->n_pages) };
        g_array_append_val(rewrite->items, item);
    }
    for (guint b = first; b < first + stasis_image_reader_get_n_disks(reader); b++) {
        gboolean found = FALSE;
        for (guint i = 0; i < rewrite->items->len; i++)
            found |= item_at(rewrite, i)->block == b;
        if (!found)
            return changed(stasis_image_reader_get_block(reader, b)->name,
                           "of the image is not in the machine", error);
    }
    return TRUE;
}

StasisDiskRewrite *stasis_disk_rewrite_new_none(StasisImageReader *reader)
{
    StasisDiskRewrite *rewrite = g_new0(StasisDiskRewrite, 1);
    rewrite->reader = reader;
    rewrite->items = g_array_new(FALSE, TRUE, sizeof(Item));
    g_array_set_clear_func(rewrite->items, item_clear);
    return rewrite;
}

StasisDiskRewrite *stasis_disk_rewrite_new(StasisSession *session, StasisImageReader *reader,
                                           GError **error)
{
    g_autoptr(StasisDiskRewrite) rewrite = stasis_disk_rewrite_new_none(reader);
    rewrite->session = session;
    if (stasis_image_reader_get_info(reader)->disks_refer) {
        rewrite->notes = stasis_vm_disks_read_notes(reader, error);
        if (rewrite->notes != NULL)
            rewrite->swap = stasis_disk_swap_new(session, rewrite->notes, error);
        return rewrite->swap != NULL ? g_steal_pointer(&rewrite) : NULL;
    }
    if (stasis_image_reader_get_n_disks(reader) == 0)
        return g_steal_pointer(&rewrite);
    if (!stasis_libnbd_load(error)) /* not in the stop */
        return NULL;
    rewrite->disks = stasis_disks_list(session->qmp, error);
    if (rewrite->disks == NULL || !stasis_disks_check(session->qmp, rewrite->disks, error) ||
        !match_disks(rewrite, error))
        return NULL;
    rewrite->image_chunk = g_malloc(CHUNK_PAGES * PAGE);
    rewrite->disk_chunk = g_malloc(CHUNK_PAGES * PAGE);
    return g_steal_pointer(&rewrite);
}

void stasis_disk_rewrite_free(StasisDiskRewrite *rewrite)
{
    if (rewrite == NULL)
        return;
    g_clear_pointer(&rewrite->swap, stasis_disk_swap_free);
    g_clear_pointer(&rewrite->notes, g_ptr_array_unref);
    g_array_unref(rewrite->items);
    g_clear_pointer(&rewrite->disks, g_ptr_array_unref);
    g_free(rewrite->base);
    g_free(rewrite->image_chunk);
    g_free(rewrite->disk_chunk);
    g_free(rewrite);
}

gboolean stasis_disk_rewrite_has_any(const StasisDiskRewrite *rewrite)
{
    return rewrite->items->len > 0 || rewrite->swap != NULL;
}

void stasis_disk_rewrite_set_base(StasisDiskRewrite *rewrite, const char *base,
                                  StasisImageReader *reader)
{
    g_autofree StasisBitmap **maps =
        g_new0(StasisBitmap *, stasis_image_reader_get_n_blocks(rewrite->reader) +
                                   stasis_image_reader_get_n_disks(rewrite->reader));
    for (guint i = 0; i < rewrite->items->len; i++)
        maps[item_at(rewrite, i)->block] = item_at(rewrite, i)->differs;
    if (stasis_image_reader_mark_differing(rewrite->reader, reader, maps)) {
        g_free(rewrite->base);
        rewrite->base = g_strdup(base);
    }
}

/* ---- writing ---- */

/* One disk on its way. */
typedef struct {
    StasisDiskRewrite *rewrite;
    const Item *item;
    StasisNbd *nbd;
    StasisBitmap *zero; /* reads as zero */
    gboolean compare;
    guint64 *written;
} Put;

static guint64 bytes_of(const Put *put, guint64 first, guint64 n)
{
    return MIN(n * PAGE, put->item->disk->size_bytes - first * PAGE);
}

static gboolean is_zero(const StasisBitmap *zero, guint64 first, guint64 n)
{
    guint64 at, len;
    /* The first run of what is not zero would begin where this one ends. */
    return stasis_bitmap_next_run(zero, first, n, &at, &len) && at == first && len == n;
}

static gboolean put_data(const Put *put, guint64 first, guint64 n, GError **error)
{
    StasisDiskRewrite *rewrite = put->rewrite;
    guint64 len = bytes_of(put, first, n);
    if (!stasis_image_reader_read_pages(rewrite->reader, put->item->block, first, n,
                                        rewrite->image_chunk, error))
        return FALSE;
    if (put->compare) {
        if (!stasis_nbd_read(put->nbd, first * PAGE, rewrite->disk_chunk, len, error))
            return FALSE;
        if (memcmp(rewrite->image_chunk, rewrite->disk_chunk, len) == 0)
            return TRUE;
    }
    *put->written += n;
    return stasis_nbd_write(put->nbd, first * PAGE, rewrite->image_chunk, len, error);
}

static gboolean put_run(const Put *put, guint64 first, guint64 n, GError **error)
{
    for (guint64 end = first + n; first < end; first += n) {
        gboolean zero;
        if (!stasis_image_reader_locate(put->rewrite->reader, put->item->block, first, &n, &zero,
                                        error))
            return FALSE;
        n = MIN(n, end - first);
        if (!zero) {
            n = MIN(n, CHUNK_PAGES);
            if (!put_data(put, first, n, error))
                return FALSE;
        } else if (!is_zero(put->zero, first, n)) {
            *put->written += n;
            if (!stasis_nbd_zero(put->nbd, first * PAGE, bytes_of(put, first, n), error))
                return FALSE;
        }
    }
    return TRUE;
}

static gboolean put_all(Put *put, const StasisBitmap *needed, GError **error)
{
    guint64 first, n;
    for (guint64 at = 0; stasis_bitmap_next_run(needed, at, G_MAXUINT64, &first, &n);
         at = first + n)
        if (!put_run(put, first, n, error))
            return FALSE;
    return stasis_nbd_flush(put->nbd, error);
}

static gboolean put_disk(StasisDiskRewrite *rewrite, guint number, StasisNbdServer *server,
                         gboolean has_map, guint64 *written, GError **error)
{
    const Item *item = item_at(rewrite, number);
    g_autoptr(StasisBitmap) needed = stasis_bitmap_new(item->differs->n_pages);
    g_autoptr(StasisBitmap) zero = stasis_bitmap_new(item->differs->n_pages);
    g_autoptr(StasisDiskAccess) access = stasis_disk_access_new(
        rewrite->session->qmp, server, item->disk, number, has_map ? rewrite->base : NULL, error);
    if (access == NULL || !stasis_fault(STASIS_FAULT_ROLLBACK_DISK, error))
        return FALSE;
    Put put = { .rewrite = rewrite,
                .item = item,
                .nbd = stasis_disk_access_get_nbd(access),
                .zero = zero,
                .compare = !has_map,
                .written = written };
    if (!stasis_nbd_map(put.nbd, needed, zero, error))
        return FALSE;
    stasis_bitmap_or(needed, item->differs);
    return put_all(&put, needed, error) && stasis_disk_access_end(access, error);
}

gboolean stasis_disk_rewrite_put(StasisDiskRewrite *rewrite, guint64 *ret_pages, GError **error)
{
    StasisSession *session = rewrite->session;
    guint64 written = 0;
    if (rewrite->swap != NULL)
        return stasis_disk_swap_put(rewrite->swap, error);
    if (rewrite->items->len == 0)
        return TRUE;
    g_autofree char *dir = stasis_vm_dir(session->record->name, error);
    g_autoptr(StasisBitmaps) bitmaps =
        dir != NULL ? stasis_bitmaps_list(session->qmp, error) : NULL;
    g_autoptr(StasisNbdServer) server =
        bitmaps != NULL ? stasis_nbd_server_new(session->qmp, session->record->pid, dir, error)
                        : NULL;
    if (server == NULL)
        return FALSE;
    for (guint i = 0; i < rewrite->items->len; i++) {
        const StasisDisk *disk = item_at(rewrite, i)->disk;
        gboolean has_map =
            rewrite->base != NULL && stasis_bitmaps_has(bitmaps, disk->node, rewrite->base);
        if (put_disk(rewrite, i, server, has_map, &written, error))
            continue;
        g_prefix_error(error, "disk %s: ", disk->name);
        return FALSE;
    }
    *ret_pages = written;
    return TRUE;
}

gboolean stasis_disk_rewrite_settle(StasisDiskRewrite *rewrite, gboolean tracked, GError **error)
{
    if (rewrite->swap != NULL)
        return stasis_disk_swap_settle(rewrite->swap, error);
    if (rewrite->items->len == 0)
        return TRUE;
    StasisQmp *qmp = rewrite->session->qmp;
    const char *id = stasis_image_reader_get_info(rewrite->reader)->id;
    g_autofree char *name = stasis_bitmap_name(id);
    g_autoptr(StasisBitmaps) bitmaps = stasis_bitmaps_list(qmp, error);
    if (bitmaps == NULL || !stasis_bitmaps_sweep(bitmaps, qmp, NULL, error))
        return FALSE;
    g_clear_pointer(&rewrite->base, g_free);
    JsonArray *actions = json_array_new();
    for (guint i = 0; i < rewrite->items->len; i++) {
        stasis_bitmap_clear(item_at(rewrite, i)->differs);
        stasis_bitmap_add(actions, item_at(rewrite, i)->disk->node, name);
    }
    JsonObject *args = json_object_new();
    json_object_set_array_member(args, "actions", actions);
    if (!tracked) {
        json_object_unref(args);
        return TRUE;
    }
    rewrite->base = g_strdup(id);
    return stasis_disk_run(qmp, "transaction", args, error);
}
