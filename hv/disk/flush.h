/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU flushes its disks whenever it stops the VM. What the host still has to write then becomes
 * stop time, seconds of it on a slow disk; so it is written from outside just before, while the VM
 * runs. What the guest writes in between, and metadata that QEMU itself holds back (qcow2), are all
 * that is left for the stop.
 */
#pragma once

#include <gio/gio.h>
#include <sys/types.h>

G_BEGIN_DECLS

/* Write back every file on a disk, and every block device, that process @pid has open for writing.
 * Waits for the disks. Only a help: what can't be written back now (QEMU will say so) is passed
 * over. FALSE when @cancellable fires. */
gboolean stasis_disk_flush(pid_t pid, GCancellable *cancellable, GError **error);

G_END_DECLS
