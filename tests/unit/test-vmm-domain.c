/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a domain's XML is changed where it must be and nowhere else, hostile XML is refused, and
 * so is a URI that leads away from this host. */
#include <stasis/error.h>
#include <string.h>

#include "vmm/domain-xml.h"
#include "vmm/domain.h"

static const char full[] =
    "<domain type='kvm'>\n"
    "  <name>web</name>\n"
    "  <uuid>6b4c6fd3-4844-494a-a18b-234a199e3629</uuid>\n"
    "  <memory unit='KiB'>65536</memory>\n"
    "  <devices>\n"
    "    <disk type='file' device='disk'><source file='/d.qcow2'/><target dev='vda'/></disk>\n"
    "    <disk type='file' device='disk'><source file='/r.raw'/><readonly/></disk>\n"
    "    <disk type='file' device='cdrom'><source file='/c.iso'/></disk>\n"
    "    <controller type='pci' index='0' model='pcie-root'/>\n"
    "    <interface type='network'><mac address='52:54:00:00:00:01'/><source network='a'/>"
    "<target dev='tap7'/></interface>\n"
    "    <interface type='network'><source network='b'/></interface>\n"
    "    <serial type='file'><source path='/log'/></serial>\n"
    "    <channel type='unix'><source mode='bind' path='/sock'/><target type='virtio'/></channel>\n"
    "    <parallel type='tcp'><source mode='connect' host='h' service='1'/>"
    "<protocol type='raw'/></parallel>\n"
    "    <console type='pty'><target type='serial'/></console>\n"
    "    <graphics type='vnc' port='5901' autoport='no'/>\n"
    "  </devices>\n"
    "</domain>\n";

static StasisDomainDoc *parse(const char *xml)
{
    g_autoptr(GError) error = NULL;
    StasisDomainDoc *doc = stasis_domain_xml_parse(xml, strlen(xml), &error);
    g_assert_no_error(error);
    return doc;
}

static gboolean has(const char *text, const char *what)
{
    return strstr(text, what) != NULL;
}

static void hostile(void)
{
    static const char *const bad[] = {
        "",
        "x",
        "<domain",
        "<domain type='kvm'>",
        "<network/>",
        "<domain/>",
        "<domain type='lxc'/>",
        "<!DOCTYPE domain [<!ENTITY a 'b'>]><domain type='kvm'><name>&a;</name></domain>",
        "<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain type='kvm'/>",
    };
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(stasis_domain_xml_parse(bad[i], strlen(bad[i]), &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    }
    g_autofree char *large = g_strnfill(5 << 20, ' ');
    g_autoptr(GError) error = NULL;
    g_assert_null(stasis_domain_xml_parse(large, strlen(large), &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

static void identity(void)
{
    g_autoptr(StasisDomainDoc) doc = parse(full);
    stasis_domain_xml_set_name(doc, "<&\"new");
    stasis_domain_xml_set_uuid(doc, "00000000-0000-0000-0000-000000000001");
    g_autofree char *text = stasis_domain_xml_to_text(doc);
    g_autoptr(StasisDomainDoc) again = parse(text);
    g_autofree char *name = stasis_domain_xml_get_name(again);
    g_autofree char *uuid = stasis_domain_xml_get_uuid(again);
    g_autofree char *type = stasis_domain_xml_get_type(again);
    g_assert_cmpstr(name, ==, "<&\"new");
    g_assert_cmpstr(uuid, ==, "00000000-0000-0000-0000-000000000001");
    g_assert_cmpstr(type, ==, "kvm");

    g_autoptr(StasisDomainDoc) bare = parse("<domain type='qemu'/>");
    g_assert_null(stasis_domain_xml_get_name(bare));
    stasis_domain_xml_set_name(bare, "x");
    g_autofree char *bare_text = stasis_domain_xml_to_text(bare);
    g_assert_true(has(bare_text, "<name>x</name>"));
}

static void cloned(void)
{
    g_autoptr(StasisDomainDoc) doc = parse(full);
    g_auto(GStrv) macs = NULL;
    g_autoptr(GError) error = NULL;
    stasis_domain_xml_make_clone(doc, "ci-1", FALSE, FALSE, &macs, &error);
    g_assert_no_error(error);
    g_autofree char *text = stasis_domain_xml_to_text(doc);
    g_assert_cmpuint(g_strv_length(macs), ==, 2);
    g_assert_cmpstr(macs[0], !=, macs[1]);
    g_assert_true(has(text, macs[0]) && has(text, macs[1]));
    g_assert_false(has(text, "52:54:00:00:00:01") || has(text, "tap7"));
    g_auto(GStrv) links = g_strsplit(text, "<link state=\"down\"/>", -1);
    g_assert_cmpuint(g_strv_length(links), ==, 3);
    /* The one disk that is written. */
    g_auto(GStrv) transient = g_strsplit(text, "<transient shareBacking=\"yes\"/>", -1);
    g_assert_cmpuint(g_strv_length(transient), ==, 2);
    g_assert_true(has(transient[0], "/d.qcow2") && !has(transient[0], "/r.raw"));
    g_assert_true(has(text, "path=\"/log.ci-1\"") && has(text, "path=\"/sock.ci-1\""));
    g_assert_true(has(text, "<parallel type=\"null\"/>") && has(text, "<console type=\"pty\">"));
    g_assert_true(has(text, "port=\"-1\"") && has(text, "autoport=\"yes\""));
    g_assert_true(has(text, "<name>ci-1</name>") && has(text, "65536"));
}

static void cloned_as_is(void)
{
    g_autoptr(StasisDomainDoc) doc = parse(full);
    g_auto(GStrv) macs = NULL;
    g_autoptr(GError) error = NULL;
    stasis_domain_xml_make_clone(doc, "two", TRUE, TRUE, &macs, &error);
    g_assert_no_error(error);
    g_autofree char *text = stasis_domain_xml_to_text(doc);
    g_assert_cmpuint(g_strv_length(macs), ==, 0);
    g_assert_true(has(text, "52:54:00:00:00:01") && !has(text, "<link"));
}

static void not_twice(void)
{
    static const char *const devices[] = { "hostdev", "tpm", "shmem", "vsock", "filesystem" };
    for (gsize i = 0; i < G_N_ELEMENTS(devices); i++) {
        g_autofree char *xml = g_strdup_printf(
            "<domain type='kvm'><name>a</name><devices><%s/></devices></domain>", devices[i]);
        g_autoptr(StasisDomainDoc) doc = parse(xml);
        g_auto(GStrv) macs = NULL;
        g_autoptr(GError) error = NULL;
        g_assert_false(stasis_domain_xml_make_clone(doc, "b", FALSE, FALSE, &macs, &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
        g_assert_true(has(error->message, devices[i]));
    }
    g_autoptr(StasisDomainDoc) doc = parse("<domain type='kvm'><genid/></domain>");
    g_auto(GStrv) macs = NULL;
    g_assert_false(stasis_domain_xml_make_clone(doc, "b", FALSE, FALSE, &macs, NULL));
    g_assert_true(stasis_domain_xml_make_clone(doc, "b", TRUE, FALSE, &macs, NULL));
}

/* Whatever is there already, preparing and taking back ends where it began. */
static void prepared(void)
{
    static const char *const middles[] = {
        "",
        "<memoryBacking><nosharepages/></memoryBacking>",
        "<memoryBacking><source type='anonymous'/></memoryBacking>",
        "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
        "<memoryBacking><source type='file'/></memoryBacking>",
        "<memoryBacking><hugepages/></memoryBacking>",
        "<metadata><x:y xmlns:x='urn:x'/></metadata>",
        "<qemu:commandline><qemu:arg value='-S'/></qemu:commandline>",
        "<qemu:commandline><qemu:env name='LD_PRELOAD' value='/other.so'/></qemu:commandline>",
    };
    for (gsize i = 0; i < G_N_ELEMENTS(middles); i++) {
        g_autofree char *xml =
            g_strdup_printf("<domain type='kvm' "
                            "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/"
                            "1.0'>%s<devices><controller type='pci' index='0'/></devices></domain>",
                            middles[i]);
        g_autoptr(StasisDomainDoc) doc = parse(xml);
        g_autofree char *before = stasis_domain_xml_to_text(doc);
        g_assert_true(stasis_domain_xml_prepare(doc, "/shim.so", "/agent", NULL));
        g_autofree char *once = stasis_domain_xml_to_text(doc);
        g_assert_true(has(once, "org.stasis.agent.0"));
        g_assert_cmpint(has(once, "value=\"/shim.so\""), ==, i != 8);
        g_assert_cmpint(has(once, "type=\"memfd\""), ==, i != 4 && i != 5);
        g_assert_false(stasis_domain_xml_prepare(doc, "/shim.so", "/agent", NULL));
        g_autofree char *twice = stasis_domain_xml_to_text(doc);
        g_assert_cmpstr(once, ==, twice);
        g_assert_true(stasis_domain_xml_unprepare(doc));
        g_autofree char *after = stasis_domain_xml_to_text(doc);
        g_assert_cmpstr(after, ==, before);
        g_assert_false(stasis_domain_xml_unprepare(doc));
    }
}

/* The channel to the agent alone, and taken back with the rest. */
static void prepared_agent(void)
{
    g_autoptr(StasisDomainDoc) doc =
        parse("<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/"
              "1.0'><devices/></domain>");
    g_autofree char *before = stasis_domain_xml_to_text(doc);
    g_assert_true(stasis_domain_xml_prepare_agent(doc, "/agent", NULL));
    g_assert_false(stasis_domain_xml_prepare_agent(doc, "/agent", NULL));
    g_autofree char *once = stasis_domain_xml_to_text(doc);
    g_assert_true(has(once, "org.stasis.agent.0"));
    g_assert_false(has(once, "memfd") || has(once, "LD_PRELOAD"));
    g_assert_true(stasis_domain_xml_prepare(doc, "/shim.so", "/agent", NULL));
    g_assert_true(stasis_domain_xml_unprepare(doc));
    g_autofree char *after = stasis_domain_xml_to_text(doc);
    g_assert_cmpstr(after, ==, before);
}

#define DISK(type, inside) \
    "<disk type='" type "' device='disk'>" inside "<target dev='vda'/></disk>"

/* Which disks may be written to from outside, and what is none of those. */
static void listed_disks(void)
{
    static const struct {
        const char *disk, *found; /* NULL: refused, "": passed over */
    } cases[] = {
        { DISK("file", "<driver type='qcow2'/><source file='/a:b'/>"), "qcow2:/a:b" },
        { DISK("block", "<source dev='/dev/x'/>"), "raw:/dev/x" },
        { DISK("file", ""), "" },
        { DISK("file", "<source file='/a'/><readonly/>"), "" },
        { DISK("file", "<source file='/a'/><transient/>"), "" },
        { "<disk type='file' device='cdrom'><source file='/a'/></disk>", "" },
        { DISK("file", "<driver type='vmdk'/><source file='/a'/>"), NULL },
        { DISK("file", "<source file='a'/>"), NULL },
        { DISK("file", "<source file='/a'><encryption format='luks'/></source>"), NULL },
        { DISK("network", "<source protocol='rbd' name='p/i'/>"), NULL },
        { DISK("volume", "<source pool='p' volume='v'/>"), NULL },
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *xml =
            g_strdup_printf("<domain type='kvm'><devices>%s</devices></domain>", cases[i].disk);
        g_autoptr(StasisDomainDoc) doc = parse(xml);
        g_autoptr(GError) error = NULL;
        g_autoptr(GPtrArray) list = stasis_domain_xml_list_disks(doc, &error);
        if (cases[i].found == NULL) {
            g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
            g_assert_nonnull(strstr(error->message, "vda"));
            continue;
        }
        g_assert_no_error(error);
        g_assert_cmpuint(list->len, ==, *cases[i].found != '\0');
        if (list->len > 0)
            g_assert_cmpstr(g_ptr_array_index(list, 0), ==, cases[i].found);
    }
}

/* A controller that libvirt added for our channel goes with it, one that got another use stays. */
static void controllers(void)
{
    g_autoptr(StasisDomainDoc) doc =
        parse("<domain type='kvm'><devices><controller type='pci' index='0'/></devices></domain>");
    g_assert_true(stasis_domain_xml_prepare(doc, NULL, "/agent", NULL));
    xmlNode *devices = stasis_xml_child(stasis_xml_root(doc), "devices");
    static const char *const added[][2] = { { "virtio-serial", "0" },
                                            { "pci", "1" },
                                            { "pci", "2" } };
    for (gsize i = 0; i < G_N_ELEMENTS(added); i++) {
        xmlNode *controller = stasis_xml_add(devices, "controller");
        stasis_xml_set(controller, "type", added[i][0]);
        stasis_xml_set(controller, "index", added[i][1]);
        if (i == 0) {
            xmlNode *address = stasis_xml_add(controller, "address");
            stasis_xml_set(address, "type", "pci");
            stasis_xml_set(address, "bus", "0x01");
        }
    }
    xmlNode *address = stasis_xml_add(stasis_xml_add(devices, "interface"), "address");
    stasis_xml_set(address, "type", "pci");
    stasis_xml_set(address, "bus", "0x02");
    g_assert_true(stasis_domain_xml_unprepare(doc));
    g_autofree char *text = stasis_domain_xml_to_text(doc);
    g_assert_false(has(text, "virtio-serial") || has(text, "index=\"1\""));
    g_assert_true(has(text, "index=\"0\"") && has(text, "index=\"2\""));
}

static void uris(void)
{
    static const char *const good[] = {
        "qemu:///system",
        "qemu:///session",
        "qemu+unix:///system",
        "qemu+unix:///session?socket=/run/user/1000/libvirt/libvirt-sock",
    };
    static const char *const bad[] = {
        "",
        "qemu",
        "qemu://",
        "qemu:///",
        "qemu:///embed",
        "qemu://host/system",
        "qemu+ssh://host/system",
        "qemu+ssh:///system",
        "qemu+tls://host/system",
        "qemu+tcp://host/system",
        "test:///default",
        "http://host/",
        "qemux:///system",
    };
    for (gsize i = 0; i < G_N_ELEMENTS(good); i++)
        g_assert_true(stasis_domain_check_uri(good[i], NULL));
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_false(stasis_domain_check_uri(bad[i], &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/domain/hostile", hostile);
    g_test_add_func("/vmm/domain/identity", identity);
    g_test_add_func("/vmm/domain/clone", cloned);
    g_test_add_func("/vmm/domain/clone-as-is", cloned_as_is);
    g_test_add_func("/vmm/domain/not-twice", not_twice);
    g_test_add_func("/vmm/domain/prepare", prepared);
    g_test_add_func("/vmm/domain/prepare-agent", prepared_agent);
    g_test_add_func("/vmm/domain/disks", listed_disks);
    g_test_add_func("/vmm/domain/controllers", controllers);
    g_test_add_func("/vmm/domain/uris", uris);
    return g_test_run();
}
