/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the daemon does, without how it is asked: policies are due, jobs are begun, and what happens
 * is told. One thread, the main loop's.
 */
#pragma once

#include <stasis/policy.h>

#include "daemon/jobs.h"

G_BEGIN_DECLS

typedef struct _StasisdService StasisdService;

/* Something has happened that those who may see what is of user @owner may know. @event is
 * borrowed; it has "event", "at_us", "vm". */
typedef void (*StasisdEventFunc)(guint owner, JsonObject *event, gpointer user_data);

/* On @state_dir, which no other daemon may have: STASIS_ERROR_BUSY. */
StasisdService *stasisd_service_new(const char *state_dir, const char *program, guint n_places,
                                    GError **error);
void stasisd_service_free(StasisdService *service);
/* From now on events are told. At the end: a NULL @func. */
void stasisd_service_set_func(StasisdService *service, StasisdEventFunc func, gpointer user_data);
/* Take up what was there, and begin. */
gboolean stasisd_service_start(StasisdService *service, GError **error);
/* Read the policies' files anew, which others may have written. Done by itself when they change. */
void stasisd_service_reload(StasisdService *service);

StasisdJobs *stasisd_service_jobs(StasisdService *service);
/* The policy of @vm, borrowed, or NULL. */
const StasisPolicy *stasisd_service_policy(StasisdService *service, const char *vm);
/* Names of VMs that have one, sorted. Free the list alone. */
GList *stasisd_service_vms(StasisdService *service);
/* "policy" and "state" of @vm, which has one. */
JsonObject *stasisd_service_describe(StasisdService *service, const char *vm);
/* Carry the policy of @vm out now, besides its times; the job, borrowed. */
StasisdJob *stasisd_service_run(StasisdService *service, const char *vm, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisdService, stasisd_service_free)

G_END_DECLS
