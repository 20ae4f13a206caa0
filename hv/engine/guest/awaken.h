/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Telling the guest that its VM goes on from an image: what time it is, entropy, whether it is a
 * clone. The message is queued right before the VM runs, so that the agent gets it first of all,
 * and its answer is waited for afterwards, for a little: the VM never waits for any of this, and
 * a guest that has no agent, or a hostile one, costs at most that. Until the agent has answered,
 * the VM's directory says that it is still to be told, and whoever speaks to the agent next (or
 * resumes the VM) tells it. The token makes a repetition harmless.
 */
#pragma once

#include <gio/gio.h>

#include "agent/client.h"
#include "vmm/qmp.h"
#include "vmm/registry.h"

G_BEGIN_DECLS

typedef struct _StasisAwakening StasisAwakening;

/* VM @name is from now on to be told. @kind is "restored", "cloned" …; @new_identity: it must not
 * keep what makes it the same machine. Best effort. */
void stasis_awaken_mark(const char *name, const char *kind, gboolean new_identity);
void stasis_awaken_unmark(const char *name);

/* The VM is about to run: queue the message if there is one to be told. Waits for nothing. NULL
 * when there is nothing to be done. */
StasisAwakening *stasis_awaken_begin(const StasisRecord *record, StasisQmp *qmp);
/* The VM runs: if the guest has the port open, wait for the answer, at most 1 s. Takes @awakening
 * (or NULL). */
void stasis_awaken_finish(StasisAwakening *awakening, const StasisRecord *record, StasisQmp *qmp,
                          GCancellable *cancellable);

void stasis_awakening_free(StasisAwakening *awakening);

/* Tell it now, over a conversation that is there already. FALSE when it could not be told; that it
 * is to be told stays noted. TRUE when there is nothing to tell. */
gboolean stasis_awaken_now(StasisAgent *agent, const char *name, const StasisAgentWait *wait,
                           GError **error);
/* The same in two steps, for a VM that does not run yet: what the first one sends is there when it
 * does. *ret_id is 0 when there is nothing to tell. */
gboolean stasis_awaken_send(StasisAgent *agent, const char *name, guint64 *ret_id,
                            const StasisAgentWait *wait, GError **error);
gboolean stasis_awaken_settle(StasisAgent *agent, const char *name, guint64 id,
                              const StasisAgentWait *wait, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisAwakening, stasis_awakening_free)

G_END_DECLS
