/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disk files that somebody wants to write to, without a VM that has them. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* STASIS_ERROR_BUSY when a QEMU (or who else locks it) has the file or block device @path open, it
 * is mounted, behind a loop device, or open in a program, if only to read. Only as of now: who
 * opens it next is kept off by QEMU's own locks. */
gboolean stasis_disk_check_unused(const char *path, GError **error);

/* "raw" or "qcow2", by how it begins. The guest of a raw disk can make it begin as it likes, so
 * what would lead to another file (a backing or data file) is STASIS_ERROR_USAGE: the format has to
 * be said. NULL with @error. */
const char *stasis_disk_guess_format(const char *path, GError **error);

G_END_DECLS
