/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent of a VM by name: what agent.c, awaken.c and process.c share. */
#pragma once

#include "agent/client.h"

G_BEGIN_DECLS

/* The mark in a VM's directory that its guest is to be told of an instant (awaken.h). */
#define STASIS_AWAKEN_FILE "awaken"

/* From now on; @timeout_ms 0: 5000. */
StasisAgentWait stasis_agent_wait_until(guint timeout_ms, GCancellable *cancellable);

/* When somebody on this host, by whatever conversation, has last heard from the agent of VM @name;
 * Unix time, 0: never. */
gint64 stasis_agent_heard_at_us(const char *name);

/* Is there a reason to try again, when the agent of VM @name did not answer since @heard_us
 * (stasis_now_us()), at last with @failure? Not when the VM has ended, or after half a minute,
 * unless somebody else has the channel. */
gboolean stasis_agent_may_come_back(const char *name, guint64 heard_us, const GError *failure);

/* Connect to the channel at @path. Says nothing yet. */
StasisAgent *stasis_agent_connect(const char *name, const char *path, const StasisAgentWait *wait,
                                  GError **error);

/* The agent of VM @name, greeted, and told of the last instant if it was not yet. The VM is held
 * only while the channel is looked for. */
StasisAgent *stasis_agent_open_vm(const char *name, const StasisAgentWait *wait, GError **error);

G_END_DECLS
