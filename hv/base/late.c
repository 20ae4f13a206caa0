/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/late.h"

#include <dlfcn.h>
#include <stasis/error.h>

gboolean stasis_late_load(const StasisLateLibrary *library, gpointer table, GError **error)
{
    void *handle = dlopen(library->library, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "no %s here: %s; install it (Debian: %s)", library->what, dlerror(),
                    library->package);
        return FALSE;
    }
    for (gsize i = 0; i < library->n_symbols; i++) {
        const StasisLateSymbol *symbol = &library->symbols[i];
        void *found = dlsym(handle, symbol->name);
        if (found == NULL) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                        "%s has no %s: %s %s or later is needed", library->library, symbol->name,
                        library->what, library->least);
            return FALSE;
        }
        G_STRUCT_MEMBER(void *, table, symbol->offset) = found;
    }
    return TRUE;
}
