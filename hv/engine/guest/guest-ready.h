/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Programs of the guest that have a say in checkpoints (include/stasis-guest.h) get ready for one,
 * and are told of its end: around checkpoints that are not of agent-serve's making. All in one
 * conversation with the agent, and over when that ends: if we die, the guest's programs are told
 * that there was none.
 */
#pragma once

#include "agent/client.h"

G_BEGIN_DECLS

/* What it takes at most: a critical section, and programs that get ready. */
#define STASIS_READY_MS 15000u

/* Of @pids alone, or of all (@n_pids 0). FALSE only when it can't be asked, or was called off: an
 * older agent, and one that has begun another checkpoint, have nobody to tell. @wait: of the whole
 * conversation; may be over sooner. */
gboolean stasis_guest_ready_begin(StasisAgent *agent, const guint *pids, guint n_pids,
                                  const StasisAgentWait *wait, GError **error);
/* It was taken, or not. What goes wrong is passed over: the conversation ends next. */
void stasis_guest_ready_end(StasisAgent *agent, gboolean taken);

G_END_DECLS
