/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What commands that copy files into a guest, or out of it, share. */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

/* cmd-agent-copy.c: the members, and the note, that say what was copied. */
void cli_json_set_copied(JsonObject *object, const StasisAgentCopied *copied);
void cli_note_copied(CliCall *call, const StasisAgentCopied *copied);

G_END_DECLS
