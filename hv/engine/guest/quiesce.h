/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bringing the guest to rest around the instant, by the agent in it:
 *
 * - its file systems are frozen, so that the disks of an image hold what they would if the guest
 *   had unmounted them: no journal is to be replayed;
 * - devices are suspended by their drivers, so that all there is of them is in the guest's memory.
 *
 *      freeze ──> suspend ──> approach ──> stop … resume ──> wake ──> thaw
 *
 * Where a device writes memory without a trace, it is suspended before the first page is read, and
 * wakes when the last one has been.
 *
 * However we end in between, the guest comes back: what the agent has frozen thaws, and what it has
 * suspended resumes, when the conversation ends, so also when we are killed, and at the latest
 * after a while of the guest's time. That goes for a VM that goes on from the image, too: there
 * nobody is at the other end.
 */
#pragma once

#include "engine/vm/session.h"

G_BEGIN_DECLS

typedef struct _StasisQuiesce StasisQuiesce;

typedef enum {
    STASIS_QUIESCE_FILES = 1 << 0,
    STASIS_QUIESCE_DEVICES = 1 << 1,
} StasisQuiesceWhat;

/* Begin a conversation with the agent of a VM that must be running; an earlier one ends by that,
 * with what it had frozen. The error says what to do where there is no agent, or not one
 * that can do @what. */
StasisQuiesce *stasis_quiesce_open(StasisSession *session, StasisQuiesceWhat what,
                                   GCancellable *cancellable, GError **error);
/* All mounted file systems that can be, at least one; programs that want to know are told before
 * (guest-ready.h). */
gboolean stasis_quiesce_freeze(StasisQuiesce *quiesce, GCancellable *cancellable, GError **error);
/* With the VM running, and programs are told after; nothing to do where nothing is frozen. FALSE:
 * the guest does not say that they were frozen all the time. They thaw, or will, in any case. */
gboolean stasis_quiesce_thaw(StasisQuiesce *quiesce, GError **error);
/* Between the two, as seen from here. */
guint64 stasis_quiesce_get_frozen_us(const StasisQuiesce *quiesce);

/* Suspend @devices (of StasisPciDevice), all or none, for @hold_ms at most. @driver or NULL: the
 * one of which they are unbound in any case, and to which they are bound when they wake, whatever
 * they had; the machine's half of them is the caller's. */
gboolean stasis_quiesce_suspend(StasisQuiesce *quiesce, const GPtrArray *devices,
                                const char *driver, guint hold_ms, GCancellable *cancellable,
                                GError **error);
/* With the VM running; nothing to do where none is suspended. FALSE: the guest does not say that
 * they were suspended all the time, or one did not come back. */
gboolean stasis_quiesce_wake(StasisQuiesce *quiesce, GError **error);
/* What was done to each: "NAME ADDRESS DRIVER METHOD", NULL-terminated; owned by @quiesce. NULL
 * where nothing was. */
char **stasis_quiesce_get_suspended(const StasisQuiesce *quiesce);

/* Wakes and thaws. */
void stasis_quiesce_close(StasisQuiesce *quiesce);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisQuiesce, stasis_quiesce_close)

G_END_DECLS
