/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where stasisd is to be found. What it says there is in org.stasis1.xml. */
#pragma once

#include <glib.h>
#include <stasis/macros.h>

G_BEGIN_DECLS

/*
 * The UNIX socket of stasisd: $STASISD_SOCKET; else "socket" in $STASIS_STATE_DIR, so that two
 * states are never mixed up; else /run/stasisd/socket for root, and for others that in
 * $XDG_RUNTIME_DIR where there is one. Free with g_free().
 */
STASIS_API char *stasis_daemon_socket(void);

G_END_DECLS
