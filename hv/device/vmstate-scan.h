/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding where sections end. A section does not carry its length, so that a boundary is a footer
 * with the section's own id, followed by something that a section can be followed by. A payload may
 * hold such bytes too (by chance, or because a guest put them there): of all ways to cut the
 * stream up, only those that consume it whole count, and of these the rules in vmstate-scan.c pick
 * the same one every time.
 */
#pragma once

#include <glib.h>

/* A section as cut out. The name is name_len bytes at @name_offset; PART and END have none. */
typedef struct {
    guint8 type;
    guint32 id;
    guint32 instance;
    guint32 version;
    gsize offset;
    gsize name_offset;
    guint8 name_len;
    gsize body; /* first byte of the payload */
    gsize end;  /* its footer */
} VmstateCut;

/* The payload size that the stream's own description gives for a section. FALSE: it says nothing
 * about it. */
typedef gboolean (*VmstateSizeHint)(const char *name, gsize name_len, guint32 instance,
                                    gsize *ret_size, gpointer user_data);

typedef struct _VmstateScan VmstateScan;

/* Find all possible boundaries behind @start; @end is where the end mark begins. @whole: sections
 * in parts (START, PART, END) are none. The data must outlive the scan. */
VmstateScan *vmstate_scan_new(const guint8 *data, gsize start, gsize end, gboolean whole,
                              GError **error);
void vmstate_scan_free(VmstateScan *scan);

/* Can the sections begin at @pos, so that the stream is consumed whole? */
gboolean vmstate_scan_can_start(VmstateScan *scan, gsize pos);

/* Cut [@pos, end) into sections with just the headers of @like (FULL ones, of VmstateCut, which
 * point into @like_data), in that order; NULL if that can't be. */
GArray *vmstate_scan_cut_like(VmstateScan *scan, gsize pos, const GArray *like,
                              const guint8 *like_data);

/* Cut [@pos, end) into sections. Element type: VmstateCut. */
GArray *vmstate_scan_cut(VmstateScan *scan, gsize pos, VmstateSizeHint hint, gpointer user_data,
                         GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmstateScan, vmstate_scan_free)
