/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The machine that a test runs in: its command line, and a name for what is in it. */
#pragma once

#include <stasis/ci.h>
#include <sys/types.h>

G_BEGIN_DECLS

/* QEMU's command line for what @options say; a disk gets an overlay in @dir, which must live as
 * long as the VM. Free with g_strfreev(). */
char **stasis_ci_machine_argv(const StasisCiOptions *options, const char *dir,
                              GCancellable *cancellable, GError **error);

/* Larger files, and devices, are known by their size and time of change, not by what is in them. */
#define STASIS_CI_MACHINE_MAX_READ ((off_t)256 << 20)
#define STASIS_CI_MACHINE_DIGITS 16

/* The same for machines that boot in the same way from files with the same content: one part for
 * the command line, and one for what is in the files. Free with g_free(). */
char *stasis_ci_machine_key(const StasisCiOptions *options, GError **error);
/* Keys of one command line whose files have changed. */
gboolean stasis_ci_machine_is_other_state(const char *key, const char *of);

G_END_DECLS
