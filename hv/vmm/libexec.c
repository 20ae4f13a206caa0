/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/libexec.h"

#include <dlfcn.h>
#include <unistd.h>

static char *usable(char *path)
{
    g_autofree char *owned = path;
    return access(owned, X_OK) == 0 ? g_canonicalize_filename(owned, NULL) : NULL;
}

char *stasis_libexec_find(const char *name, const char *override)
{
    /* Of the build directory: beside it; tests lie two folders deeper. */
    static const char *const places[] = { ".", "..", "../..", "../libexec/stasis" };
    Dl_info self;
    const char *chosen = g_getenv(override);
    if (chosen != NULL)
        return g_strdup(chosen);
    char *found = NULL;
    if (dladdr((void *)stasis_libexec_find, &self) != 0 && self.dli_fname != NULL) {
        g_autofree char *dir = g_path_get_dirname(self.dli_fname);
        for (gsize i = 0; i < G_N_ELEMENTS(places) && found == NULL; i++)
            found = usable(g_build_filename(dir, places[i], name, NULL));
    }
    return found != NULL ? found : usable(g_build_filename(STASIS_LIBEXECDIR, name, NULL));
}
