/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files that a disk lies in, one on top of the other, and what they were when an image began
 * to refer to them: size, time of modification to the nanosecond, inode. Nobody may write to them
 * from then on, and that shows whether somebody has.
 */
#pragma once

#include <json-glib/json-glib.h>

G_BEGIN_DECLS

typedef struct {
    char *path;   /* as QEMU names it; absolute in an image */
    char *format; /* "raw", "qcow2" */
    /* Set by stasis_disk_layer_look(). */
    guint64 file_bytes, modified_ns, inode;
} StasisDiskLayer;

StasisDiskLayer *stasis_disk_layer_new(const char *path, const char *format);
void stasis_disk_layer_free(StasisDiskLayer *layer);

/* What it is now. @cwd: what its path is relative to; it becomes absolute. A regular file, else
 * STASIS_ERROR_UNSUPPORTED. */
gboolean stasis_disk_layer_look(StasisDiskLayer *layer, const char *cwd, GError **error);
/* Is it what it was? Else STASIS_ERROR_FAILED says what is different. */
gboolean stasis_disk_layer_check(const StasisDiskLayer *layer, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDiskLayer, stasis_disk_layer_free)

JsonObject *stasis_disk_layer_to_json(const StasisDiskLayer *layer);
/* Untrusted: every field is checked. */
StasisDiskLayer *stasis_disk_layer_from_json(JsonObject *object, GError **error);

G_END_DECLS
