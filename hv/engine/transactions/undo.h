/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Taking a VM back to an image, in its QEMU or, where that has ended, in a new one. */
#pragma once

#include <stasis/transaction.h>

G_BEGIN_DECLS

/* VM @name, of the libvirtd at @uri (or NULL), whatever it has done since. A new QEMU gets the VM's
 * own disks, with the image's content if that has it. @restart: end the old one in any case. @ready
 * (taken; or NULL) is to @image, and holds the VM. */
StasisUndone *stasis_undo(const char *name, const char *uri, StasisRollback *ready,
                          StasisStore *store, const char *image, gboolean restart,
                          GCancellable *cancellable, GError **error);

G_END_DECLS
