/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/nbd-load.h"

#include "base/load.h"

const StasisLibnbd *stasis_libnbd;

#define SYMBOL(function) { #function, G_STRUCT_OFFSET(StasisLibnbd, function) },

gboolean stasis_libnbd_load(GError **error)
{
    static const StasisSymbol symbols[] = { STASIS_LIBNBD_FUNCTIONS(SYMBOL) };
    static const StasisLibrary library = { "libnbd.so.0", "libnbd 1.14 or later", "libnbd0",
                                           symbols, G_N_ELEMENTS(symbols) };
    static StasisLibnbd table;
    static GMutex lock;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&lock);
    if (stasis_libnbd == NULL && stasis_library_load(&library, &table, error))
        stasis_libnbd = &table;
    return stasis_libnbd != NULL;
}
