/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: no machine.json crashes us, and one that is taken can be written again and prepared for
 * a start (which is the next thing that happens to it). */
#include <stdint.h>

#include "vmm/machine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GBytes) json = g_bytes_new(data, size);
    g_autoptr(StasisMachine) machine = stasis_machine_from_json(json, NULL);
    if (machine == NULL)
        return 0;
    g_autoptr(GBytes) text = stasis_machine_to_json(machine);
    g_autoptr(StasisMachine) again = stasis_machine_from_json(text, NULL);
    if (again == NULL ||
        !g_strv_equal((const char *const *)machine->argv, (const char *const *)again->argv))
        __builtin_trap();

    StasisLaunchOptions one = { "/run/one", "tcg", FALSE }, two = { "/run/two", "tcg", TRUE };
    g_autoptr(StasisLaunch) first =
        stasis_launch_prepare((const char *const *)machine->argv, &one, NULL);
    if (first == NULL)
        return 0; /* its last option lacks an argument */
    g_autoptr(StasisLaunch) second =
        stasis_launch_prepare((const char *const *)first->argv, &two, NULL);
    g_autoptr(StasisLaunch) third =
        second != NULL ? stasis_launch_prepare((const char *const *)second->argv, &two, NULL)
                       : NULL;
    /* Prepared again it stays as it is. */
    if (third == NULL ||
        !g_strv_equal((const char *const *)second->argv, (const char *const *)third->argv))
        __builtin_trap();
    return 0;
}
