/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/xml-load.h"

#include <libxml/parser.h>
#include <libxml/tree.h>

#include "base/late.h"

/* What it is called follows from its binary interface. */
#define LIBRARY (LIBXML_VERSION < 21400 ? "libxml2.so.2" : "libxml2.so.16")

/* Those that we call: result, name, parameters, arguments. */
#define FUNCTIONS(F)                                                                               \
    F(xmlDoc *, xmlReadMemory,                                                                     \
      (const char *text, int n, const char *url, const char *encoding, int options),               \
      (text, n, url, encoding, options))                                                           \
    F(xmlDoc *, xmlNewDoc, (const xmlChar *version), (version))                                    \
    F(void, xmlFreeDoc, (xmlDoc * doc), (doc))                                                     \
    F(xmlNode *, xmlDocGetRootElement, (const xmlDoc *doc), (doc))                                 \
    F(xmlNode *, xmlDocSetRootElement, (xmlDoc * doc, xmlNode * root), (doc, root))                \
    F(xmlNode *, xmlNewNode, (xmlNs * ns, const xmlChar *name), (ns, name))                        \
    F(xmlNode *, xmlNewChild,                                                                      \
      (xmlNode * parent, xmlNs * ns, const xmlChar *name, const xmlChar *content),                 \
      (parent, ns, name, content))                                                                 \
    F(void, xmlUnlinkNode, (xmlNode * node), (node))                                               \
    F(void, xmlFreeNode, (xmlNode * node), (node))                                                 \
    F(xmlNode *, xmlFirstElementChild, (xmlNode * parent), (parent))                               \
    F(xmlNode *, xmlNextElementSibling, (xmlNode * node), (node))                                  \
    F(xmlChar *, xmlGetNoNsProp, (const xmlNode *node, const xmlChar *name), (node, name))         \
    F(xmlAttr *, xmlSetProp, (xmlNode * node, const xmlChar *name, const xmlChar *value),          \
      (node, name, value))                                                                         \
    F(xmlChar *, xmlNodeGetContent, (const xmlNode *node), (node))                                 \
    F(void, xmlNodeSetContent, (xmlNode * node, const xmlChar *content), (node, content))          \
    F(xmlNs *, xmlNewNs, (xmlNode * node, const xmlChar *href, const xmlChar *prefix),             \
      (node, href, prefix))                                                                        \
    F(void, xmlSetNs, (xmlNode * node, xmlNs * ns), (node, ns))                                    \
    F(xmlNs *, xmlSearchNsByHref, (xmlDoc * doc, xmlNode * node, const xmlChar *href),             \
      (doc, node, href))                                                                           \
    F(xmlBuffer *, xmlBufferCreate, (void), ())                                                    \
    F(void, xmlBufferFree, (xmlBuffer * buffer), (buffer))                                         \
    F(const xmlChar *, xmlBufferContent, (const xmlBuffer *buffer), (buffer))                      \
    F(int, xmlNodeDump, (xmlBuffer * buffer, xmlDoc * doc, xmlNode * node, int level, int format), \
      (buffer, doc, node, level, format))

typedef struct {
#define MEMBER(type, name, params, args) __typeof__(name) *name;
    FUNCTIONS(MEMBER)
    xmlFreeFunc *free_function; /* a variable of the library's */
} Table;

static Table table;

gboolean stasis_xml_load(GError **error)
{
#define SYMBOL(type, name, params, args) { #name, G_STRUCT_OFFSET(Table, name) },
    static const StasisLateSymbol symbols[] = { FUNCTIONS(SYMBOL){
        "xmlFree", G_STRUCT_OFFSET(Table, free_function) } };
    static const StasisLateLibrary library = { LIBRARY,   "libxml2", "2.7.3",
                                               "libxml2", symbols,   G_N_ELEMENTS(symbols) };
    static GMutex lock;
    static gboolean loaded;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&lock);
    loaded = loaded || stasis_late_load(&library, &table, error);
    return loaded;
}

#define CALL(type, name, params, args) \
    type name params                   \
    {                                  \
        return table.name args;        \
    }
FUNCTIONS(CALL)

static void call_free(void *memory)
{
    (*table.free_function)(memory);
}

xmlFreeFunc xmlFree = call_free;
