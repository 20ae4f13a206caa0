/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/load.h"

#include <dlfcn.h>
#include <stasis/error.h>

gboolean stasis_library_load(const StasisLibrary *library, gpointer table, GError **error)
{
    void *handle = dlopen(library->soname, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED, "%s; install it (Debian: %s)",
                    dlerror(), library->package);
        return FALSE;
    }
    for (gsize i = 0; i < library->n_symbols; i++) {
        void *found = dlsym(handle, library->symbols[i].name);
        G_STRUCT_MEMBER(void *, table, library->symbols[i].offset) = found;
        if (found != NULL)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED, "%s has no %s: %s is needed",
                    library->soname, library->symbols[i].name, library->needed);
        return FALSE;
    }
    return TRUE;
}
