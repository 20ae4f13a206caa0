/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The last few images of a VM: what a guard keeps, and ci-run while a test runs. They lie in a
 * store of the caller's. Used by one thread at a time.
 */
#pragma once

#include <stasis/bundle.h>
#include <stasis/checkpoint.h>

#include "engine/guards/memory-store.h"
#include "engine/vm/session.h"

G_BEGIN_DECLS

typedef struct _StasisRing StasisRing;

/* At most @keep images of VM @vm, or half as many more for a while, marked by @note. @memory: the
 * VM's, which must be there as long as the ring; NULL: @store is the ring's alone (made.h). */
StasisRing *stasis_ring_new(StasisStore *store, const StasisMemory *memory, const char *vm,
                            const char *note, guint keep);
/* The images stay in the store. */
void stasis_ring_free(StasisRing *ring);

/* Hold the VM, for images that are to come. */
gboolean stasis_ring_start(StasisRing *ring, StasisVm *vm, StasisDisks disks,
                           GCancellable *cancellable, GError **error);
void stasis_ring_stop(StasisRing *ring);
/* As it is held, for the caller; NULL: it was not. */
StasisSeries *stasis_ring_release(StasisRing *ring);
/* How it is held; NULL: it is not. */
StasisSession *stasis_ring_get_session(StasisRing *ring);

/* One more image, which belongs to the ring; the oldest go when there are too many. */
const StasisImageInfo *stasis_ring_take(StasisRing *ring, GCancellable *cancellable,
                                        GError **error);
/* Why one could not be taken: does that leave the VM as if none had been asked for, so that the
 * next one may be there again? It took too long, or the guest wrote too much meanwhile. */
gboolean stasis_ring_may_skip(const GError *error);
/* Have no more than are to be kept. */
gboolean stasis_ring_trim(StasisRing *ring, GError **error);
guint stasis_ring_get_n_images(const StasisRing *ring);

/* The newest image from before a failure that began at @since_us (Unix time), or up to @n_older
 * before that; the oldest when there are no more. It may have been seen, at @seen_us, later than
 * the ring reaches back, and when it began is known from above alone: then the oldest that was
 * taken before it was seen. NULL: none was. */
const StasisImageInfo *stasis_ring_find_before(const StasisRing *ring, gint64 since_us,
                                               gint64 seen_us, guint n_older);
/* What comes after @image never was. */
void stasis_ring_forget_after(StasisRing *ring, const StasisImageInfo *image);

/* There will be a bundle in @dir: the images of now go to the disk while the last ones are taken.
 * None is let go of until then. */
void stasis_ring_begin_bundle(StasisRing *ring, const char *dir);
/* Make the bundle @path, in that directory if it was begun, of all images. */
gboolean stasis_ring_bundle(StasisRing *ring, const char *path, const StasisBundleOptions *options,
                            GCancellable *cancellable, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisRing, stasis_ring_free)

G_END_DECLS
