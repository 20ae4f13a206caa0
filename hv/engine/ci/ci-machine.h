/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The machine that a test runs in: its command line, and a name for what is in it. */
#pragma once

#include <stasis/ci.h>

G_BEGIN_DECLS

/* QEMU's command line for what @options say; a disk gets an overlay in @dir, which must live as
 * long as the VM. Free with g_strfreev(). */
char **stasis_ci_machine_argv(const StasisCiOptions *options, const char *dir,
                              GCancellable *cancellable, GError **error);

/* The same for machines that boot in the same way from files that have not changed (path, size and
 * time of change). Free with g_free(). */
char *stasis_ci_machine_key(const StasisCiOptions *options, GError **error);

G_END_DECLS
