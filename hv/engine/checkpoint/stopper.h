/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who stops the VM, has QEMU save its devices, and lets the VM go on: an ops table each, listed in
 * stopper.c, best first. All of them have QEMU do what its QMP commands stop,
 * xen-save-devices-state (live=false) and cont do; they differ in how it is told.
 *
 * However we end in between, the VM goes on.
 */
#pragma once

#include "disk/disk.h"
#include "disk/taking.h"
#include "track/tracker.h"
#include "vmm/lifeline.h"
#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct _StasisStopper StasisStopper;

/* What there is to stop a VM with. */
typedef struct {
    pid_t pid;
    StasisQmp *qmp;
    StasisLifeline *lifeline;
    StasisTracker *tracker; /* or NULL */
    gint64 fdset;           /* QEMU's descriptor set of the file for the device state */
    gboolean may_be_long;   /* the stop may last seconds (mode stop) */
    gboolean has_disks;     /* disks are to be taken in the stop: over QMP, or see give_disks() */
    gboolean qmp_needed;    /* for that QEMU is to be spoken to in the stop */
    const GPtrArray *disks; /* of StasisDisk, or NULL: those that flush() is for */
} StasisStopperMeans;

typedef struct {
    const char *name;
    /* NULL when it can't be used with this VM. */
    StasisStopper *(*open)(const StasisStopperMeans *means);
    /* Before stop(), the VM running: have QEMU flush its disks, as it does once more when it stops
     * the VM, so that little is left to do then. Only a help: what fails is passed over. */
    void (*flush)(StasisStopper *stopper);
    /* Before stop(), or NULL: the disks of @disks are to be taken by stop(), if that stops the VM;
     * else it is for the caller. */
    gboolean (*give_disks)(StasisStopper *stopper, StasisDiskTaking *disks, GError **error);
    /* *ret_stopped FALSE: it was not running any more, and is not ours to resume. Later than @by_us
     * (base/clock.h; 0: no limit) it may be left undone: FALSE, and *ret_late. */
    gboolean (*stop)(StasisStopper *stopper, guint64 by_us, gboolean *ret_stopped,
                     gboolean *ret_late, GError **error);
    /* May return before it is done; what goes wrong then is resume()'s error. */
    gboolean (*save)(StasisStopper *stopper, GError **error);
    /* Whatever this says, the VM goes on now, or as soon as QEMU can be reached. */
    gboolean (*resume)(StasisStopper *stopper, GError **error);
    /* How long QEMU took to save the devices, after resume(). */
    guint64 (*get_save_us)(StasisStopper *stopper);
    /* Goes with give_disks(): how long they took, after stop(). */
    guint64 (*get_disk_us)(StasisStopper *stopper);
    void (*close)(StasisStopper *stopper);
} StasisStopperOps;

/* Every implementation starts with this. */
struct _StasisStopper {
    const StasisStopperOps *ops;
};

/* The best for a running VM, or for a paused one (@paused: its devices are to be saved only). */
StasisStopper *stasis_stopper_open(const StasisStopperMeans *means, gboolean paused);
/* ops->resume(). A function, so that a test can look at the VM right before it. */
gboolean stasis_stopper_resume(StasisStopper *stopper, GError **error);
void stasis_stopper_close(StasisStopper *stopper);

extern const StasisStopperOps stasis_stopper_inside, stasis_stopper_qmp;

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisStopper, stasis_stopper_close)

G_END_DECLS
