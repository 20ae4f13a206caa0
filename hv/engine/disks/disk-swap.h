/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Giving a stopped VM disks as of an image that refers to them: an empty overlay on each of the
 * files that it names. What the VM had on top of them is given up, like all that it wrote since. */
#pragma once

#include "engine/vm/session.h"
#include "store/image.h"

G_BEGIN_DECLS

typedef struct _StasisDiskSwap StasisDiskSwap;

/* Are the VM's writable disks those of @notes (of StasisDiskNote, borrowed), and are their files as
 * they were? */
StasisDiskSwap *stasis_disk_swap_new(StasisSession *session, const GPtrArray *notes,
                                     GError **error);
void stasis_disk_swap_free(StasisDiskSwap *swap);

/* The VM is stopped. Killed in the middle, some disks are the one and some the other. */
gboolean stasis_disk_swap_put(StasisDiskSwap *swap, GError **error);
/* After it: what nobody needs any more is closed and removed. */
gboolean stasis_disk_swap_settle(StasisDiskSwap *swap, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDiskSwap, stasis_disk_swap_free)

G_END_DECLS
