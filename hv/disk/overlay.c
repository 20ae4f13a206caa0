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

#define CLUSTER_BITS 16u
#define CLUSTER_BYTES (1u << CLUSTER_BITS)
#define L1_SHIFT 29u
#define L1_CLUSTER 3u
#define REFCOUNT_ORDER 4u
#define HEADER_BYTES 104u
#define MAGIC 0x514649fbu          /* "QFI\xfb" */
#define BACKING_FORMAT 0xe2792acau /* header extension: the backing file's format */
/* QEMU's limit for an L1 table is 32 MiB. */
#define MAX_L1_ENTRIES (1u << 22)
#define MAX_BACKING_BYTES 1023u

static void put32(GByteArray *file, guint32 value)
{
    value = GUINT32_TO_BE(value);
    g_byte_array_append(file, (const guint8 *)&value, sizeof value);
}

static void put64(GByteArray *file, guint64 value)
{
    value = GUINT64_TO_BE(value);
    g_byte_array_append(file, (const guint8 *)&value, sizeof value);
}

static void pad_to(GByteArray *file, gsize len)
{
    gsize old = file->len;
    g_byte_array_set_size(file, (guint)len);
    memset(file->data + old, 0, len - old);
}

static void put_header(GByteArray *file, guint64 size, guint32 n_l1, const char *backing,
                       const char *backing_format)
{
    char format[8] = "";
    guint32 extension = 8 + sizeof format, end = 8;
    memcpy(format, backing_format, strlen(backing_format));
    put32(file, MAGIC);
    put32(file, 3);
    put64(file, HEADER_BYTES + extension + end);
    put32(file, (guint32)strlen(backing));
    put32(file, CLUSTER_BITS);
    put64(file, size);
    put32(file, 0); /* no encryption */
    put32(file, n_l1);
    put64(file, (guint64)L1_CLUSTER << CLUSTER_BITS);
    put64(file, CLUSTER_BYTES); /* refcount table */
    put32(file, 1);             /* clusters of it */
    put32(file, 0);             /* snapshots */
    put64(file, 0);
    put64(file, 0); /* features: incompatible, compatible, autoclear */
    put64(file, 0);
    put64(file, 0);
    put32(file, REFCOUNT_ORDER);
    put32(file, HEADER_BYTES);
    put32(file, BACKING_FORMAT);
    put32(file, (guint32)strlen(format));
    g_byte_array_append(file, (const guint8 *)format, sizeof format);
    pad_to(file, file->len + end);
    g_byte_array_append(file, (const guint8 *)backing, (guint)strlen(backing));
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
    if (len < HEADER_BYTES || number_at(head, 0, 4) != MAGIC)
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
        L1_CLUSTER + (guint)((n_l1 * sizeof(guint64) + CLUSTER_BYTES - 1) >> CLUSTER_BITS);
    GByteArray *file = g_byte_array_new();
    put_header(file, size_bytes, (guint32)n_l1, backing, backing_format);
    pad_to(file, CLUSTER_BYTES);
    put64(file, 2 * CLUSTER_BYTES);
    pad_to(file, 2 * CLUSTER_BYTES);
    for (guint i = 0; i < n_clusters; i++) {
        guint16 one = GUINT16_TO_BE(1);
        g_byte_array_append(file, (const guint8 *)&one, sizeof one);
    }
    pad_to(file, (gsize)n_clusters << CLUSTER_BITS);
    return g_byte_array_free_to_bytes(file);
}
