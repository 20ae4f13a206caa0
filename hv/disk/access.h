/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing to a disk of a stopped VM from outside. QEMU lets nobody else write what a device has, so
 * the device gets an empty stand-in meanwhile. If we are killed, stasis_disks_sweep() gives the
 * device its disk back: a bitmap on the disk's node says whose it is.
 */
#pragma once

#include "disk/disk.h"
#include "disk/nbd.h"

G_BEGIN_DECLS

typedef struct _StasisDiskAccess StasisDiskAccess;

/* @number: unique among those that are open. @since: image whose bitmap is to be read as well, or
 * NULL. All are borrowed. */
StasisDiskAccess *stasis_disk_access_new(StasisQmp *qmp, StasisNbdServer *server,
                                         const StasisDisk *disk, guint number, const char *since,
                                         GError **error);
StasisNbd *stasis_disk_access_get_nbd(StasisDiskAccess *access);
/* The device has its disk again; FALSE if that can't be (the next sweep tries again). */
gboolean stasis_disk_access_end(StasisDiskAccess *access, GError **error);
void stasis_disk_access_free(StasisDiskAccess *access);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDiskAccess, stasis_disk_access_free)

G_END_DECLS
