/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A fork of a running VM: a throw-away clone of one instant of it, paused there, cut off from the
 * network, RAM on demand, disks of its own. It ends when it is freed, and when we die, whatever
 * kills us.
 *
 *     VM runs ──┬ stop, ms ┬── runs on ─────────────────────────────>
 *               │          └─> image (in memory, until the fork has ended)
 *               │                └─> fork: paused ── first request ── runs ── thrown away
 */
#pragma once

#include <stasis/process-image.h>

#include "agent/client.h"
#include "vmm/guest-memory.h"

G_BEGIN_DECLS

typedef struct _StasisFork StasisFork;

typedef struct {
    const char *scratch; /* directory for the image, or NULL: the runtime directory */
    StasisProgressFunc progress;
    gpointer progress_data;
    /* The image that it is made of is taken: for the VM the instant is over. Or NULL. */
    void (*taken)(gpointer data);
    gpointer taken_data;
} StasisForkOptions;

/* Fork @vm. Forks a process of ours first, so no other thread may be starting VMs then. The VM runs
 * on in any case. */
StasisFork *stasis_fork_new(StasisVm *vm, const StasisForkOptions *options,
                            GCancellable *cancellable, GError **error);
void stasis_fork_free(StasisFork *fork);

/* The image that it was made of: name of the VM, instant, cost. */
const StasisImageInfo *stasis_fork_get_image(StasisFork *fork);

/* Let it run, with request @op as the first thing that its agent gets, so that it may be done
 * before any other process has run; returns the answer. To be called once, before get_agent(). */
GBytes *stasis_fork_run(StasisFork *fork, StasisAgentOp op, const StasisFieldWriter *fields,
                        const StasisAgentWait *wait, GError **error);
/* Its agent; the fork's own. */
StasisAgent *stasis_fork_get_agent(StasisFork *fork);
/* Its memory, once it runs. */
StasisGuestMemory *stasis_fork_open_memory(StasisFork *fork, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisFork, stasis_fork_free)

G_END_DECLS
