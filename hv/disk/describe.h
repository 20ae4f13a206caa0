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
    /* Of StasisDiskLayer: the files that have the content, which the image refers to, the first on
     * top of the others; else NULL. */
    GPtrArray *layers;
    /* Of a medium that is not: what the file was then, 0 if that is not known. */
    guint64 file_bytes, modified_us;
} StasisDiskNote;

/* Of all disks of a machine: the content of the writable ones is in the image, or (@refer) in their
 * files, which are looked at. @cwd: what names of files are relative to. Free with g_bytes_unref().
 */
GBytes *stasis_disks_describe(const GPtrArray *disks, gboolean refer, const char *cwd,
                              GError **error);
/* Untrusted: every field is checked. Element type: StasisDiskNote, freed with the array. */
GPtrArray *stasis_disks_parse(GBytes *json, GError **error);
/* Is the content of that disk in the image, or does the image refer to it? */
gboolean stasis_disk_note_has_content(const StasisDiskNote *note);
/* Are all files that it refers to as they were? The error names disk and file. */
gboolean stasis_disk_note_check(const StasisDiskNote *note, GError **error);

G_END_DECLS
