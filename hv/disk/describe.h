/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an image says about the machine's disks, besides their content: the part "disks.json". */
#pragma once

#include "disk/disk.h"

G_BEGIN_DECLS

#define STASIS_DISKS_PART "disks.json"

typedef struct {
    char *name;   /* as in StasisDisk; a disk whose content is in the image is the block so named */
    char *node;   /* QEMU's name of the block node; "#…" if QEMU made it up */
    char *format; /* of the file that it was in */
    char *filename; /* that file, as QEMU named it */
    guint64 size_bytes;
    gboolean content; /* is in the image */
    /* Of a medium that is not: what the file was then, 0 if that is not known. */
    guint64 file_bytes, modified_us;
} StasisDiskNote;

/* Of all disks of a machine, those that are copied (@copy: the writable ones) and the others. Free
 * with g_bytes_unref(). @cwd: what names of files are relative to. */
GBytes *stasis_disks_describe(const GPtrArray *disks, gboolean copy, const char *cwd);
/* Untrusted: every field is checked. Element type: StasisDiskNote, freed with the array. */
GPtrArray *stasis_disks_parse(GBytes *json, GError **error);

G_END_DECLS
