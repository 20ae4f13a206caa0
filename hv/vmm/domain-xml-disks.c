/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A domain's disk with another file behind it; as the guest sees it, it stays what it is. */
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

gboolean stasis_domain_xml_set_disk(StasisDomainDoc *doc, const char *path, const char *new_path)
{
    xmlNode *devices = stasis_xml_child(xmlDocGetRootElement(doc), "devices");
    xmlNode *disk = stasis_xml_child(devices, "disk");
    while (disk != NULL && !shows(disk, path))
        disk = stasis_xml_next(disk, "disk");
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
