/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What our writers of qcow2 files share. Source of the format: QEMU's docs/interop/qcow2.txt,
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

G_END_DECLS
