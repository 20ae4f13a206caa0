/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ci-run --deterministic, and its bundle: what was recorded, instead of a ring of images. */
#pragma once

#include <stasis/bundle.h>
#include <stasis/ci.h>

#include "engine/ci/ci-bundle.h"
#include "engine/ci/replay-run.h"

G_BEGIN_DECLS

#define STASIS_CI_RECORDED "recorded/" /* what such files of a bundle begin with */

/* Run the test in a machine that is recorded, in directory @dir. */
gboolean stasis_ci_record(const StasisCiOptions *options, const char *dir, guint64 timeout_us,
                          StasisNursery *nursery, StasisCiResult *result, GCancellable *cancellable,
                          GError **error);

/* Put what @bundle has recorded into the directory @dir. */
gboolean stasis_ci_record_extract(StasisBundle *bundle, const char *dir, GError **error);
/* Replay once, from @source's directory, to where such files are extracted. Comes out as "lost"
 * when it did not go as it was recorded. @images (or NULL): as in StasisRecorded. */
gboolean stasis_ci_record_replay(const StasisReplaySource *source, GPtrArray *images,
                                 StasisOutcome *ret_outcome, GCancellable *cancellable,
                                 GError **error);

typedef struct {
    const char *from; /* as in StasisRecorded, both */
    const char *gdb;
    void (*ready)(StasisVm *vm, gpointer user_data);
    gpointer user_data;
} StasisCiRecordDebug;

/* Once more, under a debugger. */
gboolean stasis_ci_record_debug(const StasisReplaySource *source, const StasisCiRecordDebug *debug,
                                StasisOutcome *ret_outcome, GCancellable *cancellable,
                                GError **error);

G_END_DECLS
