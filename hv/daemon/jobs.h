/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All jobs: those that wait, in the order in which they came, those that run, as many at a time as
 * there are places, and the last ones that are over. Guards and watches, which run for as long as
 * their VM does, take no place.
 */
#pragma once

#include "daemon/job.h"

G_BEGIN_DECLS

typedef struct _StasisdJobs StasisdJobs;

typedef struct {
    /* A job has come, begun, or is over. */
    void (*changed)(StasisdJob *job, gpointer user_data);
    /* It has told something that is no progress. */
    void (*told)(StasisdJob *job, JsonObject *line, gpointer user_data);
} StasisdJobsFuncs;

/* Read what there is in jobs/ below @state_dir (made if need be). @program: the command `stasis`.
 */
StasisdJobs *stasisd_jobs_new(const char *state_dir, const char *program, const char *boot_id,
                              guint n_places, const StasisdJobsFuncs *funcs, gpointer user_data,
                              GError **error);
void stasisd_jobs_free(StasisdJobs *jobs);
/* The command; borrowed. */
const char *stasisd_jobs_program(const StasisdJobs *jobs);
/* Take up those that ran when the daemon before us ended; @funcs hear of it. */
void stasisd_jobs_adopt(StasisdJobs *jobs);

/* A new one. @connect: as StasisdJob. @out_fd: its stdout, taken over, or -1. Begins as soon as
 * there is a place. */
StasisdJob *stasisd_jobs_add(StasisdJobs *jobs, const char *kind, const char *vm,
                             const char *connect, guint owner, const char *const *argv, int out_fd);
/* @id, or NULL. */
StasisdJob *stasisd_jobs_find(StasisdJobs *jobs, guint id);
void stasisd_jobs_abort(StasisdJobs *jobs, StasisdJob *job);
/* All, oldest first; borrowed. Element type: StasisdJob. */
const GPtrArray *stasisd_jobs_all(StasisdJobs *jobs);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisdJobs, stasisd_jobs_free)

G_END_DECLS
