/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state of a VM's devices at one instant, and nothing else of it. */
#pragma once

#include "device/vmstate.h"
#include "engine/vm/session.h"

G_BEGIN_DECLS

typedef struct {
    gint64 time_us;    /* Unix time of the instant */
    guint64 pause_us;  /* 0 if it was paused before */
    guint64 device_us; /* of that, saving them */
    gboolean was_paused;
} StasisDeviceTake;

/* Hold VM @name, which is fit to be spoken to: not half rolled back, nothing of ours left in it. */
StasisSession *stasis_device_open(const char *name, GError **error);

/* Stop the VM for a moment, if it runs; QEMU tells the state of its devices in no other way. */
StasisVmstate *stasis_device_take(StasisSession *session, StasisDeviceTake *ret,
                                  GCancellable *cancellable, GError **error);

G_END_DECLS
