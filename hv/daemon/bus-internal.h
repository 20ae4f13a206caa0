/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the bus share: bus.c has connections and who is on them, objects.c what they
 * find there, methods.c what that does, images.c the part of it that takes time. */
#pragma once

#include "daemon/bus.h"
#include "daemon/peer.h"

G_BEGIN_DECLS

#define STASISD_PATH "/org/stasis1"
#define STASISD_MANAGER "org.stasis1.Manager"
#define STASISD_POLICY "org.stasis1.Policy"
#define STASISD_JOB "org.stasis1.Job"

struct _StasisdBus {
    StasisdService *service;
    GDBusNodeInfo *info;
    GDBusAuthObserver *observer;
    GSocketService *listener;
    char *guid;
    GPtrArray *peers;        /* of StasisdPeer, referenced */
    GPtrArray *joining;      /* connections that have not said hello: borrowed from bus.c */
    GDBusConnection *system; /* the system bus, held: or NULL */
    GHashTable *listing_for; /* users (no masters) for whom images are being listed */
};

/* bus.c: who has sent it; NULL when that can't be told. Borrowed. */
StasisdPeer *stasisd_bus_find_peer(StasisdBus *bus, GDBusConnection *connection,
                                   const char *sender);

/* flow.c: limit what @connection, whose socket that is, may have under way. */
void stasisd_flow_limit(GDBusConnection *connection, GSocket *socket);
/* A signal is about to be emitted on it, whether there is such a limit or not. */
void stasisd_flow_tell(GDBusConnection *connection);

/* objects.c */
gboolean stasisd_bus_export(StasisdBus *bus, GDBusConnection *connection, GError **error);
/* "/org/stasis1/job/12". Free with g_free(). */
char *stasisd_job_path(guint id);
/* A JSON object as a{sv}, floating. Takes @object over. */
GVariant *stasisd_to_variant(JsonObject *object);

/* methods.c: @method of the manager. @invocation is taken over. */
void stasisd_bus_call(StasisdBus *bus, StasisdPeer *peer, const char *method, GVariant *parameters,
                      GDBusMethodInvocation *invocation);
/* @invocation, which is taken over, fails. */
void stasisd_bus_return_error(GDBusMethodInvocation *invocation, const GError *error);

/* images.c: what `stasis checkpoint-list --json` says of the daemon's store, as far as @peer sees
 * it; of @vm alone unless that is "". TRUE: @invocation is taken over, and answered by and by. */
gboolean stasisd_bus_list_images(StasisdBus *bus, StasisdPeer *peer, const char *vm,
                                 GDBusMethodInvocation *invocation, GError **error);

G_END_DECLS
