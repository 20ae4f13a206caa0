/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images of a recorded execution: QEMU's own snapshots, taken while it is replayed, in the
 * machine's one disk. QEMU goes back to the nearest one before what gdb asks for and replays from
 * there, and a replay may begin from one. A snapshot knows its instruction count and its place in
 * the log (docs/system/replay.rst of QEMU).
 */
#pragma once

#include <glib.h>

#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct _StasisRecordedImages StasisRecordedImages;

/* @qmp is the caller's, of a machine that is being replayed. @names (element type: char *) has the
 * name of its beginning; those of images come behind, oldest first, and may go again. */
StasisRecordedImages *stasis_recorded_images_new(StasisQmp *qmp, GPtrArray *names);
void stasis_recorded_images_free(StasisRecordedImages *images);
/* To be called often: takes one when it is time to. What can't be taken is left out. */
void stasis_recorded_images_look(StasisRecordedImages *images);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisRecordedImages, stasis_recorded_images_free)

G_END_DECLS
