/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libxml2's functions, looked up when the first domain's XML is read: it brings Unicode's tables
 * and C++'s library along, which programs that see no domain have no use for.
 */
#pragma once

#include <glib.h>
#include <libxml/parser.h>
#include <libxml/tree.h>

G_BEGIN_DECLS

/* xmlFree is a variable of the library's: a function's address. */
#define STASIS_LIBXML_SYMBOLS(X) \
    X(xmlBufferContent)          \
    X(xmlBufferCreate)           \
    X(xmlBufferFree)             \
    X(xmlCopyDoc)                \
    X(xmlDocGetRootElement)      \
    X(xmlDocSetRootElement)      \
    X(xmlFirstElementChild)      \
    X(xmlFree)                   \
    X(xmlFreeDoc)                \
    X(xmlFreeNode)               \
    X(xmlGetNoNsProp)            \
    X(xmlNewChild)               \
    X(xmlNewDoc)                 \
    X(xmlNewNode)                \
    X(xmlNewNs)                  \
    X(xmlNextElementSibling)     \
    X(xmlNodeDump)               \
    X(xmlNodeGetContent)         \
    X(xmlNodeSetContent)         \
    X(xmlReadMemory)             \
    X(xmlSearchNsByHref)         \
    X(xmlSetNs)                  \
    X(xmlSetProp)                \
    X(xmlUnlinkNode)

typedef struct {
#define STASIS_LIBXML_MEMBER(name) __typeof__(name) *name;
    STASIS_LIBXML_SYMBOLS(STASIS_LIBXML_MEMBER)
#undef STASIS_LIBXML_MEMBER
} StasisLibxml;

/* NULL before stasis_libxml_load() went well. */
extern const StasisLibxml *stasis_libxml;

/* STASIS_ERROR_UNSUPPORTED when there is no libxml2. For any thread. */
gboolean stasis_libxml_load(GError **error);

G_END_DECLS
