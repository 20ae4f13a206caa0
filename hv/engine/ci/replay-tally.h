/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What came out of replays, counted. */
#pragma once

#include <stasis/replay.h>

#include "engine/ci/replay-run.h"

G_BEGIN_DECLS

/* Of @source's test, without images. */
StasisReplay *stasis_replay_new(const StasisReplaySource *source);
/* Room for runs from image @index of @source, as the newest; @replay's. */
StasisReplayRuns *stasis_replay_add_image(StasisReplay *replay, const StasisReplaySource *source,
                                          guint index);
/* One more run, of @replay's test. */
void stasis_replay_count(const StasisReplay *replay, StasisReplayRuns *runs,
                         const StasisOutcome *outcome);
/* Index of the first image from which on, from that one and all later ones, every run came out as
 * the failure did, or -1. Runs that are not known do not count; images without others neither.
 * @ret_open: the last image from which one came out otherwise, or -1. */
gint stasis_replay_find_inevitable(const StasisReplay *replay, gint *ret_open);

G_END_DECLS
