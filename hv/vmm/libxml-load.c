/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/libxml-load.h"

#include <libxml/xmlversion.h>

#include "base/load.h"

/* The one whose structures the headers have. */
#if LIBXML_VERSION >= 21400
#define SONAME "libxml2.so.16"
#define PACKAGE "libxml2-16"
#else
#define SONAME "libxml2.so.2"
#define PACKAGE "libxml2"
#endif

const StasisLibxml *stasis_libxml;

#define SYMBOL(name) { #name, G_STRUCT_OFFSET(StasisLibxml, name) },

gboolean stasis_libxml_load(GError **error)
{
    static const StasisSymbol symbols[] = { STASIS_LIBXML_SYMBOLS(SYMBOL) };
    static const StasisLibrary library = { SONAME, "libxml2 " LIBXML_DOTTED_VERSION, PACKAGE,
                                           symbols, G_N_ELEMENTS(symbols) };
    static StasisLibxml table;
    static GMutex lock;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&lock);
    if (stasis_libxml == NULL && stasis_library_load(&library, &table, error))
        stasis_libxml = &table;
    return stasis_libxml != NULL;
}
