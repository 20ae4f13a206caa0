/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the fields of an image's devices are, by QEMU's own word. */
#pragma once

#include <stasis/store.h>

G_BEGIN_DECLS

/*
 * The end of a migration stream of the machine of image @id as it was at the image's instant: with
 * the description that QEMU puts there (stasis_vmstate_take_description()). A QEMU is started for
 * it, with the image loaded, and never runs; its RAM and disks are its own, it is in no network,
 * and it has ended when this returns. Takes as long as a restore. Forks a process of ours first, so
 * no other thread may be starting VMs then.
 */
GBytes *stasis_device_describe(StasisStore *store, const char *id, GCancellable *cancellable,
                               GError **error);

G_END_DECLS
