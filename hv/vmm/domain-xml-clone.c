/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A domain's XML for a second machine beside the first. The guest's devices must stay what they
 * are, since saved state is loaded into them; what is behind them on the host may change.
 */
#include <stasis/error.h>
#include <string.h>

#include "vmm/domain-xml.h"
#include "vmm/libxml-load.h"

typedef struct {
    const char *name; /* the new one */
    gboolean keep_identity, keep_network;
    GPtrArray *macs;
} Clone;

/* Devices behind which there is one thing only. */
static const struct {
    const char *element;
    const char *why;
} refused[] = {
    { "hostdev", "the host device can't be in two machines" },
    { "tpm", "its TPM's state is no part of the image" },
    { "shmem", "its shared memory would be shared with the first machine" },
    { "vsock", "its context id can be in one machine only" },
    { "filesystem", "its shared directory is no part of the image" },
};

static gboolean refuse(const char *what, const char *why, GError **error)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "clone of a domain with <%s>: %s; give its XML without that by --xml", what, why);
    return FALSE;
}

static gboolean check(const Clone *clone, xmlNode *root, xmlNode *devices, GError **error)
{
    for (gsize i = 0; i < G_N_ELEMENTS(refused); i++)
        if (stasis_xml_child(devices, refused[i].element) != NULL)
            return refuse(refused[i].element, refused[i].why, error);
    if (stasis_xml_child(stasis_xml_child(root, "os"), "nvram") != NULL)
        return refuse("nvram", "its file can be in one machine only", error);
    /* Memory is put in place after the devices are loaded, and has the old one. */
    if (!clone->keep_identity && stasis_xml_child(root, "genid") != NULL)
        return refuse("genid",
                      "its guest would not be told of the new VM generation id "
                      "(--keep-identity keeps the old one)",
                      error);
    return TRUE;
}

/* ---- network ---- */

/* QEMU's own range, as libvirt takes it. */
static char *new_mac(void)
{
    guint32 r = g_random_int();
    return g_strdup_printf("52:54:00:%02x:%02x:%02x", r & 0xff, r >> 8 & 0xff, r >> 16 & 0xff);
}

static void clone_interface(Clone *clone, xmlNode *interface)
{
    if (!clone->keep_identity) {
        g_autofree char *mac = new_mac();
        stasis_xml_set(stasis_xml_ensure(interface, "mac"), "address", mac);
        g_ptr_array_add(clone->macs, g_steal_pointer(&mac));
    }
    if (!clone->keep_network)
        stasis_xml_set(stasis_xml_ensure(interface, "link"), "state", "down");
    /* Its end on the host has a name of its own. */
    stasis_xml_remove(stasis_xml_child(interface, "target"));
    stasis_xml_remove(stasis_xml_child(interface, "portgroup"));
}

/* ---- disks ---- */

/* What it writes goes into a file that ends with it; several may do that above one disk. */
static void clone_disk(xmlNode *disk)
{
    g_autofree char *device = stasis_xml_get(disk, "device");
    gboolean writable = device == NULL || strcmp(device, "disk") == 0 || strcmp(device, "lun") == 0;
    if (!writable || stasis_xml_child(disk, "readonly") != NULL ||
        stasis_xml_child(disk, "shareable") != NULL || stasis_xml_child(disk, "source") == NULL)
        return;
    stasis_xml_remove(stasis_xml_child(disk, "transient"));
    stasis_xml_set(stasis_xml_add(disk, "transient"), "shareBacking", "yes");
}

/* ---- characters ---- */

static void move_path(const Clone *clone, xmlNode *node, const char *attribute)
{
    g_autofree char *path = stasis_xml_get(node, attribute);
    if (path == NULL)
        return;
    g_autofree char *moved = g_strdup_printf("%s.%s", path, clone->name);
    stasis_xml_set(node, attribute, moved);
}

/* Files and sockets get the clone's name; terminals and the like are new by themselves; what leads
 * elsewhere leads nowhere. */
static void clone_character(const Clone *clone, xmlNode *device)
{
    static const char *const own[] = { "pty",      "null",      "vc",           "stdio",
                                       "spicevmc", "spiceport", "qemu-vdagent", NULL };
    g_autofree char *type = stasis_xml_get(device, "type");
    xmlNode *source = stasis_xml_child(device, "source");
    move_path(clone, stasis_xml_child(device, "log"), "file");
    if (type == NULL || g_strv_contains(own, type))
        return;
    g_autofree char *mode = stasis_xml_get(source, "mode");
    if (strcmp(type, "file") == 0 || (strcmp(type, "unix") == 0 && g_strcmp0(mode, "bind") == 0)) {
        move_path(clone, source, "path");
        return;
    }
    while (source != NULL) {
        stasis_xml_remove(source);
        source = stasis_xml_child(device, "source");
    }
    stasis_xml_remove(stasis_xml_child(device, "protocol"));
    stasis_xml_set(device, "type", "null");
}

static void clone_graphics(xmlNode *graphics)
{
    static const char *const ports[] = { "port", "tlsPort", "websocket" };
    for (gsize i = 0; i < G_N_ELEMENTS(ports); i++) {
        g_autofree char *port = stasis_xml_get(graphics, ports[i]);
        if (port != NULL)
            stasis_xml_set(graphics, ports[i], "-1");
    }
    g_autofree char *port = stasis_xml_get(graphics, "port");
    if (port != NULL)
        stasis_xml_set(graphics, "autoport", "yes");
}

/* ---- all ---- */

static void clone_character_devices(const Clone *clone, xmlNode *devices)
{
    static const char *const characters[] = { "serial",    "parallel", "console", "channel",
                                              "smartcard", "redirdev", NULL };
    for (xmlNode *node = stasis_libxml->xmlFirstElementChild(devices); node != NULL;
         node = stasis_libxml->xmlNextElementSibling(node)) {
        if (strcmp((const char *)node->name, "graphics") == 0)
            clone_graphics(node);
        else if (g_strv_contains(characters, (const char *)node->name))
            clone_character(clone, node);
    }
}

static void clone_devices(Clone *clone, xmlNode *devices)
{
    for (xmlNode *node = stasis_libxml->xmlFirstElementChild(devices); node != NULL;
         node = stasis_libxml->xmlNextElementSibling(node)) {
        if (strcmp((const char *)node->name, "interface") == 0)
            clone_interface(clone, node);
        else if (strcmp((const char *)node->name, "disk") == 0)
            clone_disk(node);
    }
    clone_character_devices(clone, devices);
}

void stasis_domain_xml_move_paths(StasisDomainDoc *doc, const char *name)
{
    Clone clone = { .name = name };
    xmlNode *devices = stasis_xml_child(stasis_xml_root(doc), "devices");
    if (devices != NULL)
        clone_character_devices(&clone, devices);
}

gboolean stasis_domain_xml_make_clone(StasisDomainDoc *doc, const char *name,
                                      gboolean keep_identity, gboolean keep_network,
                                      char ***ret_macs, GError **error)
{
    xmlNode *root = stasis_xml_root(doc);
    xmlNode *devices = stasis_xml_child(root, "devices");
    Clone clone = { .name = name, .keep_identity = keep_identity, .keep_network = keep_network };
    if (!check(&clone, root, devices, error))
        return FALSE;
    clone.macs = g_ptr_array_new();
    if (devices != NULL)
        clone_devices(&clone, devices);
    stasis_domain_xml_set_name(doc, name);
    g_ptr_array_add(clone.macs, NULL);
    *ret_macs = (char **)g_ptr_array_free(clone.macs, FALSE);
    return TRUE;
}
