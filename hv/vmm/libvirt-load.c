/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/libvirt-load.h"

#include "base/late.h"

const StasisVirt *stasis_virt;

#define SYMBOL(function) { #function, G_STRUCT_OFFSET(StasisVirt, function) },

gboolean stasis_virt_load(GError **error)
{
    static const StasisLateSymbol plain[] = { STASIS_VIRT_FUNCTIONS(SYMBOL) };
    static const StasisLateSymbol qemu[] = { STASIS_VIRT_QEMU_FUNCTIONS(SYMBOL) };
    static const StasisLateLibrary libraries[] = {
        { "libvirt.so.0", "libvirt", "8.2", "libvirt0", plain, G_N_ELEMENTS(plain) },
        { "libvirt-qemu.so.0", "libvirt", "8.2", "libvirt0", qemu, G_N_ELEMENTS(qemu) },
    };
    static StasisVirt table;
    if (stasis_virt != NULL)
        return TRUE;
    for (gsize i = 0; i < G_N_ELEMENTS(libraries); i++)
        if (!stasis_late_load(&libraries[i], &table, error))
            return FALSE;
    stasis_virt = &table;
    return TRUE;
}
