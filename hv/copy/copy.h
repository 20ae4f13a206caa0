/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The three ways to copy a VM's RAM as of one instant: one ops table each, in one visible array
 * (copy.c). The engine calls, in this order:
 *
 *      before()   the VM runs: arm the tracker, pre-copy, get memory for what comes
 *        — the engine gets ready to stop the VM —
 *      approach() the last milliseconds before the stop: make what it will find as little as may be
 *        — the engine stops the VM —
 *      during()   the VM is stopped; in a thread of its own, beside the saving of the devices.
 *                 Allocates nothing. After it, what the image needs is either captured in our
 *                 memory or protected in the guest
 *        — the engine lets the VM go on —
 *      after()    the VM runs: everything into the image
 */
#pragma once

#include <gio/gio.h>
#include <stasis/checkpoint.h>

#include "copy/capture.h"
#include "copy/pipeline.h"
#include "copy/protected.h"
#include "copy/sparing.h"
#include "track/residual.h"
#include "track/tracker.h"

G_BEGIN_DECLS

typedef struct {
    /* Set by the engine. */
    const StasisRam *ram;
    StasisTracker *tracker; /* NULL: none; whole RAM, mode stop only */
    StasisQmp *qmp;         /* for making a userfaultfd, with the VM running */
    StasisPipeline *pipeline;
    gboolean incremental; /* the tracker has been on since the parent's instant */
    gboolean counting; /* … since another image's: all is needed, and nothing it counts is lost */
    guint64 max_pause_us; /* 0: no limit */
    guint64 max_buffer_bytes;
    StasisCapturePool *pool; /* or NULL */
    StasisSparing *sparing;  /* of the series, or NULL: the stop is to be as short as can be */
    StasisProgressFunc progress;
    gpointer progress_data;
    GCancellable *cancellable;
    /* Wait until DMA that was under way has landed, or NULL where none goes past the tracker. */
    gboolean (*settle_dma)(gpointer data, GError **error);
    gpointer settle_dma_data;
    gboolean stop_may_be_long; /* all of RAM is copied in it */
    guint64 stop_by_us; /* a stop that has not begun by then is none (base/clock.h); 0: no limit */
    guint64 stop_deadline_us; /* set at the stop when there is a limit: during() must end by then */

    /* The modes' own. */
    StasisDirty *pending;   /* pages the image still needs */
    StasisDirty *harvested; /* every page taken from the tracker, to give back on failure */
    StasisCapture *capture;
    StasisProtected *protect;
    StasisResidual *residual; /* protect is over its pages; asynchronous tracker only */
    StasisDirty *hot;         /* pages to be protected in the approach, or NULL */
    guint64 spared_pages;     /* taken in the stop, and not armed again before: see sparing.h */

    /* Results. */
    guint rounds;
    guint64 residual_pages;  /* captured or protected */
    guint64 protected_pages; /* of those: protected */
    StasisFaultStats faults; /* of a residual that was protected */
    guint64 harvest_us; /* duration of the latest harvest: an estimate for the one in the stop */
} StasisCopy;

typedef struct {
    const char *name;
    gboolean needs_tracker;
    gboolean pre_copies; /* reads RAM while the VM runs and may write it */
    gboolean needs_sync; /* that tracker must be a synchronous one */
    gboolean (*before)(StasisCopy *copy, GError **error);
    gboolean (*approach)(StasisCopy *copy, GError **error); /* or NULL */
    int (*during)(StasisCopy *copy); /* 0; −ETIME: out of budget; −ENOBUFS: more than there is
                                        memory for; another −errno */
    /* After a during() that ended in −ENOBUFS, the VM running: prepare for another approach and
     * stop. NULL where that can't happen. */
    gboolean (*again)(StasisCopy *copy, GError **error);
    gboolean (*after)(StasisCopy *copy, GError **error);
} StasisModeOps;

const StasisModeOps *stasis_mode_ops(StasisMode mode);

/* Before the first and after the last of a mode's calls. @failed: give the tracker back what was
 * taken from it, so that the next incremental image misses nothing; FALSE if that went wrong. */
void stasis_copy_begin(StasisCopy *copy);
gboolean stasis_copy_end(StasisCopy *copy, gboolean failed);
/* Free what the modes made; after the pipeline is freed and the tracker closed. */
void stasis_copy_clear(StasisCopy *copy);

/* ---- shared by the modes ---- */

/* Push every run of copy->pending through the pipeline, reading from the guest, and wait. */
gboolean stasis_copy_pending(StasisCopy *copy, const char *phase, GError **error);
/* Save copy->pending, protected in the running guest, and wait. */
gboolean stasis_copy_protected(StasisCopy *copy, GError **error);
/*
 * After arming or re-arming and before reading. A disk opened with O_DIRECT reads into guest pages
 * that the kernel pinned, and marked written, at the start; what lands after the tracker was
 * re-armed is not marked again.
 */
gboolean stasis_copy_settle_dma(StasisCopy *copy, GError **error);
/* FALSE and STASIS_ERROR_CANCELLED, or the pipeline's failure. */
gboolean stasis_copy_may_go_on(StasisCopy *copy, GError **error);
void stasis_copy_report(StasisCopy *copy, const char *phase, guint64 done, guint64 total);

/* ---- a residual that is protected under an asynchronous tracker (residual.c) ---- */

typedef enum {
    STASIS_RESIDUAL_EITHER, /* what makes the shorter stop */
    STASIS_RESIDUAL_PROTECT,
    STASIS_RESIDUAL_COPY,
} StasisResidualWay;
StasisResidualWay stasis_copy_residual_way(void);

/* Set copy->hot to what of @written can be protected and is not yet; nothing: NULL. Where there is
 * no second userfaultfd to be had that is an error only if protection was asked for by name. */
gboolean stasis_copy_plan_protection(StasisCopy *copy, const StasisDirty *written, GError **error);
/* Protect copy->hot: it is then neither pending nor captured. May be done again, for more. */
gboolean stasis_copy_protect(StasisCopy *copy, GError **error);
/* In the stop. 0 or −errno; allocates nothing. */
int stasis_copy_renew_protection(StasisCopy *copy);
/* Put back what copy->residual has, so that all of RAM is tracked as before. FALSE when that is not
 * so. */
gboolean stasis_copy_unprotect(StasisCopy *copy, GError **error);

extern const StasisModeOps stasis_mode_live, stasis_mode_cow, stasis_mode_stop;

G_END_DECLS
