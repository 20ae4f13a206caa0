/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Putting pages of an image into the memory of a running QEMU. Pages that were read once are kept,
 * decompressed and checked, within a limit: what a VM dirties before one rollback it mostly dirties
 * before the next as well.
 *
 * Page sets are StasisDirty, in the order of the VM's RAM blocks.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/progress.h>

#include "store/image.h"
#include "track/tracker.h"

G_BEGIN_DECLS

typedef struct _StasisRewrite StasisRewrite;

/* STASIS_ERROR_UNSUPPORTED when the image's RAM blocks are not those of @ram. Both must outlive the
 * object. */
StasisRewrite *stasis_rewrite_new(const StasisRam *ram, StasisImageReader *reader,
                                  guint64 max_cache_bytes, GError **error);
void stasis_rewrite_free(StasisRewrite *rewrite);

/* Mark in @dirty what may differ between @other, an image of the same store, and ours. FALSE, and
 * nothing marked, when the two have nothing in common. */
gboolean stasis_rewrite_mark_differing(StasisRewrite *rewrite, StasisImageReader *other,
                                       StasisDirty *dirty);

/* Mark in @dirty what has no memory now and is not zero in the image: a balloon, virtio-mem, or a
 * guest that reports its free pages, had QEMU give it back to the host. Nobody has written that, so
 * no tracker tells of shared memory that is discarded, nor KVM's log of any. The VM must be
 * stopped. Of huge pages (hugetlbfs) nothing is known. */
gboolean stasis_rewrite_mark_discarded(StasisRewrite *rewrite, StasisDirty *dirty, GError **error);

/* Compare all of RAM with the image and mark in @dirty what differs. The VM may run: what it writes
 * behind us is not seen. */
gboolean stasis_rewrite_compare(StasisRewrite *rewrite, StasisDirty *dirty,
                                StasisProgressFunc progress, gpointer user_data,
                                GCancellable *cancellable, GError **error);

/* Read the pages of @dirty that are not kept yet; those beyond the limit are read to be checked.
 * *ret_read (if wanted): how many that were, zero pages left out. */
gboolean stasis_rewrite_prefetch(StasisRewrite *rewrite, const StasisDirty *dirty,
                                 guint64 *ret_read, GError **error);
/* The same in two halves, so that the caller can do something else meanwhile, but nothing with
 * @rewrite; end() helps with what is left, and must come, if begin() went well. */
gboolean stasis_rewrite_prefetch_begin(StasisRewrite *rewrite, const StasisDirty *dirty,
                                       GError **error);
gboolean stasis_rewrite_prefetch_end(StasisRewrite *rewrite, guint64 *ret_read, GError **error);
/* Is one under way? */
gboolean stasis_rewrite_is_prefetching(const StasisRewrite *rewrite);

/* Nothing is read ahead from now on, nor kept: put() reads each page right before it is written,
 * which takes half the work, and finds out in the middle what can't be read. For an image that is
 * in memory and trusted. */
void stasis_rewrite_set_direct(StasisRewrite *rewrite);
gboolean stasis_rewrite_is_direct(const StasisRewrite *rewrite);

/* Give the VM, which is stopped, the image's pages of @dirty. @compare: only those that differ.
 * *ret_written: how many were written. */
gboolean stasis_rewrite_put(StasisRewrite *rewrite, const StasisDirty *dirty, gboolean compare,
                            guint64 *ret_written, GError **error);

/* Does put() write any page of @dirty through QEMU's own address space, where a dirty tracker sees
 * it? */
gboolean stasis_rewrite_is_tracked(const StasisRewrite *rewrite, const StasisDirty *dirty);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisRewrite, stasis_rewrite_free)

G_END_DECLS
