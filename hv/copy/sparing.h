/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When not to arm pages again: for images that are taken all the time, where the guest's speed
 * counts for more than the shortest stop.
 *
 * To arm a page again costs the guest a fault at its next write, 2 to 3 µs; to copy it in the stop
 * costs half a microsecond of stop. So what is written in each interval anyhow is better left
 * dirty, and taken in each stop as it is. The price is that what was written once stays dirty, too.
 * So there is an image that arms again all that is dirty when that has become more than half as
 * much again as what one interval writes; and after so many images, for what has become idle (not
 * under a control loop, whose limit is so low that it can stay).
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* 40 MiB take some 5 ms of the stop; 8 MiB one, which a control loop has to spare. */
#define STASIS_SPARING_MAX_PAGES 10240u
#define STASIS_SPARING_CYCLE_PAGES 2048u

/* What a series remembers for it; zero but for the first. */
typedef struct {
    guint64 max_pages; /* more is not copied in the stop; 0: nothing is spared */
    guint64 n_once;  /* pages that were dirty one interval after arming; 0: the last image armed */
    guint n_unarmed; /* images since */
} StasisSparing;

/* Shall the next image take the @n_dirty pages that are dirty now without arming them again? To be
 * asked once for each image. */
gboolean stasis_sparing_choose(StasisSparing *sparing, guint64 n_dirty);

G_END_DECLS
