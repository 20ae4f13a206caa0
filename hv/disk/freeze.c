/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/freeze.h"

#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "disk/internal.h"

/* A hang limit, not an expectation. */
#define STOP_TIMEOUT_MS 30000

typedef struct {
    const StasisDisk *disk;
    char *path, *node;
    char *line; /* the device gets the node */
} Item;

struct _StasisDiskFreeze {
    StasisDiskTaking taking;
    StasisQmp *qmp;
    GArray *items; /* of Item: those whose files were begun */
    gboolean kept;
};

static void item_clear(gpointer data)
{
    Item *item = data;
    g_free(item->path);
    g_free(item->node);
    g_free(item->line);
}

static Item *item_at(const StasisDiskFreeze *freeze, guint i)
{
    return &g_array_index(freeze->items, Item, i);
}

/* ---- stopped ---- */

static gboolean take(StasisDiskTaking *taking, guint64 deadline_us, GError **error)
{
    StasisDiskFreeze *freeze = (StasisDiskFreeze *)taking;
    for (guint i = 0; i < freeze->items->len; i++) {
        const Item *item = item_at(freeze, i);
        if (deadline_us != 0 && stasis_now_us() > deadline_us) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUDGET,
                        "the pause would have been longer than allowed (%u overlays to put in "
                        "place); the VM runs on",
                        freeze->items->len);
            return FALSE;
        }
        if (!stasis_qmp_execute_line(freeze->qmp, item->line, STOP_TIMEOUT_MS, error)) {
            g_prefix_error(error, "disk %s: ", item->disk->name);
            return FALSE;
        }
    }
    return stasis_fault(STASIS_FAULT_DISK_TAKEN, error);
}

static GBytes *get_switches(StasisDiskTaking *taking)
{
    StasisDiskFreeze *freeze = (StasisDiskFreeze *)taking;
    GByteArray *pairs = g_byte_array_new();
    for (guint i = 0; i < freeze->items->len; i++) {
        const char *words[] = { item_at(freeze, i)->disk->qdev, item_at(freeze, i)->node };
        for (guint w = 0; w < G_N_ELEMENTS(words); w++)
            g_byte_array_append(pairs, (const guint8 *)words[w], (guint)strlen(words[w]) + 1);
    }
    return g_byte_array_free_to_bytes(pairs);
}

static const StasisDiskTakingOps taking_ops = { .take = take, .get_switches = get_switches };

StasisDiskTaking *stasis_disk_freeze_get_taking(StasisDiskFreeze *freeze)
{
    return &freeze->taking;
}

/* ---- the VM runs ---- */

static gboolean add(StasisDiskFreeze *freeze, const StasisDisk *disk, const char *path,
                    const char *cwd, const char *id, GError **error)
{
    g_autofree char *base = g_canonicalize_filename(disk->filename, cwd);
    Item item = { .disk = disk,
                  .path = g_strdup(path),
                  .node = stasis_disk_overlay_node(id, freeze->items->len) };
    item.line = stasis_disk_line("qom-set", stasis_disk_give_args(disk->qdev, item.node));
    g_array_append_val(freeze->items, item);
    return stasis_disk_overlay_make(path, base, base, disk->format, disk->size_bytes, error) &&
           stasis_fault(STASIS_FAULT_OVERLAY_MADE, error) &&
           stasis_disk_overlay_open(freeze->qmp, disk, path, item.node, disk->node, error);
}

StasisDiskFreeze *stasis_disk_freeze_new(StasisQmp *qmp, const GPtrArray *disks, char **paths,
                                         const char *cwd, const char *id, GError **error)
{
    g_autoptr(StasisDiskFreeze) freeze = g_new0(StasisDiskFreeze, 1);
    freeze->taking.ops = &taking_ops;
    freeze->qmp = qmp;
    freeze->items = g_array_new(FALSE, TRUE, sizeof(Item));
    g_array_set_clear_func(freeze->items, item_clear);
    for (guint i = 0; i < disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks, i);
        if (!disk->writable)
            continue;
        if (!add(freeze, disk, *paths++, cwd, id, error)) {
            g_prefix_error(error, "disk %s: ", disk->name);
            return NULL;
        }
    }
    return stasis_fault(STASIS_FAULT_DISK_READY, error) ? g_steal_pointer(&freeze) : NULL;
}

gboolean stasis_disk_freeze_settle(StasisDiskFreeze *freeze, GError **error)
{
    for (guint i = 0; i < freeze->items->len; i++) {
        const Item *item = item_at(freeze, i);
        if (stasis_disk_reopen_read_only(freeze->qmp, item->disk->node, error))
            continue;
        g_prefix_error(error, "disk %s: ", item->disk->name);
        return FALSE;
    }
    return stasis_fault(STASIS_FAULT_OVERLAY_FROZEN, error);
}

void stasis_disk_freeze_keep(StasisDiskFreeze *freeze)
{
    freeze->kept = TRUE;
}

void stasis_disk_freeze_free(StasisDiskFreeze *freeze)
{
    if (freeze == NULL)
        return;
    /* What can't be undone now is for the next sweep. */
    for (guint i = 0; i < freeze->items->len && !freeze->kept; i++)
        stasis_disk_overlay_take_back(freeze->qmp, item_at(freeze, i)->path, NULL);
    g_array_unref(freeze->items);
    g_free(freeze);
}
