/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Source of the format: QEMU's docs/interop/qcow2.txt, version 3. All numbers are big-endian. The
 * file in clusters of 64 KiB:
 *
 *     0  header, the format and the name of the backing file
 *     1  refcount table     its one entry: cluster 2
 *     2  refcount block     16 bits each: 1 for every cluster of the file
 *     3  L1 table           an entry for each 512 MiB, empty: all is in the backing file
 */
#include "disk/overlay.h"

#include <stasis/error.h>
#include <string.h>

#include "base/qcow2.h"

#define L1_SHIFT 29u
#define L1_CLUSTER 3u
#define BACKING_FORMAT 0xe2792acau /* header extension: the backing file's format */
/* QEMU's limit for an L1 table is 32 MiB. */
#define MAX_L1_ENTRIES (1u << 22)
#define MAX_BACKING_BYTES 1023u

static void put_header(guint8 *p, guint64 size, guint32 n_l1, const char *backing,
                       const char *backing_format)
{
    const guint32 format_bytes = 8, extension = 8 + format_bytes, end = 8;
    const StasisQcow2Header header = {
        .size_bytes = size,
        .l1_offset = (guint64)L1_CLUSTER << STASIS_QCOW2_CLUSTER_BITS,
        .refcount_offset = STASIS_QCOW2_CLUSTER_BYTES,
        .backing_offset = STASIS_QCOW2_HEADER_BYTES + extension + end,
        .n_l1 = n_l1,
        .refcount_clusters = 1,
        .backing_bytes = (guint32)strlen(backing),
    };
    p = stasis_qcow2_put_header(p, &header);
    p = stasis_put32(p, BACKING_FORMAT);
    p = stasis_put32(p, (guint32)strlen(backing_format));
    memcpy(p, backing_format, strlen(backing_format));
    memcpy(p + format_bytes + end, backing, strlen(backing));
}

static guint64 number_at(const guint8 *head, gsize offset, gsize bytes)
{
    guint64 n = 0;
    for (gsize i = 0; i < bytes; i++)
        n = n << 8 | head[offset + i];
    return n;
}

char *stasis_overlay_get_backing(const guint8 *head, gsize len)
{
    if (len < STASIS_QCOW2_HEADER_BYTES || number_at(head, 0, 4) != STASIS_QCOW2_MAGIC)
        return NULL;
    guint64 offset = number_at(head, 8, 8), bytes = number_at(head, 16, 4);
    if (offset == 0 || bytes == 0 || bytes > MAX_BACKING_BYTES || offset > len ||
        bytes > len - offset)
        return NULL;
    return g_strndup((const char *)head + offset, bytes);
}

GBytes *stasis_overlay_new(guint64 size_bytes, const char *backing, const char *backing_format,
                           GError **error)
{
    guint64 n_l1 = (size_bytes + ((guint64)1 << L1_SHIFT) - 1) >> L1_SHIFT;
    g_return_val_if_fail(strlen(backing_format) <= 8, NULL);
    if (strlen(backing) > MAX_BACKING_BYTES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "a qcow2 file on %.40s…: its name is longer than %u bytes", backing,
                    MAX_BACKING_BYTES);
        return NULL;
    }
    if (size_bytes == 0 || size_bytes % 512 != 0 || n_l1 > MAX_L1_ENTRIES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "a disk of %" G_GUINT64_FORMAT " bytes can't have a qcow2 overlay", size_bytes);
        return NULL;
    }
    guint n_clusters =
        L1_CLUSTER + (guint)((n_l1 * sizeof(guint64) + STASIS_QCOW2_CLUSTER_BYTES - 1) >>
                             STASIS_QCOW2_CLUSTER_BITS);
    gsize len = (gsize)n_clusters << STASIS_QCOW2_CLUSTER_BITS;
    guint8 *file = g_malloc0(len);
    put_header(file, size_bytes, (guint32)n_l1, backing, backing_format);
    stasis_put64(file + STASIS_QCOW2_CLUSTER_BYTES, 2 * STASIS_QCOW2_CLUSTER_BYTES);
    guint8 *refcount = file + 2 * STASIS_QCOW2_CLUSTER_BYTES;
    for (guint i = 0; i < n_clusters; i++)
        refcount = stasis_put16(refcount, 1);
    return g_bytes_new_take(file, len);
}
