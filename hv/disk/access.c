/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/access.h"

#include "base/fault.h"
#include "base/json.h"
#include "disk/bitmaps.h"
#include "disk/internal.h"

struct _StasisDiskAccess {
    StasisQmp *qmp;
    const StasisDisk *disk;
    char *owner;  /* the bitmap that says whose the node is; NULL: not there */
    char *keeper; /* a node that refers to the disk's, which QEMU would else delete; NULL: not there
                   */
    char *standin; /* node; NULL: not there */
    gboolean detached;
    StasisNbd *nbd;
};

/* Both nodes must be served by the same thread, or QEMU 7.2 ends. Those of virtio-blk, the only
 * device with an iothread that gets here, are all in the main one as long as the VM is stopped. */
static gboolean take_drive(const StasisDiskAccess *access, GError **error)
{
    return stasis_disk_run(access->qmp, "qom-set",
                           stasis_disk_give_args(access->disk->qdev, access->standin), error);
}

static gboolean mark_owner(StasisDiskAccess *access, GError **error)
{
    g_autofree char *name = g_strconcat(STASIS_BITMAP_OWNER, access->disk->qdev, NULL);
    JsonObject *args = stasis_disk_args("node", access->disk->node, "name", name, NULL);
    json_object_set_boolean_member(args, "disabled", TRUE);
    if (!stasis_disk_run(access->qmp, "block-dirty-bitmap-add", args, error))
        return FALSE;
    access->owner = g_steal_pointer(&name);
    return TRUE;
}

/* An idle filter in front of it, which nobody uses. */
static gboolean add_keeper(StasisDiskAccess *access, guint number, GError **error)
{
    g_autofree char *name = g_strdup_printf(STASIS_DISK_PREFIX "keeper-%u", number);
    if (!stasis_disk_do(access->qmp, error, "blockdev-add", "driver", "copy-on-read", "node-name",
                        name, "file", access->disk->node, NULL))
        return FALSE;
    access->keeper = g_steal_pointer(&name);
    return TRUE;
}

static gboolean detach(StasisDiskAccess *access, guint number, GError **error)
{
    g_autofree char *name = g_strdup_printf(STASIS_DISK_PREFIX "standin-%u", number);
    JsonObject *args = stasis_disk_args("driver", "null-co", "node-name", name, NULL);
    json_object_set_int_member(args, "size", (gint64)access->disk->size_bytes);
    if (!mark_owner(access, error) || !add_keeper(access, number, error)) {
        json_object_unref(args);
        return FALSE;
    }
    if (!stasis_disk_run(access->qmp, "blockdev-add", args, error))
        return FALSE;
    access->standin = g_steal_pointer(&name);
    if (!stasis_fault(STASIS_FAULT_ROLLBACK_OWNED, error))
        return FALSE;
    access->detached = TRUE;
    return take_drive(access, error);
}

StasisDiskAccess *stasis_disk_access_new(StasisQmp *qmp, StasisNbdServer *server,
                                         const StasisDisk *disk, guint number, const char *since,
                                         GError **error)
{
    g_autoptr(StasisDiskAccess) access = g_new0(StasisDiskAccess, 1);
    access->qmp = qmp;
    access->disk = disk;
    if (!detach(access, number, error))
        return NULL;
    g_autofree char *id = g_strdup_printf(STASIS_DISK_PREFIX "write-%u", number);
    g_autofree char *map = since != NULL ? stasis_bitmap_name(since) : NULL;
    StasisNbdExport wanted = { .node = disk->node,
                               .id = id,
                               .map_node = disk->node,
                               .map_name = map,
                               .size_bytes = disk->size_bytes,
                               .writable = TRUE,
                               .in_iothread = disk->has_iothread,
                               .n_connections = 1 };
    access->nbd = stasis_nbd_new(server, &wanted, error);
    return access->nbd != NULL ? g_steal_pointer(&access) : NULL;
}

StasisNbd *stasis_disk_access_get_nbd(StasisDiskAccess *access)
{
    return access->nbd;
}

/* An export is gone a moment after it was told to. */
static gboolean attach(StasisDiskAccess *access, GError **error)
{
    for (guint tries = 0;; tries++) {
        g_autoptr(GError) local = NULL;
        if (stasis_disk_give(access->qmp, access->disk->qdev, access->disk->node, &local))
            return TRUE;
        if (tries == STASIS_DISK_TRIES) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        g_usleep(STASIS_DISK_POLL_US);
    }
}

gboolean stasis_disk_access_end(StasisDiskAccess *access, GError **error)
{
    g_clear_pointer(&access->nbd, stasis_nbd_free);
    if (access->detached && !attach(access, error))
        return FALSE;
    access->detached = FALSE;
    if (!stasis_fault(STASIS_FAULT_ROLLBACK_RETURNED, error))
        return FALSE;
    if (access->standin != NULL)
        stasis_disk_delete_node(access->qmp, access->standin, NULL);
    if (access->keeper != NULL)
        stasis_disk_delete_node(access->qmp, access->keeper, NULL);
    g_clear_pointer(&access->keeper, g_free);
    g_clear_pointer(&access->standin, g_free);
    gboolean ok = access->owner == NULL ||
                  stasis_disk_do(access->qmp, error, "block-dirty-bitmap-remove", "node",
                                 access->disk->node, "name", access->owner, NULL);
    g_clear_pointer(&access->owner, g_free);
    return ok;
}

void stasis_disk_access_free(StasisDiskAccess *access)
{
    if (access == NULL)
        return;
    stasis_disk_access_end(access, NULL);
    g_free(access->owner);
    g_free(access->keeper);
    g_free(access->standin);
    g_free(access);
}
