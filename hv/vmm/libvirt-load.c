/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/libvirt-load.h"

#include <dlfcn.h>
#include <stasis/error.h>

const StasisVirt *stasis_virt;

typedef struct {
    const char *name;
    gsize offset; /* in StasisVirt */
} Symbol;

#define SYMBOL(function) { #function, G_STRUCT_OFFSET(StasisVirt, function) },

static gboolean find(StasisVirt *table, const char *library, const Symbol *symbols, gsize n,
                     GError **error)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    for (gsize i = 0; handle != NULL && i < n; i++) {
        void *found = dlsym(handle, symbols[i].name);
        G_STRUCT_MEMBER(void *, table, symbols[i].offset) = found;
        if (found != NULL)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "%s has no %s: libvirt 8.2 or later is needed", library, symbols[i].name);
        return FALSE;
    }
    if (handle == NULL)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "no libvirt here: %s; install it (Debian: libvirt0)", dlerror());
    return handle != NULL;
}

gboolean stasis_virt_load(GError **error)
{
    static const Symbol plain[] = { STASIS_VIRT_FUNCTIONS(SYMBOL) };
    static const Symbol qemu[] = { STASIS_VIRT_QEMU_FUNCTIONS(SYMBOL) };
    static StasisVirt table;
    if (stasis_virt != NULL)
        return TRUE;
    if (!find(&table, "libvirt.so.0", plain, G_N_ELEMENTS(plain), error) ||
        !find(&table, "libvirt-qemu.so.0", qemu, G_N_ELEMENTS(qemu), error))
        return FALSE;
    stasis_virt = &table;
    return TRUE;
}
