/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a test came out, in words and as an exit status. */
#include "engine/ci/outcome.h"

#include <string.h>

static const char *const words[] = {
    [STASIS_OUTCOME_EXIT] = "exit",         [STASIS_OUTCOME_SIGNAL] = "signal",
    [STASIS_OUTCOME_TIMEOUT] = "timeout",   [STASIS_OUTCOME_PANIC] = "panic",
    [STASIS_OUTCOME_LOG] = "log",           [STASIS_OUTCOME_VM_END] = "vm ended",
    [STASIS_OUTCOME_LOST] = "lost",         [STASIS_OUTCOME_HANG] = "hang",
    [STASIS_OUTCOME_WATCHDOG] = "watchdog", [STASIS_OUTCOME_RESET] = "reset",
    [STASIS_OUTCOME_SURVIVED] = "survived",
};
G_STATIC_ASSERT(G_N_ELEMENTS(words) == STASIS_N_OUTCOMES);

StasisOutcomeKind stasis_outcome_kind(const char *failure)
{
    for (guint i = STASIS_OUTCOME_PANIC; i < STASIS_OUTCOME_SURVIVED; i++)
        if (strcmp(words[i], failure) == 0)
            return (StasisOutcomeKind)i;
    return strcmp(failure, "agent-lost") == 0 ? STASIS_OUTCOME_LOST : STASIS_OUTCOME_VM_END;
}

void stasis_outcome_name(StasisOutcome *outcome)
{
    gboolean numbered =
        outcome->kind == STASIS_OUTCOME_EXIT || outcome->kind == STASIS_OUTCOME_SIGNAL;
    if (numbered)
        g_snprintf(outcome->name, sizeof outcome->name, "%s %d", words[outcome->kind],
                   outcome->number);
    else
        g_strlcpy(outcome->name, words[outcome->kind], sizeof outcome->name);
}

gboolean stasis_outcome_is_good(const StasisOutcome *outcome)
{
    return outcome->kind == STASIS_OUTCOME_SURVIVED ||
           (outcome->kind == STASIS_OUTCOME_EXIT && outcome->number == 0);
}

int stasis_outcome_exit_code(const StasisOutcome *outcome)
{
    switch (outcome->kind) {
    case STASIS_OUTCOME_EXIT:
        return outcome->number;
    case STASIS_OUTCOME_SIGNAL:
        return 128 + outcome->number;
    case STASIS_OUTCOME_TIMEOUT:
        return 124;
    case STASIS_OUTCOME_SURVIVED:
        return 0;
    default:
        return 125;
    }
}
