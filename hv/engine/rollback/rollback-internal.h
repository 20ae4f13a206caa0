/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of a rollback share: rollback.c gets ready, rollback-run.c does it,
 * rollback-check.c says when not to. */
#pragma once

#include <stasis/rollback.h>

#include "device/vmstate.h"
#include "engine/checkpoint/series.h"
#include "engine/devices/device-load.h"
#include "engine/disks/disk-rewrite.h"
#include "engine/rollback/rewrite.h"
#include "engine/vm/session.h"
#include "track/tracker.h"
#include "vmm/lifeline.h"

G_BEGIN_DECLS

/* The VM does not run, since we have looked. */
typedef struct {
    gboolean stands;
    gboolean by_us;     /* it ran, and our death lets it run again */
    guint64 resumed_us; /* QEMU's last RESUME by then, and the connection that heard it */
    guint generation;
} StasisRollbackStop;

struct _StasisRollback {
    StasisRollbackOptions options;
    char *safety_id; /* until it was told */
    StasisStore *store;
    StasisSession *session;
    StasisRam *ram;
    StasisMachine *machine; /* as whoever held the VM knows it, or NULL */
    StasisImageReader *reader;
    StasisVmstate *vmstate; /* the image's */
    char *id;
    StasisRewrite *rewrite;
    StasisDiskRewrite *disks; /* nothing in it when the image has no disks */
    StasisTracker *tracker; /* NULL: none that outlives us; then all pages are compared each time */
    StasisDeviceLoader *loader;
    StasisLifeline *lifeline;
    StasisInstant *instant;  /* of a series that held the VM, or NULL: to save devices with */
    StasisRollbackStop stop; /* before a run */
    /* What may differ from the image besides what the tracker says; empty after a run. */
    StasisDirty *differs;
    StasisDirty *pages;   /* of the run under way: to be rewritten */
    StasisDirty *found;   /* the last harvest */
    gboolean fresh;       /* a machine that never ran, into which an image is loaded */
    gboolean held;        /* it was stopped for this, so it goes on afterwards, however it ends */
    gboolean spliced;     /* vmstate is not quite the image's: see prepare_spliced() */
    gboolean leave_disks; /* its disks are not the image's and stay as they are */
    gboolean marked;      /* half rolled back: by an earlier process, or by a run of ours */
    gboolean saved;       /* nothing would be lost: first run only */
    gboolean compared;    /* since the last run all of RAM was compared */
    gboolean devices_checked;
    gboolean may_discard; /* it has a device by which memory is given back to the host */
    guint64 unplugged_us; /* last DEVICE_DELETED that was looked at */
    guint64 cold_pages;   /* the last run had to read so many in its stop */
};

/* stasis_rollback_prepare() for a machine that never ran. @leave_disks: its disks are not written.
 */
StasisRollback *stasis_rollback_prepare_fresh(StasisVm *vm, StasisStore *store, const char *id,
                                              gboolean leave_disks,
                                              const StasisRollbackOptions *options,
                                              GCancellable *cancellable, GError **error);

typedef enum {
    /* The VM has failed: it is stopped at once, and stands until it is the image. */
    STASIS_HELD_FAILED = 1,
    /* Nothing of an earlier load of devices is in QEMU, which was seen to since the VM is held. */
    STASIS_HELD_SWEPT = 2,
    /* The image, and what it is incremental to, is ours, in memory that nobody else writes. */
    STASIS_HELD_TRUSTED = 4,
} StasisHeldFlags;

/* The same for a VM that @series holds, which is taken: whatever it knows is not asked again, so
 * that the VM runs sooner. */
StasisRollback *stasis_rollback_prepare_held(StasisSeries *series, StasisStore *store,
                                             const char *id, StasisHeldFlags flags,
                                             const StasisRollbackOptions *options,
                                             GCancellable *cancellable, GError **error);

/* rollback-stop.c. Stop the VM if it runs; armed before, @lifeline is disarmed if it did not. */
gboolean stasis_rollback_stop(StasisQmp *qmp, StasisLifeline *lifeline, StasisRollbackStop *ret,
                              GError **error);
/* It stands anyhow, since when is told by nobody. */
void stasis_rollback_note_stop(StasisQmp *qmp, StasisRollbackStop *ret);
/* Has nobody let it run since? */
gboolean stasis_rollback_still_stands(const StasisRollbackStop *stop, StasisQmp *qmp,
                                      GError **error);
/* Let it run, one way or the other; FALSE: when is not known. */
gboolean stasis_rollback_resume(StasisQmp *qmp, StasisLifeline *lifeline, GError **error);

/* The same for a VM that stands, stopped, where image @id was taken of it, and that is to get the
 * devices of @stream (the image's, but for the state of some). Takes @session. @held: it was
 * stopped for this; from when this has gone well our death lets it go on. */
StasisRollback *stasis_rollback_prepare_spliced(StasisSession *session, StasisStore *store,
                                                const char *id, GBytes *stream, gboolean held,
                                                const StasisRollbackOptions *options,
                                                GCancellable *cancellable, GError **error);
/* From now on the image's own devices. */
gboolean stasis_rollback_unsplice(StasisRollback *rollback, GError **error);

/* STASIS_ERROR_UNSAVED, by name, when the guest has written to a disk: for images that have none.
 */
gboolean stasis_rollback_check_disks(StasisQmp *qmp, GError **error);
/* STASIS_ERROR_UNSUPPORTED when the machine, which is stopped, has other devices than @image.
 * @stays: nobody stopped it for this (vmm/state-file.h). */
gboolean stasis_rollback_check_devices(StasisRollback *rollback, gboolean stays, GError **error);

G_END_DECLS
