/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the page may be: places that this host alone can reach. */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/* The socket address that @text means (<stasis/web.h>): a GUnixSocketAddress, or a
 * GInetSocketAddress of a loopback address. STASIS_ERROR_USAGE for any other. */
GSocketAddress *stasis_web_address_parse(const char *text, GError **error);

/* How it is written: "unix:PATH", "127.0.0.1:80", "[::1]:80". Free with g_free(). */
char *stasis_web_address_to_text(GSocketAddress *address);

G_END_DECLS
