/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: no policy's file crashes us, and what is taken of one can be carried out, and is the
 * same again when it is written. */
#include <stasis/policy.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(StasisPolicy) policy =
        stasis_policy_from_text((const char *)data, (gssize)size, NULL);
    if (policy == NULL)
        return 0;
    if (policy->vm == NULL || !stasis_policy_check(policy, NULL))
        __builtin_trap();
    g_autofree char *text = stasis_policy_to_text(policy);
    g_autoptr(StasisPolicy) again = stasis_policy_from_text(text, -1, NULL);
    g_autofree char *twice = again != NULL ? stasis_policy_to_text(again) : NULL;
    if (g_strcmp0(text, twice) != 0)
        __builtin_trap();
    return 0;
}
