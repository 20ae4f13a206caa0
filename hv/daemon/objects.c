/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The objects that a connection finds: the manager, and below it the policies and jobs that its
 * peer sees. Their methods are the manager's. */
#include <stasis/version.h>
#include <string.h>

#include "daemon/bus-internal.h"

#define POLICIES STASISD_PATH "/policy"
#define JOBS STASISD_PATH "/job"

char *stasisd_job_path(guint id)
{
    return g_strdup_printf(JOBS "/%u", id);
}

/* "web_2d1" of "web-1". */
static char *policy_node(const char *vm)
{
    GString *node = g_string_new(NULL);
    for (const char *c = vm; *c != '\0'; c++) {
        if (g_ascii_isalnum(*c))
            g_string_append_c(node, *c);
        else
            g_string_append_printf(node, "_%02x", (guint8)*c);
    }
    return g_string_free(node, FALSE);
}

GVariant *stasisd_to_variant(JsonObject *object)
{
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), object);
    json_object_unref(object);
    GVariant *variant = json_gvariant_deserialize(node, "a{sv}", NULL);
    return variant != NULL ? variant : g_variant_new_array(G_VARIANT_TYPE("{sv}"), NULL, 0);
}

static GDBusInterfaceInfo *find_info(const StasisdBus *bus, const char *name)
{
    return g_dbus_node_info_lookup_interface(bus->info, name);
}

/* ---- what a node is ---- */

/* The VM whose policy is at @node, as far as @peer sees it; borrowed. */
static const char *find_vm(StasisdBus *bus, const StasisdPeer *peer, const char *node)
{
    g_autoptr(GList) vms = stasisd_service_vms(bus->service);
    for (GList *vm = vms; vm != NULL && node != NULL; vm = vm->next) {
        g_autofree char *own = policy_node(vm->data);
        if (strcmp(own, node) == 0 &&
            stasisd_peer_sees(peer, stasisd_service_policy(bus->service, vm->data)->owner))
            return vm->data;
    }
    return NULL;
}

static StasisdJob *find_job(StasisdBus *bus, const StasisdPeer *peer, const char *node)
{
    guint64 id;
    if (node == NULL || !g_ascii_string_to_unsigned(node, 10, 1, G_MAXINT32, &id, NULL))
        return NULL;
    StasisdJob *job = stasisd_jobs_find(stasisd_service_jobs(bus->service), (guint)id);
    return job != NULL && stasisd_peer_sees(peer, job->owner) ? job : NULL;
}

/* ---- calls ---- */

static void on_call(GDBusConnection *connection, const char *sender, const char *path,
                    const char *interface, const char *method, GVariant *parameters,
                    GDBusMethodInvocation *invocation, gpointer data)
{
    StasisdBus *bus = data;
    const char *node = strrchr(path, '/') + 1;
    StasisdPeer *peer = stasisd_bus_find_peer(bus, connection, sender);
    g_autoptr(GVariant) own = NULL;
    if (peer != NULL && strcmp(interface, STASISD_POLICY) == 0) {
        const char *vm = find_vm(bus, peer, node);
        method = strcmp(method, "Run") == 0 ? "RunPolicy" : "RemovePolicy";
        own = g_variant_ref_sink(g_variant_new("(s)", vm != NULL ? vm : ""));
    } else if (peer != NULL && strcmp(interface, STASISD_JOB) == 0) {
        const StasisdJob *job = find_job(bus, peer, node);
        method = "AbortJob";
        own = g_variant_ref_sink(g_variant_new("(u)", job != NULL ? job->id : 0));
    }
    if (peer == NULL)
        g_dbus_method_invocation_return_dbus_error(
            invocation, "org.freedesktop.DBus.Error.AccessDenied", "who is asking can't be told");
    else
        stasisd_bus_call(bus, peer, method, own != NULL ? own : parameters, invocation);
}

static GVariant *member_of(StasisdBus *bus, const char *vm, const char *member)
{
    g_autoptr(JsonObject) object = stasisd_service_describe(bus->service, vm);
    return stasisd_to_variant(json_object_ref(json_object_get_object_member(object, member)));
}

static GVariant *on_get(GDBusConnection *connection, const char *sender, const char *path,
                        const char *interface, const char *property, GError **error, gpointer data)
{
    StasisdBus *bus = data;
    const char *node = strrchr(path, '/') + 1;
    const StasisdPeer *peer = stasisd_bus_find_peer(bus, connection, sender);
    if (peer != NULL && strcmp(interface, STASISD_MANAGER) == 0)
        return g_variant_new_string(stasis_version());
    const char *vm =
        peer != NULL && strcmp(interface, STASISD_POLICY) == 0 ? find_vm(bus, peer, node) : NULL;
    if (vm != NULL)
        return strcmp(property, "Vm") == 0
                   ? g_variant_new_string(vm)
                   : member_of(bus, vm, strcmp(property, "State") == 0 ? "state" : "policy");
    const StasisdJob *job =
        peer != NULL && strcmp(interface, STASISD_JOB) == 0 ? find_job(bus, peer, node) : NULL;
    if (job != NULL)
        return strcmp(property, "Id") == 0   ? g_variant_new_uint32(job->id)
               : strcmp(property, "Vm") == 0 ? g_variant_new_string(job->vm)
                                             : stasisd_to_variant(stasisd_job_to_json(job, TRUE));
    g_set_error(error, G_DBUS_ERROR, G_DBUS_ERROR_UNKNOWN_OBJECT, "nothing at %s", path);
    return NULL;
}

static const GDBusInterfaceVTable vtable = { .method_call = on_call, .get_property = on_get };

/* ---- trees ---- */

static char **enumerate(GDBusConnection *connection, const char *sender, const char *path,
                        gpointer data)
{
    StasisdBus *bus = data;
    g_autoptr(GStrvBuilder) nodes = g_strv_builder_new();
    const StasisdPeer *peer = stasisd_bus_find_peer(bus, connection, sender);
    g_autoptr(GList) vms = stasisd_service_vms(bus->service);
    const GPtrArray *jobs = stasisd_jobs_all(stasisd_service_jobs(bus->service));
    for (GList *vm = vms; peer != NULL && vm != NULL && strcmp(path, POLICIES) == 0;
         vm = vm->next) {
        g_autofree char *node = policy_node(vm->data);
        if (stasisd_peer_sees(peer, stasisd_service_policy(bus->service, vm->data)->owner))
            g_strv_builder_add(nodes, node);
    }
    for (guint i = 0; peer != NULL && i < jobs->len && strcmp(path, JOBS) == 0; i++) {
        const StasisdJob *job = jobs->pdata[i];
        g_autofree char *node = g_strdup_printf("%u", job->id);
        if (stasisd_peer_sees(peer, job->owner))
            g_strv_builder_add(nodes, node);
    }
    return g_strv_builder_end(nodes);
}

static GDBusInterfaceInfo **introspect(GDBusConnection *connection, const char *sender,
                                       const char *path, const char *node, gpointer data)
{
    StasisdBus *bus = data;
    if (node == NULL)
        return NULL;
    GDBusInterfaceInfo **infos = g_new0(GDBusInterfaceInfo *, 2);
    infos[0] = g_dbus_interface_info_ref(
        find_info(bus, g_str_has_prefix(path, POLICIES) ? STASISD_POLICY : STASISD_JOB));
    return infos;
}

static const GDBusInterfaceVTable *dispatch(GDBusConnection *connection, const char *sender,
                                            const char *path, const char *interface,
                                            const char *node, gpointer *ret_data, gpointer data)
{
    *ret_data = data;
    return node != NULL ? &vtable : NULL;
}

/* ---- for tools ---- */

/* gdbus and busctl speak to a bus, and greet it first. On a connection that is the caller's alone
 * that is all there is of one: a name for either side. */
static const char greeting[] = "<node><interface name='org.freedesktop.DBus'>"
                               "<method name='Hello'><arg type='s' direction='out'/></method>"
                               "<method name='AddMatch'><arg type='s' direction='in'/></method>"
                               "<method name='RemoveMatch'><arg type='s' direction='in'/></method>"
                               "<method name='GetNameOwner'><arg type='s' direction='in'/>"
                               "<arg type='s' direction='out'/></method>"
                               "</interface></node>";

static void on_greeting(GDBusConnection *connection, const char *sender, const char *path,
                        const char *interface, const char *method, GVariant *parameters,
                        GDBusMethodInvocation *invocation, gpointer data)
{
    GVariant *reply = NULL;
    if (strcmp(method, "Hello") == 0)
        reply = g_variant_new("(s)", ":1.1");
    else if (strcmp(method, "GetNameOwner") == 0)
        reply = g_variant_new("(s)", ":1.0");
    g_dbus_method_invocation_return_value(invocation, reply);
}

static gboolean export_greeting(GDBusConnection *connection, GError **error)
{
    static const GDBusInterfaceVTable greeting_vtable = { .method_call = on_greeting };
    g_autoptr(GDBusNodeInfo) info = g_dbus_node_info_new_for_xml(greeting, error);
    return info != NULL && g_dbus_connection_register_object(connection, "/org/freedesktop/DBus",
                                                             info->interfaces[0], &greeting_vtable,
                                                             NULL, NULL, error) != 0;
}

gboolean stasisd_bus_export(StasisdBus *bus, GDBusConnection *connection, GError **error)
{
    static const GDBusSubtreeVTable tree = { enumerate, introspect, dispatch };
    if (g_dbus_connection_get_unique_name(connection) == NULL &&
        !export_greeting(connection, error))
        return FALSE;
    return g_dbus_connection_register_object(connection, STASISD_PATH,
                                             find_info(bus, STASISD_MANAGER), &vtable, bus, NULL,
                                             error) != 0 &&
           g_dbus_connection_register_subtree(connection, POLICIES, &tree,
                                              G_DBUS_SUBTREE_FLAGS_DISPATCH_TO_UNENUMERATED_NODES,
                                              bus, NULL, error) != 0 &&
           g_dbus_connection_register_subtree(connection, JOBS, &tree,
                                              G_DBUS_SUBTREE_FLAGS_DISPATCH_TO_UNENUMERATED_NODES,
                                              bus, NULL, error) != 0;
}
