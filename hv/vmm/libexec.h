/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finding what is installed with the library. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* The program @name: $@override if that is set, else beside the library or the program that we are
 * part of, else where it is installed. NULL when it is nowhere. Free with g_free(). */
char *stasis_libexec_find(const char *name, const char *override);

G_END_DECLS
