/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a series of checkpoints of one VM keeps between two of them, and one checkpoint of it. */
#pragma once

#include <stasis/checkpoint.h>

#include "copy/copy.h"
#include "engine/disk-copy.h"
#include "engine/instant.h"
#include "engine/session.h"
#include "vmm/machine.h"

G_BEGIN_DECLS

struct _StasisSeries {
    StasisCheckpointOptions options; /* strings owned */
    const StasisModeOps *mode;
    StasisStore *store;
    guint64 begun_us; /* of the checkpoint under way */

    StasisSession *session;
    StasisLifeline *lifeline;
    StasisInstant *instant;
    StasisCapturePool pool;
    gboolean drain; /* DMA goes past the tracker: see dma.h */

    /* As the VM's memory was laid out when we looked last; NULL: look again. */
    char *layout;
    StasisRam *ram;
    StasisMachine *machine;
    GArray *vcpu_threads;   /* of pid_t */
    StasisTracker *tracker; /* left on since the checkpoint before, or NULL */

    /* The next image has no disks; they are to be read where they are, as of its instant. */
    gboolean hold_disks;
    StasisDiskCopy *held_disks; /* so held, or NULL: there are none, or they had to be copied */
};

/* Look at the VM's memory again if it has changed. */
gboolean stasis_series_refresh(StasisSeries *series, GError **error);
/* checkpoint.c */
StasisImageInfo *stasis_series_checkpoint(StasisSeries *series, GCancellable *cancellable,
                                          GError **error);

G_END_DECLS
