/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: whatever QEMU tells about its network, the names found in it are in it, and bounded. */
#include <stdint.h>
#include <string.h>

#include "vmm/output-hold.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_auto(GStrv) names = stasis_output_parse_backends(text, NULL);
    if (g_strv_length(names) > STASIS_OUTPUT_MAX_BACKENDS + 1)
        __builtin_trap();
    for (char **name = names; *name != NULL; name++)
        if (**name == '\0' || strstr(text, *name) == NULL || strchr(*name, '\n') != NULL)
            __builtin_trap();
    if (names[0] != NULL) {
        const char *const one[] = { names[0], NULL };
        g_auto(GStrv) chosen = stasis_output_parse_backends(text, one);
        if (chosen[0] == NULL)
            __builtin_trap();
    }
    return 0;
}
