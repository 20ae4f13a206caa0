/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What became of a policy so far: a file in the state directory, so that a daemon that comes after
 * another knows when the policy is due. One that is lost or damaged means "never run": due now. */
#pragma once

#include <json-glib/json-glib.h>

#include "daemon/schedule.h"

G_BEGIN_DECLS

typedef struct {
    StasisdMoment last;     /* when the last run that went well was due; boot_id "": never */
    gint64 last_success_us; /* Unix time of its end */
    char *last_image;
    char *last_error; /* what the last run did not do, or NULL */
    char *over;       /* the text of a policy that there is nothing left to do for, or NULL */
    guint64 n_runs, n_failures, n_missed;
    guint64 n_missed_deadlines; /* by the guest, over the runs, as it counts itself */
} StasisdPolicyState;

/* The name of the policy's file, and of that of its state. Free with g_free(). */
char *stasisd_policy_file(const char *vm);

void stasisd_policy_state_clear(StasisdPolicyState *state);
JsonObject *stasisd_policy_state_to_json(const StasisdPolicyState *state);
/* Of VM @vm; empty when there is none. */
void stasisd_policy_state_load(StasisdPolicyState *state, int dir_fd, const char *vm);
gboolean stasisd_policy_state_save(const StasisdPolicyState *state, int dir_fd, const char *vm,
                                   GError **error);
void stasisd_policy_state_remove(int dir_fd, const char *vm);

G_END_DECLS
