/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Write protection of a part of RAM — the residual — while an asynchronous tracker has the whole:
 * for a time that part is lent to a synchronous userfaultfd, so that each first write there waits
 * for us, and after it goes back. Nothing written meanwhile is lost for the tracker: all of a range
 * that comes back counts as written, or is in KVM's log.
 *
 * If we are killed in between the kernel ends the synchronous context and lets every writer go on;
 * the ranges are then watched by nobody, and the next checkpoint must begin anew. So the caller
 * has recorded that before (checkpoint.c: track_image).
 */
#pragma once

#include "track/tracker.h"

G_BEGIN_DECLS

typedef struct _StasisResidual StasisResidual;

/* Make the second userfaultfd, the VM running. @tracker is asynchronous, armed, and outlives it;
 * @qmp as for stasis_uffd_create(). */
StasisResidual *stasis_residual_new(const StasisRam *ram, StasisTracker *tracker, StasisQmp *qmp,
                                    GError **error);

/* OR into @ret those pages of @hot that can be protected: not huge pages, nor files on a disk. */
void stasis_residual_choose(const StasisResidual *residual, const StasisDirty *hot,
                            StasisDirty *ret);
/* Protect @hot, all of which can be, the VM running; from then on writes there fault. May be called
 * again for other pages. More is protected than asked for: near pages in one range. On failure all
 * of it goes back with stasis_residual_end(). */
gboolean stasis_residual_protect(StasisResidual *residual, const StasisDirty *hot, GError **error);
/* What is protected, whole ranges; valid until stasis_residual_free(). */
const StasisDirty *stasis_residual_get_pages(const StasisResidual *residual);

/* In the stop: protect again what was written since stasis_residual_protect(). 0 or −errno;
 * allocates nothing. */
int stasis_residual_renew(StasisResidual *residual);

/* The synchronous tracker of those pages, for stasis_protected_new(). */
StasisTracker *stasis_residual_get_tracker(const StasisResidual *residual);

/* Let every writer go on and give all ranges back. FALSE: the tracker lacks some, and what it knows
 * is not complete any more. */
gboolean stasis_residual_end(StasisResidual *residual, GError **error);
/* The same, unless that was done. */
void stasis_residual_free(StasisResidual *residual);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisResidual, stasis_residual_free)

G_END_DECLS
