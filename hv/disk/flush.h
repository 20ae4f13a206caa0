/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU flushes its disks whenever it stops the VM. What the host still has to write then becomes
 * stop time, seconds of it on a slow disk; so it is written from outside just before, while the VM
 * runs, and then QEMU is told to flush, for the metadata that it holds back itself (qcow2). What
 * the guest writes in between is all that is left for the stop.
 */
#pragma once

#include <sys/types.h>

#include "disk/disk.h"

G_BEGIN_DECLS

/* Write back every file on a disk, and every block device, that process @pid has open for writing.
 * Waits for the disks. Only a help: what can't be written back now (QEMU will say so) is passed
 * over. FALSE when @cancellable fires. */
gboolean stasis_disk_flush(pid_t pid, GCancellable *cancellable, GError **error);

/* Have QEMU flush @disk, by the monitor's qemu-io. Meanwhile a virtual CPU that wants QEMU's lock
 * waits. Left out for what is not written to, and where the disk's iothread forbids it. */
void stasis_disk_flush_in_qemu(StasisQmp *qmp, const StasisDisk *disk);

G_END_DECLS
