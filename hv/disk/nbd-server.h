/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What nbd.c and nbd-server.c share. */
#pragma once

#include <libnbd.h>

#include "disk/nbd.h"

G_BEGIN_DECLS

struct _StasisNbdServer {
    StasisQmp *qmp;
    gboolean own;
    guint n_kept; /* connections whose other end QEMU has, too */
    char *path;   /* of the UNIX socket it listens at */
};

/* @keep_open: QEMU does not see the connection end before the server is freed or swept. */
gboolean stasis_nbd_server_connect(StasisNbdServer *server, struct nbd_handle *handle,
                                   gboolean keep_open, GError **error);

G_END_DECLS
