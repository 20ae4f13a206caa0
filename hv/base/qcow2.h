/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What those share that write qcow2 files. Source of the format: QEMU's docs/interop/qcow2.txt,
 * version 3. All numbers are big-endian.
 */
#pragma once

#include <glib.h>
#include <string.h>

G_BEGIN_DECLS

#define STASIS_QCOW2_MAGIC 0x514649fbu /* "QFI\xfb" */
#define STASIS_QCOW2_CLUSTER_BITS 16u
#define STASIS_QCOW2_CLUSTER_BYTES (1u << STASIS_QCOW2_CLUSTER_BITS)
/* 2^4 bits a refcount. */
#define STASIS_QCOW2_REFCOUNT_ORDER 4u
#define STASIS_QCOW2_HEADER_BYTES 104u
/* In an L1 or L2 entry: the cluster's refcount is exactly one. */
#define STASIS_QCOW2_COPIED ((guint64)1 << 63)

/* Numbers, one behind the other: each returns where the next one goes. */
static inline guint8 *stasis_put16(guint8 *p, guint16 value)
{
    value = GUINT16_TO_BE(value);
    return (guint8 *)memcpy(p, &value, sizeof(value)) + sizeof(value);
}

static inline guint8 *stasis_put32(guint8 *p, guint32 value)
{
    value = GUINT32_TO_BE(value);
    return (guint8 *)memcpy(p, &value, sizeof(value)) + sizeof(value);
}

static inline guint8 *stasis_put64(guint8 *p, guint64 value)
{
    value = GUINT64_TO_BE(value);
    return (guint8 *)memcpy(p, &value, sizeof(value)) + sizeof(value);
}

/* In what files of ours differ; offsets are bytes from the file's beginning. */
typedef struct {
    guint64 size_bytes; /* of the disk */
    guint64 l1_offset, refcount_offset;
    guint64 snapshots_offset, backing_offset; /* or 0 */
    guint32 n_l1;                             /* entries */
    guint32 refcount_clusters;                /* of the refcount table */
    guint32 n_snapshots;
    guint32 backing_bytes; /* of the backing file's name */
} StasisQcow2Header;

/* STASIS_QCOW2_HEADER_BYTES of them. Behind come header extensions, which 8 zeros end. */
static inline guint8 *stasis_qcow2_put_header(guint8 *p, const StasisQcow2Header *h)
{
    p = stasis_put32(p, STASIS_QCOW2_MAGIC);
    p = stasis_put32(p, 3);
    p = stasis_put64(p, h->backing_offset);
    p = stasis_put32(p, h->backing_bytes);
    p = stasis_put32(p, STASIS_QCOW2_CLUSTER_BITS);
    p = stasis_put64(p, h->size_bytes);
    p = stasis_put32(p, 0); /* no encryption */
    p = stasis_put32(p, h->n_l1);
    p = stasis_put64(p, h->l1_offset);
    p = stasis_put64(p, h->refcount_offset);
    p = stasis_put32(p, h->refcount_clusters);
    p = stasis_put32(p, h->n_snapshots);
    p = stasis_put64(p, h->snapshots_offset);
    p = stasis_put64(p, 0); /* features: incompatible, compatible, autoclear */
    p = stasis_put64(p, 0);
    p = stasis_put64(p, 0);
    p = stasis_put32(p, STASIS_QCOW2_REFCOUNT_ORDER);
    return stasis_put32(p, STASIS_QCOW2_HEADER_BYTES);
}

G_END_DECLS
