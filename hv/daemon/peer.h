/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who is asking, and whether he may. */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct {
    gatomicrefcount refs;
    GDBusConnection *connection;
    char *sender; /* on a bus: his unique name; NULL: the connection is his alone */
    guint uid;
    pid_t pid;          /* of a connection that is his alone, with */
    guint64 start_time; /* field 22 of /proc/PID/stat when he connected, 0: he was gone */
    gboolean may_read;  /* has been allowed to see what is others' */
    gboolean watches;
} StasisdPeer;

StasisdPeer *stasisd_peer_new(GDBusConnection *connection, const char *sender, guint uid, pid_t pid,
                              guint64 start_time);
StasisdPeer *stasisd_peer_ref(StasisdPeer *peer);
void stasisd_peer_unref(StasisdPeer *peer);

/* The daemon's own user, and root: may everything. */
gboolean stasisd_uid_is_master(guint uid);
gboolean stasisd_peer_is_master(const StasisdPeer *peer);
/* May he see what user @owner has? */
gboolean stasisd_peer_sees(const StasisdPeer *peer, guint owner);

/* As whom polkit is to look at him, "(sa{sv})", floating. */
GVariant *stasisd_peer_subject(const StasisdPeer *peer);

/* @refusal: NULL, he may. Else why not; borrowed. */
typedef void (*StasisdAuthorizedFunc)(const char *refusal, gpointer user_data);

/*
 * May @peer do @action, "org.stasis1.…"? polkit is asked, and may ask the user if @interactive.
 * @details, "a{ss}", are what its rules can look up of the action; taken over if floating. polkit
 * takes them of root alone, so a daemon of somebody else keeps them to itself. Without polkit only
 * a master may. @func is called once, before or after this returns.
 */
void stasisd_peer_authorize(StasisdPeer *peer, const char *action, GVariant *details,
                            gboolean interactive, StasisdAuthorizedFunc func, gpointer user_data);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisdPeer, stasisd_peer_unref)

G_END_DECLS
