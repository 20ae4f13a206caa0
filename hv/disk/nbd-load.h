/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libnbd's functions under their own names, which find the library when it is first asked for: it
 * brings a TLS library along, with what that needs.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* Before the first handle is made: none of libnbd's functions may be called before this went well.
 * STASIS_ERROR_UNSUPPORTED when there is no libnbd. Any thread. */
gboolean stasis_nbd_load(GError **error);

G_END_DECLS
