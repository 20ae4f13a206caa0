/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/guest-memory.h"

#include "vmm/ram.h"

struct _StasisGuestMemory {
    StasisRam *ram;
    GPtrArray *layout; /* of StasisGpaRange */
};

StasisGuestMemory *stasis_guest_memory_new(StasisQmp *qmp, pid_t pid, GError **error)
{
    g_autoptr(StasisGuestMemory) memory = g_new0(StasisGuestMemory, 1);
    memory->ram = stasis_ram_discover(qmp, pid, error);
    if (memory->ram == NULL)
        return NULL;
    memory->layout = stasis_gpa_layout(qmp, memory->ram, error);
    return memory->layout != NULL ? g_steal_pointer(&memory) : NULL;
}

void stasis_guest_memory_free(StasisGuestMemory *memory)
{
    if (memory == NULL)
        return;
    g_clear_pointer(&memory->layout, g_ptr_array_unref);
    g_clear_pointer(&memory->ram, stasis_ram_free);
    g_free(memory);
}

static const StasisGpaRange *find_range(const StasisGuestMemory *memory, guint64 gpa)
{
    for (guint i = 0; i < memory->layout->len; i++) {
        const StasisGpaRange *range = g_ptr_array_index(memory->layout, i);
        if (gpa >= range->gpa && gpa - range->gpa < range->size_bytes)
            return range;
    }
    return NULL;
}

gboolean stasis_guest_memory_read(const StasisGuestMemory *memory, guint64 gpa, guint8 *dst,
                                  gsize len)
{
    while (len > 0) {
        const StasisGpaRange *range = find_range(memory, gpa);
        const StasisRamBlock *block =
            range != NULL ? stasis_ram_find(memory->ram, range->block, NULL) : NULL;
        if (block == NULL)
            return FALSE;
        guint64 at = gpa - range->gpa;
        gsize here = MIN(len, range->size_bytes - at);
        if (stasis_ram_read(memory->ram, block, range->offset + at, dst, here) != 0)
            return FALSE;
        gpa += here;
        dst += here;
        len -= here;
    }
    return TRUE;
}
