/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guard does, in words: those of a command line, and of a policy. */
#include <stasis/error.h>
#include <stasis/guard.h>
#include <string.h>

gboolean stasis_guard_options_set_do(StasisGuardOptions *options, const char *const *words,
                                     GError **error)
{
    options->capture = words == NULL || *words == NULL;
    options->then = STASIS_GUARD_END;
    for (; words != NULL && *words != NULL; words++) {
        gboolean capture = strcmp(*words, "capture") == 0, back = strcmp(*words, "rollback") == 0;
        StasisGuardThen then = back ? STASIS_GUARD_ROLLBACK : STASIS_GUARD_RESTART;
        if (!capture && !back && strcmp(*words, "restart") != 0) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                        "\"%.40s\": a guard does capture, rollback or restart", *words);
            return FALSE;
        }
        if (!capture && options->then != STASIS_GUARD_END && options->then != then) {
            g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                                "--do rollback and --do restart: it can be one of them");
            return FALSE;
        }
        if (capture)
            options->capture = TRUE;
        else
            options->then = then;
    }
    return TRUE;
}
