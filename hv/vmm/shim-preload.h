/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Getting the shim (hv/shim) into a QEMU that we start: by LD_PRELOAD, into QEMU itself only. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* Where the shim is: $STASIS_SHIM, beside the library, or where it is installed; NULL when it is
 * nowhere. Free with g_free(). */
char *stasis_shim_find(void);

/* Our environment with @shim preloaded, when @program is an ELF file: the shell or wrapper that a
 * script is run by must not get it. Else, and with @shim NULL, as it is. */
char **stasis_shim_environment(const char *shim, const char *program);

G_END_DECLS
