/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* Remove what a killed checkpoint of VM @name left in QEMU, as the next command on it would. Waits
 * for @wait_ms for those who hold the VM. */
gboolean stasis_vm_sweep(const char *name, guint wait_ms, GError **error);

/* The words that do it in a process of its own (stasis-sweep); NULL where that is not installed.
 * Free with g_strfreev(). */
char **stasis_vm_sweep_argv(const char *name);

G_END_DECLS
