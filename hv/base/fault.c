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
static StasisErrorCode code;
static gint n_left; /* times that it does something; atomic */

/* "error", or the name of a code, and how often. */
static void parse_failure(const char *how)
{
    g_auto(GStrv) words = g_strsplit(how, "*", 2);
    const char *name = words[0] != NULL ? words[0] : "";
    code = stasis_error_from_name(name);
    armed_to_fail = code != STASIS_ERROR_FAILED || strcmp(name, "error") == 0;
    if (armed_to_fail && words[1] != NULL)
        n_left = (gint)CLAMP(g_ascii_strtoull(words[1], NULL, 10), 1, G_MAXINT);
}

static void parse_environment(void)
{
    gint found = STASIS_N_FAULTS;
    const char *spec = g_getenv("STASIS_FAULT");
    for (gint i = 0; spec != NULL && i < STASIS_N_FAULTS; i++) {
        size_t len = strlen(names[i]);
        if (strncmp(spec, names[i], len) != 0 || (spec[len] != '\0' && spec[len] != ':'))
            continue;
        armed_to_hold = strcmp(spec + len, ":hold") == 0;
        n_left = 1;
        if (spec[len] == ':')
            parse_failure(spec + len + 1);
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
    gint left = g_atomic_int_add(&n_left, -1);
    if (left <= 1)
        g_atomic_int_set(&armed, STASIS_N_FAULTS);
    if (left < 1)
        return TRUE;
    if (armed_to_hold) {
        kill(getpid(), SIGSTOP);
        g_usleep(HEAR_US);
        return TRUE;
    }
    if (!armed_to_fail)
        kill(getpid(), SIGKILL);
    g_set_error(error, STASIS_ERROR, (gint)code, "fault point %s: failed on request", names[fault]);
    return FALSE;
}
