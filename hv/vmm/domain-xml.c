/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/domain-xml.h"

#include <stasis/error.h>
#include <string.h>

#include "vmm/libxml-load.h"

#define MAX_BYTES (4u << 20)

/* ---- nodes ---- */

static xmlNode *first_named(xmlNode *node, const char *name)
{
    for (; node != NULL; node = node->next)
        if (node->type == XML_ELEMENT_NODE && strcmp((const char *)node->name, name) == 0 &&
            node->ns == NULL)
            return node;
    return NULL;
}

xmlNode *stasis_xml_root(StasisDomainDoc *doc)
{
    return stasis_libxml->xmlDocGetRootElement(doc);
}

xmlNode *stasis_xml_child(xmlNode *parent, const char *name)
{
    return parent != NULL ? first_named(parent->children, name) : NULL;
}

xmlNode *stasis_xml_next(xmlNode *node, const char *name)
{
    return first_named(node->next, name);
}

xmlNode *stasis_xml_add(xmlNode *parent, const char *name)
{
    return stasis_libxml->xmlNewChild(parent, NULL, (const xmlChar *)name, NULL);
}

xmlNode *stasis_xml_ensure(xmlNode *parent, const char *name)
{
    xmlNode *child = stasis_xml_child(parent, name);
    return child != NULL ? child : stasis_xml_add(parent, name);
}

void stasis_xml_remove(xmlNode *node)
{
    if (node == NULL)
        return;
    stasis_libxml->xmlUnlinkNode(node);
    stasis_libxml->xmlFreeNode(node);
}

static char *take_text(xmlChar *text)
{
    char *copy = text != NULL ? g_strdup((const char *)text) : NULL;
    (*stasis_libxml->xmlFree)(text);
    return copy;
}

char *stasis_xml_get(xmlNode *node, const char *attribute)
{
    return node != NULL ? take_text(stasis_libxml->xmlGetNoNsProp(node, (const xmlChar *)attribute))
                        : NULL;
}

void stasis_xml_set(xmlNode *node, const char *attribute, const char *value)
{
    stasis_libxml->xmlSetProp(node, (const xmlChar *)attribute, (const xmlChar *)value);
}

static char *get_text(xmlNode *node)
{
    return node != NULL ? take_text(stasis_libxml->xmlNodeGetContent(node)) : NULL;
}

static void set_text(xmlNode *node, const char *text)
{
    g_autofree char *escaped = g_markup_escape_text(text, -1);
    stasis_libxml->xmlNodeSetContent(node, (const xmlChar *)escaped);
}

/* ---- documents ---- */

static StasisDomainDoc *corrupt(GError **error, const char *what)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "domain XML: %s", what);
    return NULL;
}

StasisDomainDoc *stasis_domain_xml_parse(const char *xml, gsize len, GError **error)
{
    if (!stasis_libxml_load(error))
        return NULL;
    if (len == 0 || len > MAX_BYTES)
        return corrupt(error, "nothing, or more than 4 MiB");
    /* No option that would replace entities or load a DTD: what refers to one is refused below. */
    g_autoptr(StasisDomainDoc) doc =
        stasis_libxml->xmlReadMemory(xml, (int)len, "domain.xml", NULL,
                                     XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    if (doc == NULL)
        return corrupt(error, "not well-formed");
    xmlNode *root = stasis_xml_root(doc);
    if (doc->intSubset != NULL)
        return corrupt(error, "it has a document type, which a domain's has not");
    if (root == NULL || strcmp((const char *)root->name, "domain") != 0)
        return corrupt(error, "its root is no <domain>");
    g_autofree char *type = stasis_xml_get(root, "type");
    if (g_strcmp0(type, "kvm") != 0 && g_strcmp0(type, "qemu") != 0)
        return corrupt(error, "its type is neither kvm nor qemu");
    return g_steal_pointer(&doc);
}

void stasis_domain_xml_free(StasisDomainDoc *doc)
{
    if (doc != NULL)
        stasis_libxml->xmlFreeDoc(doc);
}

/* The root alone: libvirt prints no declaration either. */
char *stasis_domain_xml_to_text(StasisDomainDoc *doc)
{
    xmlBuffer *buffer = stasis_libxml->xmlBufferCreate();
    stasis_libxml->xmlNodeDump(buffer, doc, stasis_xml_root(doc), 0, /* format= */ 1);
    char *text = g_strdup_printf("%s\n", (const char *)stasis_libxml->xmlBufferContent(buffer));
    stasis_libxml->xmlBufferFree(buffer);
    return text;
}

char *stasis_domain_xml_get_name(StasisDomainDoc *doc)
{
    return get_text(stasis_xml_child(stasis_xml_root(doc), "name"));
}

char *stasis_domain_xml_get_uuid(StasisDomainDoc *doc)
{
    return get_text(stasis_xml_child(stasis_xml_root(doc), "uuid"));
}

char *stasis_domain_xml_get_type(StasisDomainDoc *doc)
{
    return stasis_xml_get(stasis_xml_root(doc), "type");
}

void stasis_domain_xml_set_name(StasisDomainDoc *doc, const char *name)
{
    set_text(stasis_xml_ensure(stasis_xml_root(doc), "name"), name);
}

void stasis_domain_xml_set_uuid(StasisDomainDoc *doc, const char *uuid)
{
    xmlNode *root = stasis_xml_root(doc);
    set_text(stasis_xml_ensure(root, "uuid"), uuid);
    /* The same number once more, where SMBIOS is given by hand. */
    xmlNode *system = stasis_xml_child(stasis_xml_child(root, "sysinfo"), "system");
    for (xmlNode *entry = stasis_xml_child(system, "entry"); entry != NULL;
         entry = stasis_xml_next(entry, "entry")) {
        g_autofree char *what = stasis_xml_get(entry, "name");
        if (g_strcmp0(what, "uuid") == 0)
            set_text(entry, uuid);
    }
}
