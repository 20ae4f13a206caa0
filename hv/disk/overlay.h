/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* The bytes of an empty qcow2 image of a disk of @size_bytes (a multiple of 512) on top of
 * @backing, which is in format @backing_format ("raw", "qcow2"): an absolute path, a name in the
 * same directory, or a URI that QEMU knows; at most 1023 bytes. STASIS_ERROR_UNSUPPORTED when there
 * can't be one. */
GBytes *stasis_overlay_new(guint64 size_bytes, const char *backing, const char *backing_format,
                           GError **error);

/* The name of the backing file that a qcow2 file has which begins with these bytes, as it stands
 * there; NULL: it has none, is no qcow2 file, or the name lies further on. Free with g_free(). */
char *stasis_overlay_get_backing(const guint8 *head, gsize len);

G_END_DECLS
