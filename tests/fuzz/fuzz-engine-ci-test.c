/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: no test.json crashes us, and what is taken of one is a test, and the same again when it
 * is written. */
#include <stdint.h>
#include <string.h>

#include "engine/ci/ci-bundle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char *none[] = { NULL };
    g_autoptr(StasisCiTest) test = stasis_ci_test_from_text((const char *)data, size, NULL);
    if (test == NULL)
        return 0;
    if (test->argv[0] == NULL || test->outcome.name[0] == '\0' ||
        !stasis_ci_env_check((const char *const *)test->env, NULL))
        __builtin_trap();
    g_autofree char *text = stasis_ci_test_to_text(test);
    g_autoptr(StasisCiTest) again = stasis_ci_test_from_text(text, strlen(text), NULL);
    if (again == NULL || g_strcmp0(again->argv[0], test->argv[0]) != 0 ||
        g_strv_length(again->env != NULL ? again->env : none) !=
            g_strv_length(test->env != NULL ? test->env : none) ||
        again->outcome.kind != test->outcome.kind || again->timeout_us != test->timeout_us)
        __builtin_trap();
    return 0;
}
