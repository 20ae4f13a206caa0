/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device gets a block node, unless it has that one: QEMU 7.2 ends when a device is given the node
 * that it has already (bdrv_replace_child_noperm() asserts that it is another), and neither who
 * clears away after a killed process nor who repeats a command whose answer was lost knows how far
 * that came.
 *
 * Nothing comes in between the look and the gift. QEMU carries out the commands of all its monitors
 * one after the other, of a client that is gone at most the one that was begun (QEMU's
 * monitor/qmp.c); of us it is who holds the VM's lock that changes devices; and what the shim was
 * told to do before it has done when it lets the next one in (stasis_shim_settle()).
 */
#include <string.h>

#include "disk/internal.h"

static gboolean has_node(StasisQmp *qmp, const char *qdev, const char *node, gboolean *ret,
                         GError **error)
{
    g_autoptr(GPtrArray) disks = stasis_disks_list(qmp, error);
    *ret = FALSE;
    for (guint i = 0; disks != NULL && i < disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks, i);
        *ret |= strcmp(disk->qdev, qdev) == 0 && strcmp(disk->node, node) == 0;
    }
    return disks != NULL;
}

JsonObject *stasis_disk_give_args(const char *qdev, const char *node)
{
    return stasis_disk_args("path", qdev, "property", "drive", "value", node, NULL);
}

gboolean stasis_disk_give(StasisQmp *qmp, const char *qdev, const char *node, GError **error)
{
    gboolean has;
    g_autoptr(GError) local = NULL;
    if (!has_node(qmp, qdev, node, &has, error))
        return FALSE;
    if (has || stasis_disk_run(qmp, "qom-set", stasis_disk_give_args(qdev, node), &local))
        return TRUE;
    if (!stasis_disk_made_again(qmp)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    return has_node(qmp, qdev, node, &has, error) &&
           (has || stasis_disk_run(qmp, "qom-set", stasis_disk_give_args(qdev, node), error));
}
