/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How the daemon is asked: org.stasis1.xml, on a UNIX socket of its own and on the system bus. */
#pragma once

#include "daemon/service.h"

G_BEGIN_DECLS

typedef struct _StasisdBus StasisdBus;

StasisdBus *stasisd_bus_new(StasisdService *service);
void stasisd_bus_free(StasisdBus *bus);

/* Serve on the socket at @path, which is replaced; anybody may connect, and is looked at then. */
gboolean stasisd_bus_listen(StasisdBus *bus, const char *path, GError **error);
/* Serve on a socket that listens already, taken over. */
gboolean stasisd_bus_listen_fd(StasisdBus *bus, int fd, GError **error);
/* Be org.stasis1 on the system bus, too. */
gboolean stasisd_bus_join(StasisdBus *bus, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisdBus, stasisd_bus_free)

G_END_DECLS
