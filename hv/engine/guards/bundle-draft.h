/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bundle that is begun before all that goes into it is there: while the last image of a VM is
 * taken, which keeps the CPUs busy, the disk writes those from before. One thread at a time.
 */
#pragma once

#include <stasis/bundle.h>

G_BEGIN_DECLS

typedef struct _StasisBundleDraft StasisBundleDraft;

/* Begin to write images @ids of @store, and all that they need, to a file in @dir that has no name
 * yet. They are not to be deleted before it is finished, or it begins anew then. */
StasisBundleDraft *stasis_bundle_draft_new(StasisStore *store, const char *const *ids,
                                           const char *dir, GError **error);
/* The rest of it: as stasis_bundle_create() of @ids, which has those of before among them, at
 * @dir's
 * @name. To be called once. */
gboolean stasis_bundle_draft_finish(StasisBundleDraft *draft, const char *const *ids,
                                    const char *name, const StasisBundleOptions *options,
                                    GCancellable *cancellable, GError **error);
/* Until all that is to be written before it is finished is there, or can't be. */
void stasis_bundle_draft_wait(StasisBundleDraft *draft);
/* Nothing is left of one that was not finished. */
void stasis_bundle_draft_free(StasisBundleDraft *draft);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisBundleDraft, stasis_bundle_draft_free)

G_END_DECLS
