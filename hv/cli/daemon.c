/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH "/org/stasis1"
#define MANAGER "org.stasis1.Manager"
#define ERRORS "org.stasis1.Error."
/* Somebody may be asked for a password. */
#define TIMEOUT_MS 180000

static GDBusConnection *connect_to(const char *path, GError **error)
{
    g_autofree char *escaped = g_dbus_address_escape_value(path);
    g_autofree char *address = g_strconcat("unix:path=", escaped, NULL);
    return g_dbus_connection_new_for_address_sync(
        address, G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT, NULL, NULL, error);
}

GDBusConnection *cli_daemon_find(void)
{
    g_autofree char *path = stasis_daemon_socket();
    return connect_to(path, NULL);
}

GDBusConnection *cli_daemon_need(GError **error)
{
    g_autoptr(GError) failed = NULL;
    g_autofree char *path = stasis_daemon_socket();
    GDBusConnection *daemon = connect_to(path, &failed);
    if (daemon == NULL)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "no stasisd at %s (%s): start it, with systemctl start stasisd or by itself",
                    path, failed->message);
    return daemon;
}

/* Does it know the same VMs as we do? */
static gboolean is_our_own(void)
{
    struct stat st;
    g_autofree char *path = stasis_daemon_socket();
    return stat(path, &st) < 0 || st.st_uid == geteuid();
}

const char *cli_daemon_connection(const CliCall *call, const char *name)
{
    const char *uri = cli_connection(call), *fallback = g_getenv("LIBVIRT_DEFAULT_URI");
    if (uri != NULL || fallback == NULL || *fallback == '\0' || !is_our_own())
        return uri;
    g_autoptr(GError) local = NULL;
    g_autoptr(StasisVm) vm = stasis_vm_open(name, &local);
    gboolean unknown = g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND) ||
                       g_error_matches(local, STASIS_ERROR, STASIS_ERROR_USAGE);
    /* One that stasis knows because it has worked on it is a domain as before. */
    g_autoptr(StasisVmInfo) info = vm != NULL ? stasis_vm_get_info(vm, NULL) : NULL;
    return unknown || (info != NULL && info->connect != NULL) ? fallback : NULL;
}

/* "org.stasis1.Error.NotFound" is "not-found". */
static StasisErrorCode code_of(const char *name)
{
    g_autoptr(GString) word = g_string_new(NULL);
    if (name == NULL || !g_str_has_prefix(name, ERRORS))
        return STASIS_ERROR_FAILED;
    for (const char *c = name + strlen(ERRORS); *c != '\0'; c++) {
        if (g_ascii_isupper(*c) && word->len > 0)
            g_string_append_c(word, '-');
        g_string_append_c(word, g_ascii_tolower(*c));
    }
    return stasis_error_from_name(word->str);
}

static void translate(GError *failed, GError **error)
{
    g_autofree char *name = g_dbus_error_get_remote_error(failed);
    g_dbus_error_strip_remote_error(failed);
    g_set_error(error, STASIS_ERROR, code_of(name), "stasisd: %s", failed->message);
}

GVariant *cli_daemon_call(GDBusConnection *daemon, CliCall *call, const char *method,
                          GVariant *parameters, const char *reply_type, GError **error)
{
    return cli_daemon_call_with(daemon, call->cancellable, method, parameters, NULL, reply_type,
                                error);
}

static GVariant *call_by(GDBusConnection *daemon, GDBusCallFlags flags, GCancellable *cancellable,
                         const char *method, GVariant *parameters, GUnixFDList *fds,
                         const char *reply_type, GError **error)
{
    g_autoptr(GError) failed = NULL;
    GVariant *reply = g_dbus_connection_call_with_unix_fd_list_sync(
        daemon, NULL, PATH, MANAGER, method, parameters, G_VARIANT_TYPE(reply_type), flags,
        TIMEOUT_MS, fds, NULL, cancellable, &failed);
    if (reply == NULL && g_error_matches(failed, G_IO_ERROR, G_IO_ERROR_CANCELLED))
        g_propagate_error(error, g_steal_pointer(&failed));
    else if (reply == NULL)
        translate(failed, error);
    return reply;
}

GVariant *cli_daemon_call_with(GDBusConnection *daemon, GCancellable *cancellable,
                               const char *method, GVariant *parameters, GUnixFDList *fds,
                               const char *reply_type, GError **error)
{
    return call_by(daemon, G_DBUS_CALL_FLAGS_ALLOW_INTERACTIVE_AUTHORIZATION, cancellable, method,
                   parameters, fds, reply_type, error);
}

GVariant *cli_daemon_ask(GDBusConnection *daemon, const char *method, GVariant *parameters,
                         const char *reply_type, GError **error)
{
    return call_by(daemon, G_DBUS_CALL_FLAGS_NONE, NULL, method, parameters, NULL, reply_type,
                   error);
}

JsonObject *cli_daemon_to_json(GVariant *dictionary)
{
    g_autoptr(JsonNode) node = json_gvariant_serialize(dictionary);
    return json_node_dup_object(node);
}

JsonArray *cli_daemon_to_array(GVariant *reply)
{
    g_autoptr(GVariant) list = g_variant_get_child_value(reply, 0);
    JsonArray *array = json_array_new();
    for (gsize i = 0; i < g_variant_n_children(list); i++) {
        g_autoptr(GVariant) element = g_variant_get_child_value(list, i);
        json_array_add_object_element(array, cli_daemon_to_json(element));
    }
    return array;
}

const char *cli_member_text(JsonObject *object, const char *name)
{
    JsonNode *node = object != NULL ? json_object_get_member(object, name) : NULL;
    return node != NULL && json_node_get_value_type(node) == G_TYPE_STRING
               ? json_node_get_string(node)
               : NULL;
}

gint64 cli_member_number(JsonObject *object, const char *name)
{
    JsonNode *node = object != NULL ? json_object_get_member(object, name) : NULL;
    return node != NULL && json_node_get_value_type(node) == G_TYPE_INT64 ? json_node_get_int(node)
                                                                          : 0;
}
