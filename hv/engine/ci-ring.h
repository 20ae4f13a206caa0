/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The last few images of a VM, in a store of their own in a directory that goes with the ring.
 * Holds the VM. Used by one thread at a time.
 */
#pragma once

#include <stasis/checkpoint.h>

#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct _StasisCiRing StasisCiRing;

/* @dir (made by the caller, who removes it) gets a directory "store". At most @keep images. */
StasisCiRing *stasis_ci_ring_new(StasisVm *vm, const char *dir, guint keep,
                                 GCancellable *cancellable, GError **error);
void stasis_ci_ring_free(StasisCiRing *ring);

/* One more; the oldest goes when there are too many. */
gboolean stasis_ci_ring_take(StasisCiRing *ring, GCancellable *cancellable, GError **error);

StasisQmp *stasis_ci_ring_get_qmp(StasisCiRing *ring);
StasisStore *stasis_ci_ring_get_store(StasisCiRing *ring);
/* IDs, oldest first. */
const GPtrArray *stasis_ci_ring_get_ids(StasisCiRing *ring);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisCiRing, stasis_ci_ring_free)

G_END_DECLS
