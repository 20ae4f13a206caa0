/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is done to the disks of a VM while it is stopped for an instant, so that who stops it need
 * not know what that is: filters in front of them (snapshot.h), or overlays on top (freeze.h).
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _StasisDiskTaking StasisDiskTaking;

typedef struct {
    /* By commands to QEMU's monitor. Allocates nothing unless it fails. STASIS_ERROR_BUDGET when
     * @deadline_us (stasis_now_us(); 0: none) passes before the last disk's turn. */
    gboolean (*take)(StasisDiskTaking *taking, guint64 deadline_us, GError **error);
    /* For one who can do the same by other means, whatever becomes of it: pairs of a device's QOM
     * path and the node for its "drive", each ended by a zero byte. Call it before; take() may
     * still follow. */
    GBytes *(*get_switches)(StasisDiskTaking *taking);
} StasisDiskTakingOps;

/* Every implementation starts with this. */
struct _StasisDiskTaking {
    const StasisDiskTakingOps *ops;
};

G_END_DECLS
