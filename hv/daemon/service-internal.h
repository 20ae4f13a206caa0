/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the service share: service.c has the policies, runs.c when they are due and how
 * that went. */
#pragma once

#include <gio/gio.h>

#include "daemon/policy-state.h"
#include "daemon/service.h"

G_BEGIN_DECLS

typedef struct {
    StasisPolicy *policy;
    StasisdPolicyState state;
    StasisdMoment pending;     /* for when the run under way counts; boot_id "": not known */
    gint64 retry_us;           /* CLOCK_BOOTTIME, 0: none; G_MAXINT64: never */
    guint n_on_end;            /* failures on end */
    gboolean may_have_watched; /* a watch's run under way; of one that was taken up: who knows */
    guint n_told;  /* periods missed since the last run that went well, as told so far */
    char *text;    /* the policy as it is in its file */
    char *failure; /* the kind of the one that the last guard ended at, or NULL */
} StasisdEntry;

struct _StasisdService {
    char *state_dir;
    int lock_fd, state_fd, timer_fd;
    guint timer_source, reload_source;
    GFileMonitor *monitor;
    GHashTable *entries; /* VM's name → StasisdEntry */
    StasisdJobs *jobs;
    StasisdMoment now;
    StasisdEventFunc func;
    gpointer func_data;
};

/* runs.c */
extern const StasisdJobsFuncs stasisd_runs_funcs;
/* Begin what is due, whatever has waited for longest first, and wake up for what is due next. */
void stasisd_runs_look(StasisdService *service);
/* The job that carries @vm's policy out now, or NULL. */
StasisdJob *stasisd_runs_find(StasisdService *service, const char *vm);
/* Carry it out, whether it is due or not. */
StasisdJob *stasisd_runs_add(StasisdService *service, StasisdEntry *entry);
/* End guards and watches that were taken up, but carry out no policy there is: it was removed or
 * changed while no daemon was there. */
void stasisd_runs_end_strays(StasisdService *service);
/* What carries out a policy that is a guard, or a watch, behind "stasis". Free with g_strfreev().
 */
char **stasisd_runs_guard_words(const StasisPolicy *policy, const char *state_dir);
char **stasisd_runs_watch_words(const StasisPolicy *policy);
/* When it is due, in CLOCK_BOOTTIME; of service->now. */
gint64 stasisd_runs_due(const StasisdService *service, const StasisdEntry *entry);

G_END_DECLS
