/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The end of an active block-commit ("pivot"): the device is given back the disk below.
 *
 * From its last flush on the job holds back whatever else comes for the disk. QEMU before 8.2 lets
 * that go when the device has the disk below, but before the disk below may write to its file, and
 * ends ("bdrv_co_write_req_prepare: Assertion `child->perm & BLK_PERM_WRITE' failed"): only from
 * then on is the disk below held back over the whole change (QEMU's block/mirror.c,
 * mirror_exit_common()). So does virsh blockcommit --pivot. Not concerned are
 *   - a disk in qcow2, which may write to its file for its own sake whoever is above it;
 *   - virtio devices with an ioeventfd, from which QEMU takes nothing in that time.
 * A write that the guest begins meanwhile on any other (IDE, AHCI …) would end it.
 */
#pragma once

#include "disk/disk.h"

G_BEGIN_DECLS

/* Must the guest stand still (vmm/standstill.h) while a job ends that takes @disk, which lies on an
 * overlay, back to the file below? */
gboolean stasis_disk_pivot_needs_standstill(StasisQmp *qmp, const StasisDisk *disk);

G_END_DECLS
