/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * polkit is asked over the bus as its own library does (org.freedesktop.PolicyKit1.Authority,
 * CheckAuthorization), so that it need not be installed. Whoever has a connection of his own is
 * named by PID, when that was started as we saw it when he connected, and the user id that the
 * kernel has told us of the socket's other end: a PID that is another's by now was started later,
 * and a program that changes its user id behind our back is refused by polkit, which compares.
 */
#include "daemon/peer.h"

#include <unistd.h>

#define POLKIT_INTERACTIVE 1u
#define POLKIT_TIMEOUT_MS 120000

StasisdPeer *stasisd_peer_new(GDBusConnection *connection, const char *sender, guint uid, pid_t pid,
                              guint64 start_time)
{
    StasisdPeer *peer = g_new0(StasisdPeer, 1);
    g_atomic_ref_count_init(&peer->refs);
    g_set_object(&peer->connection, connection);
    peer->sender = g_strdup(sender);
    peer->uid = uid;
    peer->pid = pid;
    peer->start_time = start_time;
    return peer;
}

StasisdPeer *stasisd_peer_ref(StasisdPeer *peer)
{
    g_atomic_ref_count_inc(&peer->refs);
    return peer;
}

void stasisd_peer_unref(StasisdPeer *peer)
{
    if (peer == NULL || !g_atomic_ref_count_dec(&peer->refs))
        return;
    g_clear_object(&peer->connection);
    g_free(peer->sender);
    g_free(peer);
}

gboolean stasisd_uid_is_master(guint uid)
{
    return uid == 0 || uid == geteuid();
}

gboolean stasisd_peer_is_master(const StasisdPeer *peer)
{
    return stasisd_uid_is_master(peer->uid);
}

gboolean stasisd_peer_sees(const StasisdPeer *peer, guint owner)
{
    return peer->may_read || peer->uid == owner || stasisd_peer_is_master(peer);
}

typedef struct {
    StasisdAuthorizedFunc func;
    gpointer user_data;
    char *action;
} Asked;

static void answer(Asked *asked, const char *refusal)
{
    asked->func(refusal, asked->user_data);
    g_free(asked->action);
    g_free(asked);
}

static void on_answer(GObject *source, GAsyncResult *result, gpointer data)
{
    Asked *asked = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(GVariant) reply =
        g_dbus_connection_call_finish(G_DBUS_CONNECTION(source), result, &error);
    gboolean may = FALSE, challenge = FALSE;
    g_autofree char *refusal = NULL;
    if (reply != NULL)
        g_variant_get(reply, "((bba{ss}))", &may, &challenge, NULL);
    if (reply == NULL)
        refusal = g_strdup_printf("polkit does not answer (%s): %s is for root and the daemon's "
                                  "own user",
                                  error->message, asked->action);
    else if (!may)
        refusal = g_strdup_printf("polkit does not allow %s%s", asked->action,
                                  challenge ? " without authentication" : "");
    answer(asked, refusal);
}

GVariant *stasisd_peer_subject(const StasisdPeer *peer)
{
    GVariantBuilder details;
    g_variant_builder_init(&details, G_VARIANT_TYPE_VARDICT);
    if (peer->sender != NULL) {
        g_variant_builder_add(&details, "{sv}", "name", g_variant_new_string(peer->sender));
        return g_variant_new("(sa{sv})", "system-bus-name", &details);
    }
    g_variant_builder_add(&details, "{sv}", "pid", g_variant_new_uint32((guint32)peer->pid));
    g_variant_builder_add(&details, "{sv}", "start-time", g_variant_new_uint64(peer->start_time));
    g_variant_builder_add(&details, "{sv}", "uid", g_variant_new_int32((gint32)peer->uid));
    return g_variant_new("(sa{sv})", "unix-process", &details);
}

void stasisd_peer_authorize(StasisdPeer *peer, const char *action, GVariant *details,
                            gboolean interactive, StasisdAuthorizedFunc func, gpointer user_data)
{
    g_autoptr(GVariant) told = g_variant_ref_sink(details);
    g_autoptr(GVariant) none = g_variant_ref_sink(g_variant_new("a{ss}", NULL));
    Asked *asked = g_new0(Asked, 1);
    *asked = (Asked){ func, user_data, g_strdup(action) };
    if (stasisd_peer_is_master(peer)) {
        answer(asked, NULL);
        return;
    }
    /* polkit would look for itself who has the PID by now. */
    if (peer->sender == NULL && peer->start_time == 0) {
        answer(asked, "whoever has connected is gone");
        return;
    }
    g_autoptr(GError) error = NULL;
    g_autoptr(GDBusConnection) bus = g_bus_get_sync(G_BUS_TYPE_SYSTEM, NULL, &error);
    if (bus == NULL) {
        g_autofree char *refusal =
            g_strdup_printf("%s is for root and the daemon's own user, as there is no polkit (%s)",
                            action, error->message);
        answer(asked, refusal);
        return;
    }
    /* A bus that ends must not end us: VMs are looked after with or without it. */
    g_dbus_connection_set_exit_on_close(bus, FALSE);
    g_dbus_connection_call(
        bus, "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority",
        "org.freedesktop.PolicyKit1.Authority", "CheckAuthorization",
        g_variant_new("(@(sa{sv})s@a{ss}us)", stasisd_peer_subject(peer), action,
                      geteuid() == 0 ? told : none, interactive ? POLKIT_INTERACTIVE : 0, ""),
        G_VARIANT_TYPE("((bba{ss}))"), G_DBUS_CALL_FLAGS_NONE, POLKIT_TIMEOUT_MS, NULL, on_answer,
        asked);
}
