/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/libvirt-load.h"

#include "base/load.h"

const StasisVirt *stasis_virt;

#define SYMBOL(function) { #function, G_STRUCT_OFFSET(StasisVirt, function) },
#define NEEDED "libvirt 8.2 or later"
#define PACKAGE "libvirt0"

gboolean stasis_virt_load(GError **error)
{
    static const StasisSymbol plain[] = { STASIS_VIRT_FUNCTIONS(SYMBOL) };
    static const StasisSymbol qemu[] = { STASIS_VIRT_QEMU_FUNCTIONS(SYMBOL) };
    static const StasisLibrary libraries[] = {
        { "libvirt.so.0", NEEDED, PACKAGE, plain, G_N_ELEMENTS(plain) },
        { "libvirt-qemu.so.0", NEEDED, PACKAGE, qemu, G_N_ELEMENTS(qemu) },
    };
    static StasisVirt table;
    if (stasis_virt != NULL)
        return TRUE;
    for (gsize i = 0; i < G_N_ELEMENTS(libraries); i++)
        if (!stasis_library_load(&libraries[i], &table, error)) {
            g_prefix_error(error, "no libvirt here: ");
            return FALSE;
        }
    stasis_virt = &table;
    return TRUE;
}
