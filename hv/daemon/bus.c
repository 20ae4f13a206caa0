/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connections. On the socket anybody may connect (he is asked who he is by the kernel, and what he
 * may is decided call by call); so there is a limit to how many do, and to how long one may take to
 * say hello. Root and the daemon's own user have none: nobody is to lock them out. Each hello has a
 * thread of its own, as GIO's pool has few of them, for which others' silence would make them wait.
 */
#include <errno.h>
#include <gio/gunixsocketaddress.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "daemon/bus-internal.h"
#include "org.stasis1.h"
#include "vmm/registry.h"

#define MAX_PEERS 256u /* of all users that there is a limit for */
#define MAX_PEERS_OF_A_USER 64u
#define HELLO_S 10
#define BUS_TIMEOUT_MS 10000

/* ---- events ---- */

static void on_event(guint owner, JsonObject *event, gpointer data)
{
    StasisdBus *bus = data;
    const char *what = json_object_get_string_member(event, "event");
    g_autoptr(GVariant) details = g_variant_ref_sink(stasisd_to_variant(json_object_ref(event)));
    for (guint i = 0; i < bus->peers->len; i++) {
        StasisdPeer *peer = bus->peers->pdata[i];
        if (!peer->watches || !stasisd_peer_sees(peer, owner))
            continue;
        stasisd_flow_tell(peer->connection);
        g_dbus_connection_emit_signal(peer->connection, peer->sender, STASISD_PATH, STASISD_MANAGER,
                                      "Event", g_variant_new("(s@a{sv})", what, details), NULL);
    }
}

/* ---- who ---- */

static void on_closed(GDBusConnection *connection, gboolean vanished, GError *error, gpointer data)
{
    StasisdBus *bus = data;
    for (guint i = bus->peers->len; i > 0; i--) {
        if (((StasisdPeer *)bus->peers->pdata[i - 1])->connection == connection)
            g_ptr_array_remove_index_fast(bus->peers, i - 1);
    }
}

/* On a bus: he is asked for once, and forgotten when his name goes. */
static void on_name_lost(GDBusConnection *connection, const char *sender, const char *path,
                         const char *interface, const char *signal, GVariant *parameters,
                         gpointer data)
{
    StasisdBus *bus = data;
    const char *name, *owner;
    g_variant_get(parameters, "(&s&s&s)", &name, NULL, &owner);
    for (guint i = bus->peers->len; i > 0 && *owner == '\0'; i--) {
        StasisdPeer *peer = bus->peers->pdata[i - 1];
        if (peer->connection == connection && g_strcmp0(peer->sender, name) == 0)
            g_ptr_array_remove_index_fast(bus->peers, i - 1);
    }
}

typedef struct {
    StasisdBus *bus;
    guint uid;
    pid_t pid;
    guint64 start_time; /* of @pid */
    /* For its thread, which may outlive the bus at the end of the process. */
    GSocketConnection *stream;
    GDBusAuthObserver *observer;
    char *guid;
    GCancellable *cancellable;
    guint timeout;
    GDBusConnection *connection; /* NULL: there was no hello */
} Joining;

/* Is there room for one more of user @uid, whether he has said hello or not? */
static gboolean has_room(const StasisdBus *bus, guint uid)
{
    guint n = 0, n_own = 0;
    if (stasisd_uid_is_master(uid))
        return TRUE;
    for (guint i = 0; i < bus->peers->len; i++) {
        guint other = ((const StasisdPeer *)bus->peers->pdata[i])->uid;
        n += !stasisd_uid_is_master(other);
        n_own += other == uid;
    }
    for (guint i = 0; i < bus->joining->len; i++) {
        guint other = ((const Joining *)bus->joining->pdata[i])->uid;
        n += !stasisd_uid_is_master(other);
        n_own += other == uid;
    }
    return n < MAX_PEERS && n_own < MAX_PEERS_OF_A_USER;
}

static StasisdPeer *ask_for_peer(StasisdBus *bus, GDBusConnection *connection, const char *sender)
{
    g_autoptr(GVariant) reply = g_dbus_connection_call_sync(
        connection, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
        "GetConnectionUnixUser", g_variant_new("(s)", sender), G_VARIANT_TYPE("(u)"),
        G_DBUS_CALL_FLAGS_NONE, BUS_TIMEOUT_MS, NULL, NULL);
    guint32 uid;
    if (reply == NULL)
        return NULL;
    g_variant_get(reply, "(u)", &uid);
    if (!has_room(bus, uid))
        return NULL;
    StasisdPeer *peer = stasisd_peer_new(connection, sender, uid, 0, 0);
    g_ptr_array_add(bus->peers, peer);
    return peer;
}

StasisdPeer *stasisd_bus_find_peer(StasisdBus *bus, GDBusConnection *connection, const char *sender)
{
    gboolean on_bus = g_dbus_connection_get_unique_name(connection) != NULL;
    for (guint i = 0; i < bus->peers->len; i++) {
        StasisdPeer *peer = bus->peers->pdata[i];
        if (peer->connection == connection && (!on_bus || g_strcmp0(peer->sender, sender) == 0))
            return peer;
    }
    return on_bus && sender != NULL ? ask_for_peer(bus, connection, sender) : NULL;
}

/* ---- the socket ---- */

static void joining_free(Joining *joining)
{
    g_clear_handle_id(&joining->timeout, g_source_remove);
    g_object_unref(joining->cancellable);
    g_object_unref(joining->stream);
    g_object_unref(joining->observer);
    g_free(joining->guid);
    g_clear_object(&joining->connection);
    g_free(joining);
}

static gboolean on_too_long(gpointer data)
{
    Joining *joining = data;
    joining->timeout = 0;
    g_cancellable_cancel(joining->cancellable);
    return G_SOURCE_REMOVE;
}

static void join(StasisdBus *bus, const Joining *joining)
{
    g_autoptr(GError) error = NULL;
    GDBusConnection *connection = joining->connection;
    g_ptr_array_add(bus->peers, stasisd_peer_new(connection, NULL, joining->uid, joining->pid,
                                                 joining->start_time));
    g_dbus_connection_set_exit_on_close(connection, FALSE);
    g_signal_connect(connection, "closed", G_CALLBACK(on_closed), bus);
    if (!stasisd_uid_is_master(joining->uid))
        stasisd_flow_limit(connection, g_socket_connection_get_socket(joining->stream));
    if (!stasisd_bus_export(bus, connection, &error))
        g_warning("bus: %s", error->message);
    g_dbus_connection_start_message_processing(connection);
    /* Who closed it before we listened for that is not told of. */
    if (g_dbus_connection_is_closed(connection))
        on_closed(connection, TRUE, NULL, bus);
}

static gboolean on_hello(gpointer data)
{
    Joining *joining = data;
    g_ptr_array_remove_fast(joining->bus->joining, joining);
    if (joining->connection != NULL)
        join(joining->bus, joining);
    joining_free(joining);
    return G_SOURCE_REMOVE;
}

/* In a thread of its own. */
static gpointer say_hello(gpointer data)
{
    Joining *joining = data;
    joining->connection =
        g_dbus_connection_new_sync(G_IO_STREAM(joining->stream), joining->guid,
                                   G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_SERVER |
                                       G_DBUS_CONNECTION_FLAGS_DELAY_MESSAGE_PROCESSING,
                                   joining->observer, joining->cancellable, NULL);
    g_idle_add_full(G_PRIORITY_DEFAULT, on_hello, joining, NULL);
    return NULL;
}

static gboolean on_incoming(GSocketService *listener, GSocketConnection *stream, GObject *source,
                            gpointer data)
{
    StasisdBus *bus = data;
    g_autoptr(GCredentials) credentials =
        g_socket_get_credentials(g_socket_connection_get_socket(stream), NULL);
    guint uid = credentials != NULL ? g_credentials_get_unix_user(credentials, NULL) : (guint)-1;
    if (credentials == NULL || !has_room(bus, uid))
        return TRUE;
    Joining *joining = g_new0(Joining, 1);
    joining->bus = bus;
    joining->uid = uid;
    joining->pid = g_credentials_get_unix_pid(credentials, NULL);
    joining->start_time = stasis_process_start_time(joining->pid);
    joining->stream = g_object_ref(stream);
    joining->observer = g_object_ref(bus->observer);
    joining->guid = g_strdup(bus->guid);
    joining->cancellable = g_cancellable_new();
    joining->timeout = g_timeout_add_seconds(HELLO_S, on_too_long, joining);
    GThread *thread = g_thread_try_new("hello", say_hello, joining, NULL);
    if (thread == NULL) {
        joining_free(joining);
        return TRUE;
    }
    g_thread_unref(thread);
    g_ptr_array_add(bus->joining, joining);
    return TRUE;
}

static gboolean serve(StasisdBus *bus, GSocket *socket, GError **error)
{
    if (bus->listener == NULL) {
        bus->listener = g_socket_service_new();
        g_signal_connect(bus->listener, "incoming", G_CALLBACK(on_incoming), bus);
    }
    return g_socket_listener_add_socket(G_SOCKET_LISTENER(bus->listener), socket, NULL, error);
}

gboolean stasisd_bus_listen_fd(StasisdBus *bus, int fd, GError **error)
{
    g_autoptr(GSocket) socket = g_socket_new_from_fd(fd, error);
    return socket != NULL && serve(bus, socket, error);
}

gboolean stasisd_bus_listen(StasisdBus *bus, const char *path, GError **error)
{
    g_autofree char *dir = g_path_get_dirname(path);
    if (g_mkdir_with_parents(dir, 0755) < 0)
        return stasis_set_errno(error, errno, "make %s", dir);
    /* That of a daemon before us: ours is the state directory, so no other listens on it. */
    if (unlink(path) < 0 && errno != ENOENT)
        return stasis_set_errno(error, errno, "remove %s", path);
    g_autoptr(GSocket) socket =
        g_socket_new(G_SOCKET_FAMILY_UNIX, G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_DEFAULT, error);
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);
    if (socket == NULL || !g_socket_bind(socket, address, FALSE, error))
        return FALSE;
    if (chmod(path, 0666) < 0)
        return stasis_set_errno(error, errno, "chmod %s", path);
    return g_socket_listen(socket, error) && serve(bus, socket, error);
}

/* ---- the system bus ---- */

gboolean stasisd_bus_join(StasisdBus *bus, GError **error)
{
    g_autoptr(GDBusConnection) connection = g_bus_get_sync(G_BUS_TYPE_SYSTEM, NULL, error);
    if (connection == NULL || !stasisd_bus_export(bus, connection, error))
        return FALSE;
    g_set_object(&bus->system, connection);
    g_dbus_connection_set_exit_on_close(connection, FALSE);
    g_signal_connect(connection, "closed", G_CALLBACK(on_closed), bus);
    g_dbus_connection_signal_subscribe(connection, "org.freedesktop.DBus", "org.freedesktop.DBus",
                                       "NameOwnerChanged", "/org/freedesktop/DBus", NULL,
                                       G_DBUS_SIGNAL_FLAGS_NONE, on_name_lost, bus, NULL);
    g_autoptr(GVariant) reply = g_dbus_connection_call_sync(
        connection, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
        "RequestName", g_variant_new("(su)", "org.stasis1", 4u /* don't queue */),
        G_VARIANT_TYPE("(u)"), G_DBUS_CALL_FLAGS_NONE, BUS_TIMEOUT_MS, NULL, error);
    guint32 got = 0;
    if (reply == NULL)
        return FALSE;
    g_variant_get(reply, "(u)", &got);
    if (got == 1 || got == 4)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                "org.stasis1 is taken on the system bus: another stasisd has it");
    return FALSE;
}

/* ---- all of it ---- */

static gboolean allow_mechanism(GDBusAuthObserver *observer, const char *mechanism, gpointer data)
{
    return strcmp(mechanism, "EXTERNAL") == 0;
}

/* What he may is decided with each call. */
static gboolean authorize_peer(GDBusAuthObserver *observer, GIOStream *stream,
                               GCredentials *credentials, gpointer data)
{
    return credentials != NULL;
}

StasisdBus *stasisd_bus_new(StasisdService *service)
{
    g_autoptr(GError) error = NULL;
    StasisdBus *bus = g_new0(StasisdBus, 1);
    bus->service = service;
    bus->info = g_dbus_node_info_new_for_xml(stasisd_introspection, &error);
    g_assert_no_error(error);
    bus->guid = g_dbus_generate_guid();
    bus->peers = g_ptr_array_new_with_free_func((GDestroyNotify)stasisd_peer_unref);
    bus->joining = g_ptr_array_new();
    bus->listing_for = g_hash_table_new(NULL, NULL);
    bus->observer = g_dbus_auth_observer_new();
    g_signal_connect(bus->observer, "allow-mechanism", G_CALLBACK(allow_mechanism), NULL);
    g_signal_connect(bus->observer, "authorize-authenticated-peer", G_CALLBACK(authorize_peer),
                     NULL);
    stasisd_service_set_func(service, on_event, bus);
    return bus;
}

/* At the end of the process, with its main loop: nothing of it is called any more. */
void stasisd_bus_free(StasisdBus *bus)
{
    if (bus == NULL)
        return;
    stasisd_service_set_func(bus->service, NULL, NULL);
    if (bus->listener != NULL) {
        g_socket_service_stop(bus->listener);
        g_socket_listener_close(G_SOCKET_LISTENER(bus->listener));
        g_object_unref(bus->listener);
    }
    for (guint i = 0; i < bus->peers->len; i++)
        g_signal_handlers_disconnect_by_data(((StasisdPeer *)bus->peers->pdata[i])->connection,
                                             bus);
    g_ptr_array_unref(bus->peers);
    g_ptr_array_unref(bus->joining);
    g_hash_table_unref(bus->listing_for);
    if (bus->system != NULL)
        g_signal_handlers_disconnect_by_data(bus->system, bus);
    g_clear_object(&bus->system);
    g_object_unref(bus->observer);
    g_dbus_node_info_unref(bus->info);
    g_free(bus->guid);
    g_free(bus);
}
