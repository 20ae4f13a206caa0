/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: whatever a QEMU's monitor prints, or stands in a memory map, is read or refused, never a
 * crash. The first byte picks the parser. */
#include <stddef.h>
#include <stdint.h>

#include "vmm/ram-internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    g_autofree char *text = g_strndup((const char *)data + 1, size - 1);
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) list = NULL;
    guint64 hva;
    switch (data[0] % 4) {
    case 0:
        list = stasis_ram_list_parse(text, &error);
        break;
    case 1:
        list = stasis_gpa_view_parse(text, &error);
        break;
    case 2:
        list = stasis_procmaps_parse(text, &error);
        for (guint i = 0; list != NULL && i < list->len; i++) {
            const StasisMapping *map = g_ptr_array_index(list, i);
            g_assert(stasis_procmaps_find(list, map->start) == map);
            stasis_procmaps_cover(list, map->start, map->end - map->start + 4096);
        }
        break;
    default:
        g_assert(!stasis_gpa2hva_parse(text, &hva) || hva != 0);
        return 0;
    }
    g_assert((list == NULL) == (error != NULL));
    return 0;
}
