/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How much a connection may have under way. GDBus reads as fast as it is written to, and keeps each
 * call until it is answered and each answer until it is read: whoever calls and never reads would
 * have all of the host's memory. So calls that came in are counted against answers that went out,
 * and events that were told against those that did; he who has too many is cut off.
 */
#include "daemon/bus-internal.h"

#define KEY "stasisd-flow"
#define MAX_CALLS 128
#define MAX_EVENTS 2048

typedef struct {
    GSocket *socket;
    gint n_calls, n_events; /* by the main thread and the connection's */
} Flow;

static void flow_free(gpointer data)
{
    Flow *flow = data;
    g_object_unref(flow->socket);
    g_free(flow);
}

/* At once, which closing a connection is not while it waits for a reader. */
static void cut_off(Flow *flow)
{
    g_socket_shutdown(flow->socket, TRUE, TRUE, NULL);
}

/* In the connection's thread. */
static GDBusMessage *on_message(GDBusConnection *connection, GDBusMessage *message,
                                gboolean incoming, gpointer data)
{
    Flow *flow = data;
    GDBusMessageType type = g_dbus_message_get_message_type(message);
    if (incoming && type == G_DBUS_MESSAGE_TYPE_METHOD_CALL) {
        /* Each has an answer, by which it is known to be done with. */
        g_dbus_message_set_flags(message, g_dbus_message_get_flags(message) &
                                              ~(guint)G_DBUS_MESSAGE_FLAGS_NO_REPLY_EXPECTED);
        if (g_atomic_int_add(&flow->n_calls, 1) < MAX_CALLS)
            return message;
        cut_off(flow);
        g_object_unref(message);
        return NULL;
    }
    if (!incoming && type == G_DBUS_MESSAGE_TYPE_SIGNAL)
        g_atomic_int_add(&flow->n_events, -1);
    else if (!incoming)
        g_atomic_int_add(&flow->n_calls, -1);
    return message;
}

void stasisd_flow_limit(GDBusConnection *connection, GSocket *socket)
{
    Flow *flow = g_new0(Flow, 1);
    flow->socket = g_object_ref(socket);
    g_object_set_data(G_OBJECT(connection), KEY, flow);
    g_dbus_connection_add_filter(connection, on_message, flow, flow_free);
}

void stasisd_flow_tell(GDBusConnection *connection)
{
    Flow *flow = g_object_get_data(G_OBJECT(connection), KEY);
    if (flow != NULL && g_atomic_int_add(&flow->n_events, 1) >= MAX_EVENTS)
        cut_off(flow);
}
