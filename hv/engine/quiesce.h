/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Freezing the guest's file systems around the instant, so that the disks of an image hold what
 * they would if the guest had unmounted them: no journal is to be replayed. The agent in the guest
 * does it.
 *
 *      freeze ──> approach ──> stop … resume ──> thaw
 *
 * However we end in between, the guest thaws: what the agent has frozen thaws when the conversation
 * ends, so also when we are killed, and at the latest after some seconds of the guest's time. That
 * goes for a VM that goes on from the image, too: there nobody is at the other end.
 */
#pragma once

#include "engine/session.h"

G_BEGIN_DECLS

typedef struct _StasisQuiesce StasisQuiesce;

/* Begin a conversation with the agent of a VM that must be running; an earlier one ends by that,
 * with what it had frozen. The error says what to do where there is no agent. */
StasisQuiesce *stasis_quiesce_open(StasisSession *session, GCancellable *cancellable,
                                   GError **error);
/* All mounted file systems that can be, at least one. */
gboolean stasis_quiesce_freeze(StasisQuiesce *quiesce, GCancellable *cancellable, GError **error);
/* With the VM running; nothing to do where nothing is frozen. FALSE: the guest does not say that
 * they were frozen all the time. They thaw, or will, in any case. */
gboolean stasis_quiesce_thaw(StasisQuiesce *quiesce, GError **error);
/* Between the two, as seen from here. */
guint64 stasis_quiesce_get_frozen_us(const StasisQuiesce *quiesce);
/* Thaws. */
void stasis_quiesce_close(StasisQuiesce *quiesce);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisQuiesce, stasis_quiesce_close)

G_END_DECLS
