/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What nbd.c and nbd-server.c share. */
#pragma once

#include <libnbd.h>

#include "disk/nbd.h"

G_BEGIN_DECLS

struct _StasisNbdServer {
    StasisQmp *qmp;
    gboolean own;
    char *path; /* of the UNIX socket it listens at */
};

/* TRUE, or nbd_get_error() has the reason. */
gboolean stasis_nbd_server_connect(const StasisNbdServer *server, struct nbd_handle *handle);

G_END_DECLS
