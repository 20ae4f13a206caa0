/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bytes of a migration stream (QEMU's migration/savevm.c, docs/devel/migration.rst), shared by
 * reader and writer. Private to hv/device.
 *
 *     stream  := "QEVM" be32 3 [config] section* eof
 *     config  := 07 be32-len machine subsection*
 *     section := (04|01) be32-id u8-len idstr be32-instance be32-version payload footer
 *              | (02|03) be32-id payload footer
 *     footer  := 7e be32-id
 *     eof     := 00 [06 be32-len JSON]
 */
#pragma once

#include <glib.h>
#include <string.h>

#define VMSTATE_MAGIC 0x5145564du /* "QEVM" */
#define VMSTATE_VERSION 3u
#define VMSTATE_HEADER_BYTES 8u
#define VMSTATE_FOOTER_BYTES 5u

/* More than any device state has; also what an image's part may hold. */
#define VMSTATE_MAX_BYTES (64u << 20)
#define VMSTATE_MAX_MACHINE 255u

typedef enum {
    VMSTATE_EOF = 0x00,
    VMSTATE_SECTION_START = 0x01,
    VMSTATE_SECTION_PART = 0x02,
    VMSTATE_SECTION_END = 0x03,
    VMSTATE_SECTION_FULL = 0x04,
    VMSTATE_SUBSECTION = 0x05,
    VMSTATE_DESCRIPTION = 0x06,
    VMSTATE_CONFIGURATION = 0x07,
    VMSTATE_COMMAND = 0x08,
    VMSTATE_SECTION_FOOTER = 0x7e,
} VmstateType;

static inline guint32 vmstate_be32(const guint8 *p)
{
    guint32 v;
    memcpy(&v, p, sizeof v);
    return GUINT32_FROM_BE(v);
}

static inline guint64 vmstate_be64(const guint8 *p)
{
    guint64 v;
    memcpy(&v, p, sizeof v);
    return GUINT64_FROM_BE(v);
}

/* Is this the header of a stream that we read? Sets STASIS_ERROR_CORRUPT if not. */
gboolean vmstate_check_header(const guint8 *data, gsize len, GError **error);
