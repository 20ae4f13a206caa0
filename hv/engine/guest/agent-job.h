/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Jobs in a guest: commands that go on when their host has gone, and in a VM's restored images. */
#pragma once

#include "agent/client.h"

G_BEGIN_DECLS

typedef struct {
    const char *name;        /* 1–64 letters, digits, '.', '_', '-'; of the guest */
    const char *const *argv; /* NULL-terminated */
    const char *dir;         /* where it starts, or NULL */
    const char *const *env;  /* "NAME=value", NULL-terminated; or NULL */
    guint64 max_bytes;       /* of output that is kept; 0: 1 MiB, at most 16 MiB */
    guint64 timeout_ms;      /* it is killed then, by the guest; 0: 24 h */
} StasisJob;

typedef struct {
    gboolean ended;
    int exit_status; /* -1 when a signal ended it */
    int signal;      /* or 0 */
    gboolean timed_out, truncated;
} StasisJobEnd;

/* Start it; *ret_is_old: there was one of that name, and that one it is. */
gboolean stasis_agent_job_start(StasisAgent *agent, const StasisJob *job, gboolean *ret_is_old,
                                const StasisAgentWait *wait, GError **error);

/* A piece of what it wrote, of its standard error with @is_error. */
typedef void (*StasisJobOutputFunc)(gboolean is_error, const guint8 *bytes, gsize n,
                                    gpointer user_data);

/* Follow it from *@offset on, which moves on, until it ends. FALSE at the deadline of @wait: the
 * conversation is of no more use then, and another one may go on from *@offset. */
gboolean stasis_agent_job_follow(StasisAgent *agent, const StasisJob *job, guint64 *offset,
                                 StasisJobOutputFunc output, gpointer user_data,
                                 StasisJobEnd *ret_end, const StasisAgentWait *wait,
                                 GError **error);

G_END_DECLS
