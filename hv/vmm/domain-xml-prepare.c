/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What makes a domain quicker to checkpoint from its next start on: RAM in a memfd, KVM's dirty
 * log through the shim, a channel for the guest agent.
 *
 * What was added is noted in the definition's <metadata>, so that it can be taken out again and
 * nothing else with it, however long after. libvirt adds controllers by itself for a new device:
 * those that were there before are noted, too.
 */
#include <string.h>

#include "vmm/domain-xml.h"
#include "vmm/libxml-load.h"

#define NAMESPACE "https://stasis.invalid/prepared/1"
#define QEMU_NAMESPACE "http://libvirt.org/schemas/domain/qemu/1.0"
#define AGENT_NAME "org.stasis.agent.0"

typedef struct {
    xmlNode *root;
    xmlNode *mark; /* our element in <metadata> */
    GPtrArray *notes;
    gboolean changed;
} Prepare;

static void G_GNUC_PRINTF(2, 3) note(Prepare *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (p->notes != NULL)
        g_ptr_array_add(p->notes, g_strdup_vprintf(format, args));
    va_end(args);
}

/* Noted as done by us. */
static void did(Prepare *p, const char *what)
{
    stasis_xml_set(p->mark, what, "yes");
    p->changed = TRUE;
}

static gboolean have_done(xmlNode *mark, const char *what)
{
    g_autofree char *value = stasis_xml_get(mark, what);
    return g_strcmp0(value, "yes") == 0;
}

static xmlNode *child_of_namespace(xmlNode *parent, const char *name, const char *href)
{
    for (xmlNode *n = parent != NULL ? parent->children : NULL; n != NULL; n = n->next)
        if (n->type == XML_ELEMENT_NODE && n->ns != NULL && n->ns->href != NULL &&
            strcmp((const char *)n->name, name) == 0 &&
            strcmp((const char *)n->ns->href, href) == 0)
            return n;
    return NULL;
}

static gboolean has_elements(xmlNode *node)
{
    return stasis_libxml->xmlFirstElementChild(node) != NULL;
}

/* ---- controllers ---- */

static char *controller_key(xmlNode *controller)
{
    g_autofree char *type = stasis_xml_get(controller, "type");
    g_autofree char *index = stasis_xml_get(controller, "index");
    return g_strdup_printf("%s:%s", type != NULL ? type : "", index != NULL ? index : "");
}

static void note_controllers(Prepare *p)
{
    g_autoptr(GString) keys = g_string_new(NULL);
    xmlNode *devices = stasis_xml_child(p->root, "devices");
    for (xmlNode *c = stasis_xml_child(devices, "controller"); c != NULL;
         c = stasis_xml_next(c, "controller")) {
        g_autofree char *key = controller_key(c);
        g_string_append_printf(keys, "%s%s", keys->len > 0 ? " " : "", key);
    }
    stasis_xml_set(p->mark, "controllers", keys->str);
}

/* Number @text, which may be "0x01", is that of @attribute. */
static gboolean is_number(xmlNode *address, const char *attribute, const char *text)
{
    g_autofree char *value = stasis_xml_get(address, attribute);
    return value != NULL && text != NULL &&
           g_ascii_strtoull(value, NULL, 0) == g_ascii_strtoull(text, NULL, 0);
}

/* Does another device sit on that controller, or may it? */
static gboolean is_in_use(xmlNode *devices, xmlNode *controller)
{
    g_autofree char *type = stasis_xml_get(controller, "type");
    g_autofree char *index = stasis_xml_get(controller, "index");
    if (type == NULL || index == NULL)
        return TRUE;
    gboolean pci = strcmp(type, "pci") == 0;
    for (xmlNode *n = stasis_libxml->xmlFirstElementChild(devices); n != NULL;
         n = stasis_libxml->xmlNextElementSibling(n)) {
        xmlNode *address = stasis_xml_child(n, "address");
        g_autofree char *kind = stasis_xml_get(address, "type");
        if (n == controller || kind == NULL || strcmp(kind, pci ? "pci" : type) != 0)
            continue;
        if (is_number(address, pci ? "bus" : "controller", index))
            return TRUE;
    }
    return FALSE;
}

static xmlNode *unused_new_controller(xmlNode *devices, const char *const *before)
{
    for (xmlNode *c = stasis_xml_child(devices, "controller"); c != NULL;
         c = stasis_xml_next(c, "controller")) {
        g_autofree char *key = controller_key(c);
        if (!g_strv_contains(before, key) && !is_in_use(devices, c))
            return c;
    }
    return NULL;
}

/* One by one: a root port is free once what was behind it is gone. */
static void remove_new_controllers(xmlNode *root, xmlNode *mark)
{
    g_autofree char *text = stasis_xml_get(mark, "controllers");
    xmlNode *devices = stasis_xml_child(root, "devices"), *controller;
    if (text == NULL || devices == NULL)
        return;
    g_auto(GStrv) before = g_strsplit(text, " ", -1);
    while ((controller = unused_new_controller(devices, (const char *const *)before)) != NULL)
        stasis_xml_remove(controller);
}

/* ---- RAM ---- */

static void prepare_ram(Prepare *p)
{
    xmlNode *backing = stasis_xml_child(p->root, "memoryBacking");
    xmlNode *source = stasis_xml_child(backing, "source");
    g_autofree char *type = stasis_xml_get(source, "type");
    g_autofree char *access = stasis_xml_get(stasis_xml_child(backing, "access"), "mode");
    if (stasis_xml_child(backing, "hugepages") != NULL || stasis_xml_child(backing, "locked")) {
        note(p, "RAM: left as it is: huge or locked pages, which KVM's own dirty log can't be had "
                "with");
        return;
    }
    if (g_strcmp0(type, "memfd") == 0 && g_strcmp0(access, "shared") == 0) {
        note(p, "RAM: in a memfd already");
        return;
    }
    if ((type != NULL && strcmp(type, "anonymous") != 0) || access != NULL) {
        note(p, "RAM: left as it is: <memoryBacking> asks for something else");
        return;
    }
    if (backing == NULL)
        did(p, "ram-backing");
    backing = stasis_xml_ensure(p->root, "memoryBacking");
    if (type != NULL)
        did(p, "ram-was-anonymous");
    stasis_xml_set(stasis_xml_ensure(backing, "source"), "type", "memfd");
    stasis_xml_set(stasis_xml_ensure(backing, "access"), "mode", "shared");
    did(p, "ram");
    note(p, "RAM: in a shared memfd, which is read at memory speed");
}

static void unprepare_ram(xmlNode *root, xmlNode *mark)
{
    xmlNode *backing = stasis_xml_child(root, "memoryBacking");
    if (!have_done(mark, "ram") || backing == NULL)
        return;
    stasis_xml_remove(stasis_xml_child(backing, "access"));
    if (have_done(mark, "ram-was-anonymous"))
        stasis_xml_set(stasis_xml_ensure(backing, "source"), "type", "anonymous");
    else
        stasis_xml_remove(stasis_xml_child(backing, "source"));
    if (have_done(mark, "ram-backing") && !has_elements(backing))
        stasis_xml_remove(backing);
}

/* ---- the shim ---- */

static xmlNode *find_preload(xmlNode *commandline)
{
    for (xmlNode *n = commandline != NULL ? commandline->children : NULL; n != NULL; n = n->next) {
        g_autofree char *name = n->type == XML_ELEMENT_NODE ? stasis_xml_get(n, "name") : NULL;
        if (strcmp((const char *)n->name, "env") == 0 && g_strcmp0(name, "LD_PRELOAD") == 0)
            return n;
    }
    return NULL;
}

/* The prefix is free to choose, and may be taken by another namespace. */
static xmlNs *qemu_namespace(xmlNode *root)
{
    static const char *const prefixes[] = { "qemu", "stasis-qemu" };
    xmlNs *ns = stasis_libxml->xmlSearchNsByHref(root->doc, root, (const xmlChar *)QEMU_NAMESPACE);
    for (gsize i = 0; i < G_N_ELEMENTS(prefixes) && ns == NULL; i++)
        ns = stasis_libxml->xmlNewNs(root, (const xmlChar *)QEMU_NAMESPACE,
                                     (const xmlChar *)prefixes[i]);
    return ns;
}

static void prepare_shim(Prepare *p, const char *shim)
{
    g_autofree char *type = stasis_xml_get(p->root, "type");
    if (g_strcmp0(type, "kvm") != 0) {
        note(p, "shim: not under TCG");
        return;
    }
    if (shim == NULL || strpbrk(shim, ": ") != NULL) {
        note(p, "shim: stasis-shim.so is not installed where the library is");
        return;
    }
    xmlNode *commandline = child_of_namespace(p->root, "commandline", QEMU_NAMESPACE);
    xmlNode *preload = find_preload(commandline);
    if (preload != NULL) {
        g_autofree char *value = stasis_xml_get(preload, "value");
        note(p, strcmp(value != NULL ? value : "", shim) == 0
                    ? "shim: preloaded already"
                    : "shim: left out: something else is preloaded into this domain's QEMU");
        return;
    }
    xmlNs *ns = qemu_namespace(p->root);
    if (ns == NULL) {
        note(p, "shim: left out: both names for libvirt's QEMU namespace are taken");
        return;
    }
    if (commandline == NULL)
        commandline = stasis_libxml->xmlNewChild(p->root, ns, (const xmlChar *)"commandline", NULL);
    preload = stasis_libxml->xmlNewChild(commandline, ns, (const xmlChar *)"env", NULL);
    stasis_xml_set(preload, "name", "LD_PRELOAD");
    stasis_xml_set(preload, "value", shim);
    did(p, "shim");
    note(p, "shim: %s, which must be readable by QEMU's user", shim);
}

static void unprepare_shim(xmlNode *root, xmlNode *mark)
{
    xmlNode *commandline = child_of_namespace(root, "commandline", QEMU_NAMESPACE);
    if (!have_done(mark, "shim") || commandline == NULL)
        return;
    stasis_xml_remove(find_preload(commandline));
    if (!has_elements(commandline))
        stasis_xml_remove(commandline);
}

/* ---- the agent ---- */

static xmlNode *find_agent(xmlNode *devices)
{
    for (xmlNode *c = stasis_xml_child(devices, "channel"); c != NULL;
         c = stasis_xml_next(c, "channel")) {
        g_autofree char *name = stasis_xml_get(stasis_xml_child(c, "target"), "name");
        if (g_strcmp0(name, AGENT_NAME) == 0)
            return c;
    }
    return NULL;
}

static void prepare_agent(Prepare *p, const char *path)
{
    xmlNode *devices = stasis_xml_child(p->root, "devices");
    if (devices == NULL || find_agent(devices) != NULL) {
        note(p, "agent: it has a channel already");
        return;
    }
    xmlNode *channel = stasis_xml_add(devices, "channel");
    xmlNode *source = stasis_xml_add(channel, "source"),
            *target = stasis_xml_add(channel, "target");
    stasis_xml_set(channel, "type", "unix");
    stasis_xml_set(source, "mode", "bind");
    stasis_xml_set(source, "path", path);
    stasis_xml_set(target, "type", "virtio");
    stasis_xml_set(target, "name", AGENT_NAME);
    did(p, "agent");
    note(p, "agent: channel %s at %s", AGENT_NAME, path);
}

static void unprepare_agent(xmlNode *root, xmlNode *mark)
{
    if (have_done(mark, "agent"))
        stasis_xml_remove(find_agent(stasis_xml_child(root, "devices")));
}

/* ---- all ---- */

static xmlNode *find_mark(xmlNode *root)
{
    return child_of_namespace(stasis_xml_child(root, "metadata"), "prepared", NAMESPACE);
}

static void add_mark(Prepare *p)
{
    if (p->mark != NULL)
        return;
    xmlNode *metadata = stasis_xml_ensure(p->root, "metadata");
    p->mark = stasis_libxml->xmlNewChild(metadata, NULL, (const xmlChar *)"prepared", NULL);
    stasis_libxml->xmlSetNs(p->mark, stasis_libxml->xmlNewNs(p->mark, (const xmlChar *)NAMESPACE,
                                                             (const xmlChar *)"stasis"));
    note_controllers(p);
}

static void remove_mark(xmlNode *mark)
{
    xmlNode *metadata = mark->parent;
    stasis_xml_remove(mark);
    if (!has_elements(metadata))
        stasis_xml_remove(metadata);
}

static gboolean prepare(StasisDomainDoc *doc, gboolean agent_only, const char *shim,
                        const char *agent_socket, GPtrArray *notes)
{
    Prepare p = { .root = stasis_xml_root(doc), .notes = notes };
    gboolean had_mark;
    p.mark = find_mark(p.root);
    had_mark = p.mark != NULL;
    add_mark(&p);
    if (!agent_only) {
        prepare_ram(&p);
        prepare_shim(&p, shim);
    }
    prepare_agent(&p, agent_socket);
    if (!p.changed && !had_mark)
        remove_mark(p.mark);
    return p.changed;
}

gboolean stasis_domain_xml_prepare(StasisDomainDoc *doc, const char *shim, const char *agent_socket,
                                   GPtrArray *notes)
{
    return prepare(doc, FALSE, shim, agent_socket, notes);
}

gboolean stasis_domain_xml_prepare_agent(StasisDomainDoc *doc, const char *agent_socket,
                                         GPtrArray *notes)
{
    return prepare(doc, TRUE, NULL, agent_socket, notes);
}

gboolean stasis_domain_xml_unprepare(StasisDomainDoc *doc)
{
    xmlNode *root = stasis_xml_root(doc);
    xmlNode *mark = find_mark(root);
    if (mark == NULL)
        return FALSE;
    unprepare_ram(root, mark);
    unprepare_shim(root, mark);
    unprepare_agent(root, mark);
    remove_new_controllers(root, mark);
    remove_mark(mark);
    return TRUE;
}
