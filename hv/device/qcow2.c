/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Source of the format: QEMU's docs/interop/qcow2.txt, version 3. All numbers are big-endian. The
 * file in clusters of 64 KiB:
 *
 *     0  header
 *     1  refcount table     its one entry: cluster 2
 *     2  refcount block     16 bits each: 1 for every cluster of the file
 *     3  active L1 table    empty: the disk reads as zeros
 *     4  snapshot's L1      entry 0, the disk: empty; entry 1, the VM state: cluster 6
 *     5  snapshot table     one entry
 *     6  L2 table           of the VM state: clusters 7, 8, …
 *     7  VM state
 *
 * An L1 entry stands for 512 MiB. The disk takes the first, and QEMU puts VM state behind the disk
 * in the same address space, from the next whole L1 entry on (qcow2_vm_state_offset()): that is
 * why the snapshot's L1 has two. The active L1 has two as well, so that going to the snapshot need
 * not make it longer.
 */
#include "device/qcow2.h"

#include <stasis/error.h>
#include <string.h>

#include "base/qcow2.h"

#define MAX_VMSTATE_BYTES (64u << 20)
#define L1_ENTRIES 2u
#define VMSTATE_L1_INDEX 1u
#define NO_ICOUNT G_MAXUINT64

enum { HEADER, REFCOUNT_TABLE, REFCOUNT_BLOCK, ACTIVE_L1, SNAPSHOT_L1, SNAPSHOTS, L2, VMSTATE };

static guint64 cluster_offset(guint64 cluster)
{
    return cluster << STASIS_QCOW2_CLUSTER_BITS;
}

/* ---- the tables ---- */

/* What follows are zeros: no header extensions. */
static void put_header(guint8 *p)
{
    const StasisQcow2Header header = { .size_bytes = STASIS_QCOW2_DISK_BYTES,
                                       .l1_offset = cluster_offset(ACTIVE_L1),
                                       .refcount_offset = cluster_offset(REFCOUNT_TABLE),
                                       .snapshots_offset = cluster_offset(SNAPSHOTS),
                                       .n_l1 = L1_ENTRIES,
                                       .refcount_clusters = 1,
                                       .n_snapshots = 1 };
    stasis_qcow2_put_header(p, &header);
}

static void put_refcounts(guint8 *table, guint8 *block, guint32 n_clusters)
{
    stasis_put64(table, cluster_offset(REFCOUNT_BLOCK));
    for (guint32 i = 0; i < n_clusters; i++)
        block = stasis_put16(block, 1);
}

static void put_snapshot(guint8 *p, const char *tag, gsize vmstate_bytes)
{
    const char id[] = "1";
    p = stasis_put64(p, cluster_offset(SNAPSHOT_L1));
    p = stasis_put32(p, L1_ENTRIES);
    p = stasis_put16(p, (guint16)strlen(id));
    p = stasis_put16(p, (guint16)strlen(tag));
    p = stasis_put32(p, 0); /* time it was taken: seconds, nanoseconds */
    p = stasis_put32(p, 0);
    p = stasis_put64(p, 0); /* time the guest had run */
    p = stasis_put32(p, (guint32)vmstate_bytes);
    p = stasis_put32(p, 3 * sizeof(guint64)); /* extra data: */
    p = stasis_put64(p, vmstate_bytes);
    p = stasis_put64(p, STASIS_QCOW2_DISK_BYTES);
    p = stasis_put64(p, NO_ICOUNT);
    memcpy(p, id, strlen(id));
    memcpy(p + strlen(id), tag, strlen(tag));
}

static void put_vmstate(guint8 *file, GBytes *vmstate, guint32 n_clusters)
{
    gsize len;
    const void *data = g_bytes_get_data(vmstate, &len);
    stasis_put64(file + cluster_offset(SNAPSHOT_L1) + VMSTATE_L1_INDEX * sizeof(guint64),
                 cluster_offset(L2) | STASIS_QCOW2_COPIED);
    guint8 *l2 = file + cluster_offset(L2);
    for (guint32 i = 0; i < n_clusters; i++)
        l2 = stasis_put64(l2, cluster_offset(VMSTATE + i) | STASIS_QCOW2_COPIED);
    memcpy(file + cluster_offset(VMSTATE), data, len);
}

GBytes *stasis_qcow2_with_vmstate(GBytes *vmstate, const char *tag, GError **error)
{
    gsize len = g_bytes_get_size(vmstate);
    g_return_val_if_fail(*tag != '\0' && strlen(tag) <= 255, NULL);
    if (len == 0 || len > MAX_VMSTATE_BYTES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "device state of %" G_GSIZE_FORMAT " bytes: must be 1 to %u", len,
                    MAX_VMSTATE_BYTES);
        return NULL;
    }
    guint32 n_state =
        (guint32)((len + STASIS_QCOW2_CLUSTER_BYTES - 1) >> STASIS_QCOW2_CLUSTER_BITS);
    guint32 n_clusters = VMSTATE + n_state;
    guint8 *file = g_malloc0(cluster_offset(n_clusters));
    put_header(file + cluster_offset(HEADER));
    put_refcounts(file + cluster_offset(REFCOUNT_TABLE), file + cluster_offset(REFCOUNT_BLOCK),
                  n_clusters);
    put_snapshot(file + cluster_offset(SNAPSHOTS), tag, len);
    put_vmstate(file, vmstate, n_state);
    return g_bytes_new_take(file, cluster_offset(n_clusters));
}
