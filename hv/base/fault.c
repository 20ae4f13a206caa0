/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/fault.h"

#include <signal.h>
#include <stasis/error.h>
#include <string.h>
#include <unistd.h>

#define NAME(id, name) name,
static const char *const names[] = { STASIS_FAULT_POINTS(NAME) NULL };
#undef NAME

const char *const *stasis_fault_names(void)
{
    return names;
}

/* After a hold: what came meanwhile, as Ctrl-C, is heard by its own thread before we go on. */
#define HEAR_US 300000

/* The armed point, or STASIS_N_FAULTS; parsed once. */
static gint armed = -1;
static gboolean armed_to_fail, armed_to_hold;

static void parse_environment(void)
{
    gint found = STASIS_N_FAULTS;
    const char *spec = g_getenv("STASIS_FAULT");
    for (gint i = 0; spec != NULL && i < STASIS_N_FAULTS; i++) {
        size_t len = strlen(names[i]);
        if (strncmp(spec, names[i], len) != 0 || (spec[len] != '\0' && spec[len] != ':'))
            continue;
        armed_to_fail = g_str_has_suffix(spec, ":error");
        armed_to_hold = g_str_has_suffix(spec, ":hold");
        found = i;
    }
    g_atomic_int_set(&armed, found);
}

gboolean stasis_fault(StasisFault fault, GError **error)
{
    if (G_UNLIKELY(g_atomic_int_get(&armed) < 0))
        parse_environment();
    if (G_LIKELY(g_atomic_int_get(&armed) != (gint)fault))
        return TRUE;
    g_atomic_int_set(&armed, STASIS_N_FAULTS);
    if (armed_to_hold) {
        kill(getpid(), SIGSTOP);
        g_usleep(HEAR_US);
        return TRUE;
    }
    if (!armed_to_fail)
        kill(getpid(), SIGKILL);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "fault point %s: failed on request",
                names[fault]);
    return FALSE;
}
