/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* stasisd, as the command speaks to it: org.stasis1.xml over its UNIX socket. */
#pragma once

#include <gio/gunixfdlist.h>

#include "cli.h"

G_BEGIN_DECLS

/* A connection, or NULL: none listens there. */
GDBusConnection *cli_daemon_find(void);
/* The same where one is needed: the error says what to do. */
GDBusConnection *cli_daemon_need(GError **error);

/* Which libvirtd @name is meant to be of, for the daemon's good: --connect, $STASIS_CONNECT, or
 * $LIBVIRT_DEFAULT_URI for a name that no VM of stasis has, as cli_open_vm() does it; not that last
 * one where the daemon is another user's, whose VMs we don't know. NULL for none. Borrowed. */
const char *cli_daemon_connection(const CliCall *call, const char *name);

/* Call @method of the manager; @parameters may be floating, or NULL. The errors of stasisd are
 * those of the library again. */
GVariant *cli_daemon_call(GDBusConnection *daemon, CliCall *call, const char *method,
                          GVariant *parameters, const char *reply_type, GError **error);

/* The same with descriptors to go along, or NULL, and another end than the call's, or none. */
GVariant *cli_daemon_call_with(GDBusConnection *daemon, GCancellable *cancellable,
                               const char *method, GVariant *parameters, GUnixFDList *fds,
                               const char *reply_type, GError **error);

/* The same without anybody being asked for a password: for what is asked again and again. */
GVariant *cli_daemon_ask(GDBusConnection *daemon, const char *method, GVariant *parameters,
                         const char *reply_type, GError **error);

/* a{sv} as JSON. */
JsonObject *cli_daemon_to_json(GVariant *dictionary);
/* Element @i of aa{sv} in a reply. */
JsonArray *cli_daemon_to_array(GVariant *reply);

/* Members, where they may be missing. */
const char *cli_member_text(JsonObject *object, const char *name);
gint64 cli_member_number(JsonObject *object, const char *name);

G_END_DECLS
