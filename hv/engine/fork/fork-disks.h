/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disks of a fork, without copying them: for each a qcow2 file on top of the VM's own disk as
 * of the instant, which the VM's QEMU offers by NBD while both run (disk/snapshot.h).
 *
 *      VM ── filter ── disk                                 a block that the VM overwrites is saved
 *              └── scratch file ──> NBD ──> disk-0.qcow2 ── fork      … and one that the fork reads
 *                                                                     is all that is moved
 */
#pragma once

#include "disk/snapshot.h"
#include "engine/disks/vm-disks.h"

G_BEGIN_DECLS

/* Make the files in @dir, which is the caller's to remove. */
StasisVmDisks *stasis_fork_disks_new(const StasisDiskSnapshot *snapshot, const char *dir,
                                     GError **error);

G_END_DECLS
