/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Between export.c (the file and its pages) and export-core.c (what an ELF core says about them).
 */
#pragma once

#include "device/vmstate.h"
#include "vmm/ram.h"

G_BEGIN_DECLS

/* Alignment of memory in the file: with less, holes would not be on block boundaries. */
#define STASIS_EXPORT_ALIGN 4096u

/* One guest-physical range and where it goes. */
typedef struct {
    const StasisGpaRange *range;
    guint block;         /* index of its RAM block in the image */
    guint64 file_offset; /* of its first byte */
} StasisExportPiece;

/* What stands in front of the memory in an ELF core: header, program headers, notes. Sets the
 * file_offset of each of @pieces. */
GByteArray *stasis_export_core_header(GArray *pieces, StasisVmstate *vmstate, GError **error);

G_END_DECLS
