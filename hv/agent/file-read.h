/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A part of a file of the guest, as its agent reads it (FILE_READ, <stasis/agent-protocol.h>). */
#pragma once

#include "agent/client.h"

G_BEGIN_DECLS

/* The next @n bytes. FALSE with @error ends the conversation. */
typedef gboolean (*StasisAgentBytesFunc)(const guint8 *bytes, guint32 n, gpointer user_data,
                                         GError **error);

/*
 * Up to @limit bytes (≤ 16 MiB) of the regular file @path from byte @offset on: @take gets them in
 * order, and never more, whatever the guest sends (STASIS_ERROR_CORRUPT). *ret_n: how many there
 * were; fewer than @limit, and the file ends there.
 */
gboolean stasis_agent_file_read(StasisAgent *agent, const char *path, guint64 offset, guint32 limit,
                                StasisAgentBytesFunc take, gpointer user_data, guint32 *ret_n,
                                const StasisAgentWait *wait, GError **error);

G_END_DECLS
