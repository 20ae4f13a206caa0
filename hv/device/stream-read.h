/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a whole migration stream, RAM and devices, as QEMU writes it with `migrate` (format:
 * ram-format.h, vmstate-format.h). RAM passes through; only the devices are kept. Whatever a
 * migration may have been asked for that a single stream does not hold, or that is coded in a way
 * of its own, is STASIS_ERROR_UNSUPPORTED by name; what is malformed is STASIS_ERROR_CORRUPT with
 * the offset. Input is untrusted: memory use does not depend on it.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/* Blocks of a machine; their sizes add up to no more than this, above any machine's RAM. Whoever
 * sorts pages needs a bit of memory for each, whatever of them a stream has. */
#define STASIS_STREAM_MAX_BLOCKS 1024u
#define STASIS_STREAM_MAX_RAM_BYTES ((guint64)1 << 44)

typedef struct {
    /* Up to @len bytes of the stream into @buf: how many, 0 at its end, -1 on error. */
    gssize (*read)(void *buf, gsize len, gpointer user_data, GError **error);
    /* A RAM block, with the number that pages name it by (0, 1, …). All come before the first
     * page. @size_bytes is a multiple of 4096. */
    gboolean (*block)(guint block, const char *name, guint64 size_bytes, gpointer user_data,
                      GError **error);
    /* 4096 bytes at @offset of @block, NULL for zeros. A page may come again; the last one counts,
     * and one that never comes is zero. */
    gboolean (*page)(guint block, guint64 offset, const guint8 *page, gpointer user_data,
                     GError **error);
    gpointer user_data;
} StasisStreamOps;

/* Read to the end. The devices, as a stream without RAM whose configuration section has the machine
 * type alone; NULL on error. */
GBytes *stasis_stream_read(const StasisStreamOps *ops, GError **error);

G_END_DECLS
