/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy-on-write: pages that belong to the image stay protected in the running guest until they are
 * saved. One thread copies them in order; a write that comes first has its page, and the neighbours
 * in its chunk, saved ahead of turn into a buffer, and then goes on.
 */
#pragma once

#include "copy/pipeline.h"
#include "track/tracker.h"

G_BEGIN_DECLS

typedef struct _StasisProtected StasisProtected;

/* @tracker must be synchronous. At most @max_buffer_bytes are saved ahead of the disk; past that
 * the image fails, not the guest. */
StasisProtected *stasis_protected_new(const StasisRam *ram, StasisTracker *tracker,
                                      StasisPipeline *pipeline, guint64 max_buffer_bytes);
void stasis_protected_free(StasisProtected *protect);

/* In the stop: from now on, before a write, its page is saved if it is in @pages (which must all be
 * protected when the VM goes on, and outlive the tracker). Allocates nothing. */
void stasis_protected_begin(StasisProtected *protect, const StasisDirty *pages);

/* For the one copying thread: save the chunk that has @page of @block, unless that is done.
 * *ret_next: the first page behind it. FALSE when there is no memory. */
gboolean stasis_protected_copy(StasisProtected *protect, guint block, guint64 page,
                               guint64 *ret_next);

/* What went wrong in the fault thread, if anything: FALSE and @error. */
gboolean stasis_protected_check(StasisProtected *protect, GError **error);

/* No more faults will be served from the set, and the tracker is not used any more. */
void stasis_protected_end(StasisProtected *protect);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisProtected, stasis_protected_free)

G_END_DECLS
