/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who stops the VM, has QEMU save its devices, and lets the VM go on: an ops table each, listed in
 * stopper.c, best first. All of them have QEMU do what its QMP commands stop,
 * xen-save-devices-state (live=false) and cont do; they differ in how it is told.
 *
 * However we end in between, the VM goes on.
 */
#pragma once

#include "vmm/lifeline.h"
#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct _StasisStopper StasisStopper;

typedef struct {
    const char *name;
    /* Can it be used with this VM? NULL and no error when not. @fdset: QEMU's descriptor set of
     * the file for the device state. */
    StasisStopper *(*open)(StasisQmp *qmp, StasisLifeline *lifeline, gint64 fdset);
    /* *ret_stopped FALSE: it was not running any more, and is not ours to resume. */
    gboolean (*stop)(StasisStopper *stopper, gboolean *ret_stopped, GError **error);
    /* May return before it is done; what goes wrong then is resume()'s error. */
    gboolean (*save)(StasisStopper *stopper, GError **error);
    /* Whatever this says, the VM goes on now, or as soon as QEMU can be reached. */
    gboolean (*resume)(StasisStopper *stopper, GError **error);
    void (*close)(StasisStopper *stopper);
} StasisStopperOps;

/* Every implementation starts with this. */
struct _StasisStopper {
    const StasisStopperOps *ops;
};

/* The best for a running VM, or for a paused one (@paused: its devices are to be saved only). */
StasisStopper *stasis_stopper_open(StasisQmp *qmp, StasisLifeline *lifeline, gint64 fdset,
                                   gboolean paused);
/* ops->resume(). A function, so that a test can look at the VM right before it. */
gboolean stasis_stopper_resume(StasisStopper *stopper, GError **error);
void stasis_stopper_close(StasisStopper *stopper);

extern const StasisStopperOps stasis_stopper_qmp;

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisStopper, stasis_stopper_close)

G_END_DECLS
