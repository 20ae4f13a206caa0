/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files into a guest and out of it, over a conversation that is there (stasis/agent.h). */
#pragma once

#include <stasis/agent.h>

#include "agent/client.h"

G_BEGIN_DECLS

typedef struct {
    StasisAgent *agent;
    const StasisAgentCopyOptions *options;
    const char *phase; /* of its progress; NULL: "copy" */
    GCancellable *cancellable;
    StasisAgentCopied copied; /* so far */
    guint64 told_us;
    guint64 deadline_us;  /* stasis_now_us(), of all together; 0: none */
    guint64 listed_bytes; /* of names of the guest's that are held */
    gboolean gone;        /* why it fails: what it is about to copy out is not there any more */
} StasisAgentCopy;

gboolean stasis_agent_copy_in(StasisAgentCopy *copy, const char *path, const char *dir,
                              GError **error);
gboolean stasis_agent_copy_out(StasisAgentCopy *copy, const char *path, const char *dir,
                               GError **error);

/* What agent-copy.c has for both ways. */
#define STASIS_AGENT_COPY_DEPTH 64u /* directories in each other */

/* How long one answer may take. */
StasisAgentWait stasis_agent_copy_wait(const StasisAgentCopy *copy);
/* @n more bytes are there; FALSE: it is to end. */
gboolean stasis_agent_copy_count(StasisAgentCopy *copy, guint64 n, GError **error);

G_END_DECLS
