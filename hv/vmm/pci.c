/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From QOM (QEMU 7.2): a PCI device has "addr" (slot × 8 + function) and "parent_bus", a link to
 * its bus, which is a child of the bridge. Sections are named by pcibus_get_dev_path() of
 * hw/pci/pci.c: domain and root bus, then the slots and functions of the way.
 */
#include "vmm/pci.h"

#include <stasis/error.h>
#include <string.h>

#include "base/json.h"

#define MAX_LEVELS 8
#define MAX_DEVICES 16
#define PERIPHERAL "/machine/peripheral/"

void stasis_pci_device_free(StasisPciDevice *device)
{
    if (device == NULL)
        return;
    g_free(device->name);
    g_free(device->qom_path);
    g_free(device->way);
    g_free(device->section_prefix);
    g_free(device);
}

static JsonNode *get(StasisQmp *qmp, const char *path, const char *property, GError **error)
{
    g_autoptr(JsonObject) arguments = json_object_new();
    json_object_set_string_member(arguments, "path", path);
    json_object_set_string_member(arguments, "property", property);
    g_autoptr(JsonNode) node = stasis_qmp_execute(qmp, "qom-get", arguments, -1, 0, error);
    return node != NULL && JSON_NODE_HOLDS_VALUE(node) ? g_steal_pointer(&node) : NULL;
}

static char *get_text(StasisQmp *qmp, const char *path, const char *property)
{
    g_autoptr(JsonNode) node = get(qmp, path, property, NULL);
    return node != NULL ? g_strdup(json_node_get_string(node)) : NULL;
}

/* FALSE: it is no PCI device. */
static gboolean get_devfn(StasisQmp *qmp, const char *path, guint *ret)
{
    g_autoptr(JsonNode) node = get(qmp, path, "addr", NULL);
    gint64 value = node != NULL && json_node_get_value_type(node) == G_TYPE_INT64
                       ? json_node_get_int(node)
                       : -1;
    *ret = (guint)value;
    return value >= 0 && value < 256;
}

/* The bus that @path's device is on, as the object that has it: a bridge, or the host's. */
static char *get_bridge(StasisQmp *qmp, const char *path)
{
    g_autofree char *bus = get_text(qmp, path, "parent_bus");
    return bus != NULL && bus[0] == '/' ? g_path_get_dirname(bus) : NULL;
}

static gboolean refuse(const StasisPciDevice *device, const char *why, GError **error)
{
    g_autofree char *shown = g_strescape(device->name, NULL);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED, "device %.200s: %s", shown, why);
    return FALSE;
}

static gboolean find_way(StasisQmp *qmp, StasisPciDevice *device, GError **error)
{
    g_autofree char *at = g_strdup(device->qom_path);
    g_autoptr(GString) way = g_string_new(NULL);
    guint devfn;
    int level = 0;
    for (; level < MAX_LEVELS && get_devfn(qmp, at, &devfn); level++) {
        g_autofree char *slot = g_strdup_printf("%02x.%x", devfn >> 3, devfn & 7);
        g_autofree char *bridge = get_bridge(qmp, at);
        if (bridge == NULL)
            return refuse(device, "it is on no bus", error);
        if (level > 0)
            g_string_prepend_c(way, '/');
        g_string_prepend(way, slot);
        g_free(at);
        at = g_steal_pointer(&bridge);
    }
    g_autofree char *host = get_text(qmp, at, "type");
    if (level == 0)
        return refuse(device, "it is no PCI device, and those alone can be suspended", error);
    if (level == MAX_LEVELS || (host != NULL && g_str_has_prefix(host, "pxb")))
        return refuse(device, "it is not below the machine's first PCI root bus", error);
    device->way = g_strdup(way->str);
    g_strdelimit(way->str, "/", ':');
    device->section_prefix = g_strdup_printf("0000:00:%s/", way->str);
    return TRUE;
}

static StasisPciDevice *find_one(StasisQmp *qmp, const char *name, GError **error)
{
    g_autoptr(StasisPciDevice) device = g_new0(StasisPciDevice, 1);
    device->name = g_strdup(name);
    device->qom_path = name[0] == '/' ? g_strdup(name) : g_strconcat(PERIPHERAL, name, NULL);
    g_autofree char *type = get_text(qmp, device->qom_path, "type");
    if (type == NULL) {
        g_autofree char *shown = g_strescape(name, NULL);
        g_set_error(
            error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
            "no device has the id or QOM path \"%.200s\" (-device …,id=ID; HMP's info qtree "
            "lists them)",
            shown);
        return NULL;
    }
    return find_way(qmp, device, error) ? g_steal_pointer(&device) : NULL;
}

GPtrArray *stasis_pci_find(StasisQmp *qmp, const char *const *names, GError **error)
{
    g_autoptr(GPtrArray) devices =
        g_ptr_array_new_with_free_func((GDestroyNotify)stasis_pci_device_free);
    for (guint i = 0; names != NULL && names[i] != NULL; i++) {
        StasisPciDevice *device = NULL;
        if (i < MAX_DEVICES)
            device = find_one(qmp, names[i], error);
        else
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "more than %d devices",
                        MAX_DEVICES);
        if (device == NULL)
            return NULL;
        g_ptr_array_add(devices, device);
    }
    return g_steal_pointer(&devices);
}
