/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A domain's disks: which files they are, and one with another file behind it; as the guest sees
 * it, it stays what it is. */
#include <stasis/error.h>
#include <string.h>

#include "vmm/domain-xml.h"

static gboolean shows(xmlNode *disk, const char *path)
{
    xmlNode *source = stasis_xml_child(disk, "source");
    g_autofree char *file = stasis_xml_get(source, "file");
    g_autofree char *dev = stasis_xml_get(source, "dev");
    return g_strcmp0(file, path) == 0 || g_strcmp0(dev, path) == 0;
}

/* What libvirt knows of the old file: its chain, its format, that writes are to be thrown away. */
static void forget_file(xmlNode *disk)
{
    static const char *const about_file[] = { "source",    "backingStore", "mirror",
                                              "transient", "encryption",   "auth" };
    for (gsize i = 0; i < G_N_ELEMENTS(about_file); i++)
        stasis_xml_remove(stasis_xml_child(disk, about_file[i]));
}

static xmlNode *find(StasisDomainDoc *doc, const char *path)
{
    xmlNode *devices = stasis_xml_child(stasis_xml_root(doc), "devices");
    xmlNode *disk = stasis_xml_child(devices, "disk");
    while (disk != NULL && !shows(disk, path))
        disk = stasis_xml_next(disk, "disk");
    return disk;
}

gboolean stasis_domain_xml_has_disk(StasisDomainDoc *doc, const char *path, gboolean *ret_lost)
{
    xmlNode *disk = find(doc, path);
    if (disk != NULL)
        *ret_lost = stasis_xml_child(disk, "transient") != NULL;
    return disk != NULL;
}

gboolean stasis_domain_xml_set_disk(StasisDomainDoc *doc, const char *path, const char *new_path)
{
    xmlNode *disk = find(doc, path);
    if (disk == NULL)
        return FALSE;
    forget_file(disk);
    stasis_xml_set(disk, "type", "file");
    xmlNode *driver = stasis_xml_ensure(disk, "driver");
    stasis_xml_set(driver, "name", "qemu");
    stasis_xml_set(driver, "type", "qcow2");
    stasis_xml_set(stasis_xml_add(disk, "source"), "file", new_path);
    return TRUE;
}

char *stasis_domain_xml_get_target(StasisDomainDoc *doc, const char *path)
{
    xmlNode *disk = find(doc, path);
    return disk != NULL ? stasis_xml_get(stasis_xml_child(disk, "target"), "dev") : NULL;
}

/* ---- which there are ---- */

char **stasis_domain_xml_list_targets(StasisDomainDoc *doc)
{
    GPtrArray *targets = g_ptr_array_new();
    xmlNode *devices = stasis_xml_child(stasis_xml_root(doc), "devices");
    for (xmlNode *disk = stasis_xml_child(devices, "disk"); disk != NULL;
         disk = stasis_xml_next(disk, "disk")) {
        char *target = stasis_xml_get(stasis_xml_child(disk, "target"), "dev");
        if (target != NULL)
            g_ptr_array_add(targets, target);
    }
    g_ptr_array_add(targets, NULL);
    return (char **)g_ptr_array_free(targets, FALSE);
}

/* A disk with a medium, and not one that is only read or thrown away. */
static gboolean is_written(xmlNode *disk)
{
    g_autofree char *device = stasis_xml_get(disk, "device");
    return (device == NULL || strcmp(device, "disk") == 0) &&
           stasis_xml_child(disk, "source") != NULL && stasis_xml_child(disk, "readonly") == NULL &&
           stasis_xml_child(disk, "transient") == NULL;
}

static char *describe(xmlNode *disk, GError **error)
{
    xmlNode *source = stasis_xml_child(disk, "source");
    g_autofree char *type = stasis_xml_get(disk, "type");
    g_autofree char *path = stasis_xml_get(source, g_strcmp0(type, "block") == 0 ? "dev" : "file");
    g_autofree char *format = stasis_xml_get(stasis_xml_child(disk, "driver"), "type");
    g_autofree char *target = stasis_xml_get(stasis_xml_child(disk, "target"), "dev");
    gboolean plain = stasis_xml_child(disk, "encryption") == NULL &&
                     stasis_xml_child(source, "encryption") == NULL;
    gboolean known = format == NULL || strcmp(format, "raw") == 0 || strcmp(format, "qcow2") == 0;
    if (path != NULL && path[0] == '/' && plain && known)
        return g_strdup_printf("%s:%s", format != NULL ? format : "raw", path);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "disk %s is no plain raw or qcow2 file or block device of this host",
                target != NULL ? target : "without a name");
    return NULL;
}

GPtrArray *stasis_domain_xml_list_disks(StasisDomainDoc *doc, GError **error)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(g_free);
    xmlNode *devices = stasis_xml_child(stasis_xml_root(doc), "devices");
    for (xmlNode *disk = stasis_xml_child(devices, "disk"); disk != NULL;
         disk = stasis_xml_next(disk, "disk")) {
        char *described = is_written(disk) ? describe(disk, error) : NULL;
        if (described != NULL)
            g_ptr_array_add(list, described);
        else if (is_written(disk))
            return NULL;
    }
    return g_steal_pointer(&list);
}
