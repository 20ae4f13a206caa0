/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a series of checkpoints of one VM keeps between two of them, and one checkpoint of it. */
#pragma once

#include <stasis/checkpoint.h>

#include "copy/copy.h"
#include "engine/checkpoint/cycle-word.h"
#include "engine/checkpoint/instant.h"
#include "engine/disks/disk-part.h"
#include "engine/vm/session.h"
#include "vmm/machine.h"
#include "vmm/output-hold.h"

G_BEGIN_DECLS

struct _StasisSeries {
    StasisCheckpointOptions options; /* strings owned */
    const StasisModeOps *mode;
    StasisStore *store;
    guint64 begun_us; /* of the checkpoint under way */
    gboolean aside;   /* the images are nobody's parents: see stasis_checkpoint_create_aside() */

    StasisSession *session;
    StasisLifeline *lifeline;
    StasisInstant *instant;
    StasisCapturePool pool;
    StasisSparing sparing;  /* where the guest's speed counts for more than the shortest stop */
    gboolean drain;         /* DMA goes past the tracker: see dma.h */
    GPtrArray *suspended;   /* of StasisPciDevice: devices that the guest suspends */
    StasisOutputHold *hold; /* of what the VM sends, or NULL: it is not held */
    StasisCycleWord *cycle_word;  /* that tells when the guest may be stopped, or NULL */
    StasisCycleWord *missed_word; /* in which it counts deadlines that it has missed, or NULL */
    gboolean untracked;           /* one of them writes memory without a trace */

    /* As the VM's memory was laid out when we looked last; NULL: look again. */
    char *layout;
    StasisRam *ram;
    StasisMachine *machine;
    GArray *vcpu_threads;   /* of pid_t */
    StasisTracker *tracker; /* left on since the checkpoint before, or NULL */

    /* With aside: the image has no disks; they are to be read where they are, as of its instant. */
    gboolean hold_disks;
    StasisDiskPart *held_disks; /* so held, or NULL: there are none, or they had to be copied */
};

/* Look at the VM's memory and devices again if they have changed, and at its disks. */
gboolean stasis_series_refresh(StasisSeries *series, GError **error);
/* Is there something of ours in QEMU that is to be cleared away if we die? Besides what holds the
 * VM's output. */
void stasis_series_set_untidy(StasisSeries *series, gboolean untidy);
/* What a series holds and knows of its VM. */
typedef struct {
    StasisSession *session;
    StasisRam *ram; /* as of the last refresh, and so is the machine */
    StasisMachine *machine;
    StasisTracker *tracker;   /* it counts from the image in the record; or NULL */
    StasisLifeline *lifeline; /* knows the mark of a rollback */
    StasisInstant *instant;
} StasisHeld;

/* No more images: all of that is the caller's. @series is to be freed all the same. Not of one that
 * holds disks. */
void stasis_series_release(StasisSeries *series, StasisHeld *ret);
/* As stasis_checkpoint_create(), mode live, but tracking counts on from the image that it counts
 * from now, as if this one were not: what was taken from the tracker is given back. The image is a
 * full one. If we are killed in the middle, the VM's next image is a full one as well. */
StasisImageInfo *stasis_checkpoint_create_aside(StasisVm *vm, StasisStore *store,
                                                const StasisCheckpointOptions *options,
                                                GCancellable *cancellable, GError **error);
/* checkpoint.c */
StasisImageInfo *stasis_series_checkpoint(StasisSeries *series, GCancellable *cancellable,
                                          GError **error);

G_END_DECLS
