/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A file of the guest, as its agent tells of it: an ENTRY (<stasis/agent-protocol.h>). */
#pragma once

#include <glib.h>

#include "agent/field.h"

G_BEGIN_DECLS

/* @name and @target are the guest's bytes, without zero bytes. */
typedef struct {
    char *name, *target; /* NULL: not said; @target of a link */
    char kind;           /* 'f'ile, 'd'irectory, 'l'ink, or 'o'ther */
    guint mode;          /* permissions, ≤ 0777 */
} StasisAgentEntry;

void stasis_agent_entry_free(StasisAgentEntry *entry);
/* Untrusted: with @named, a name that is one and leads nowhere else (STASIS_ERROR_CORRUPT). */
StasisAgentEntry *stasis_agent_entry_read(const guint8 *fields, guint32 length, gboolean named,
                                          GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisAgentEntry, stasis_agent_entry_free)

G_END_DECLS
