/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stasis/process.h>

#include "agent/client.h"

G_BEGIN_DECLS

/*
 * Where a guest counts what its processes say to each other (STASIS_BOUNDARY_TALKED), a checkpoint
 * of some of them lets their counters begin anew: marked before the instant, kept when the image is
 * whole. Neither can fail the checkpoint: without it, more than need be comes along with the next.
 */

/* A token for stasis_talk_keep(), or NULL: nobody counts there. */
char *stasis_talk_mark(StasisAgent *agent, const StasisAgentWait *wait);
/* In the VM of that name. */
void stasis_talk_keep(const char *name, const char *token, const StasisGuestBoundary *boundary,
                      GCancellable *cancellable);

G_END_DECLS
