/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the channel to the agent in a guest is: the socket behind the port STASIS_AGENT_PORT. */
#pragma once

#include <gio/gio.h>
#include <sys/types.h>

#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct {
    char *path;         /* of the UNIX socket that QEMU listens at, one client at a time */
    gboolean is_opened; /* by somebody in the guest */
} StasisAgentChannel;

/* Of the running QEMU @pid. STASIS_ERROR_UNSUPPORTED when it has no such port, or not at a socket.
 */
StasisAgentChannel *stasis_agent_channel_find(StasisQmp *qmp, pid_t pid, GError **error);
/* The same without asking QEMU, where the command line alone tells the path; else NULL. */
char *stasis_agent_channel_guess(pid_t pid);
void stasis_agent_channel_free(StasisAgentChannel *channel);

/* The id of the character device behind the port in a command line, or NULL. Free with g_free(). */
char *stasis_cmdline_find_agent(const GPtrArray *options);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisAgentChannel, stasis_agent_channel_free)

G_END_DECLS
