/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* QEMU's gdbstub, for a VM that is replayed under a debugger. */
#pragma once

#include "vmm/qmp.h"

G_BEGIN_DECLS

/* The monitor's command for one at @gdb, a TCP port or the path of a socket; NULL with @error where
 * that is neither. Free with g_free(). */
char *stasis_gdbstub_command(const char *gdb, GError **error);
/* Open it: FALSE, too, where QEMU can't listen there. */
gboolean stasis_gdbstub_open(StasisQmp *qmp, const char *command, GError **error);

G_END_DECLS
