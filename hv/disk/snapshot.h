/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disks of a VM as of one instant, to be read while it runs on:
 *
 *      new()     VM runs     for each disk a scratch file and a copy-before-write filter, idle; a
 * new dirty bitmap take()    VM stopped  the filters are put in front of the disks open()    VM
 * runs     the old bitmaps end; QEMU offers what is behind the filters to us by NBD map(), read()
 * what of a disk the image needs, and its content close()               the filters go, scratch
 * files with them settle()              the bitmaps count since this image, or since the one before
 * still
 *
 *      guest ── filter ──────────── disk          a guest's first write to a cluster saves what it
 *                  └── scratch file               overwrites; a reader gets it from there
 *
 * However it ends, what the guest sees and does is the same: where there is no room to save a
 * cluster, the write passes and the copy fails. What is left behind if we are killed,
 * stasis_disks_sweep() removes; the scratch file has no name and is gone with the node.
 *
 * A bitmap "stasis-ID" on a disk's node counts what was written since the instant of image ID.
 */
#pragma once

#include "base/bitmap.h"
#include "disk/disk.h"
#include "disk/taking.h"

G_BEGIN_DECLS

typedef struct _StasisDiskSnapshot StasisDiskSnapshot;

typedef struct {
    StasisQmp *qmp;
    pid_t pid;
    const GPtrArray *disks;  /* of StasisDisk; the writable ones are copied. Must outlive it */
    const char *since;       /* image whose bitmaps tell what is new, or NULL: all is needed */
    const char *image;       /* the image that is being made */
    const char *scratch_dir; /* where scratch files lie */
    const char *socket_dir;  /* ours alone */
} StasisDiskSnapshotWanted;

StasisDiskSnapshot *stasis_disk_snapshot_new(const StasisDiskSnapshotWanted *wanted,
                                             GError **error);
/* Also close() and, if that was not done, settle(FALSE). The VM runs, or is as it was before. */
void stasis_disk_snapshot_free(StasisDiskSnapshot *snapshot);
/* Free it between open() and close(), and leave all that is in QEMU as it is, to be read by others
 * and swept away in the end. Not with a disk that has an iothread. */
void stasis_disk_snapshot_leave(StasisDiskSnapshot *snapshot);

/* What take() in the picture does. Its get_switches() is all of it only if no disk has an iothread.
 */
StasisDiskTaking *stasis_disk_snapshot_get_taking(StasisDiskSnapshot *snapshot);
gboolean stasis_disk_snapshot_open(StasisDiskSnapshot *snapshot, guint n_connections,
                                   GError **error);

/* The disks that are copied, in the order of @disks; numbers below count these. */
guint stasis_disk_snapshot_get_n(const StasisDiskSnapshot *snapshot);
const StasisDisk *stasis_disk_snapshot_get(const StasisDiskSnapshot *snapshot, guint i);

/* Pages (of 4096 bytes) of disk @i that the image needs, and pages that read as zero. */
gboolean stasis_disk_snapshot_map(StasisDiskSnapshot *snapshot, guint i, StasisBitmap *needed,
                                  StasisBitmap *zero, GError **error);
/* Any thread. */
gboolean stasis_disk_snapshot_read(StasisDiskSnapshot *snapshot, guint i, guint64 offset, void *buf,
                                   gsize len, GError **error);

/* Where another QEMU finds the disk as of the instant, until close(); one that ends while it reads
 * must not be a client of a disk with an iothread (nbd-server.c). Free with g_free(). */
char *stasis_disk_snapshot_get_uri(const StasisDiskSnapshot *snapshot, guint i);

/* Nothing is read any more: take the filters away. */
void stasis_disk_snapshot_close(StasisDiskSnapshot *snapshot);
/* @done: the image is there. */
void stasis_disk_snapshot_settle(StasisDiskSnapshot *snapshot, gboolean done);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDiskSnapshot, stasis_disk_snapshot_free)

G_END_DECLS
