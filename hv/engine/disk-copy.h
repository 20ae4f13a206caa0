/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disks' part of a checkpoint: from the monitor's list of them to pages in the image. */
#pragma once

#include "copy/copy.h"
#include "disk/snapshot.h"
#include "engine/session.h"
#include "store/image.h"

G_BEGIN_DECLS

typedef struct _StasisDiskCopy StasisDiskCopy;

/* Look at the VM's disks, and refuse by name what can't be copied. @hold: nothing is to be copied,
 * the disks as of the instant are to be read where they are, as long as the object lives; where
 * that can't be (a disk has an iothread) they are copied all the same. */
StasisDiskCopy *stasis_disk_copy_new(StasisSession *session, StasisStore *store, gboolean hold,
                                     GError **error);
/* Whatever of it is in QEMU goes; bitmaps count as they did before unless it was settled. */
void stasis_disk_copy_free(StasisDiskCopy *disks);
/* Free it, and leave held disks as they are for a sweep. */
void stasis_disk_copy_leave(StasisDiskCopy *disks);

/* All of the VM's disks (of StasisDisk); the caller's reference. */
GPtrArray *stasis_disk_copy_get_all(const StasisDiskCopy *disks);
/* Declare them in the image, behind RAM, unless they are held. */
gboolean stasis_disk_copy_add(StasisDiskCopy *disks, StasisImageWriter *writer, GError **error);
/* Before each stop, the VM running. @since: the image's parent, or NULL. */
gboolean stasis_disk_copy_get_ready(StasisDiskCopy *disks, const char *image, const char *since,
                                    GError **error);
/* After add(): is there a disk to copy? */
gboolean stasis_disk_copy_has_any(const StasisDiskCopy *disks);
/* Can they be taken only by commands to QEMU's monitor in the stop? */
gboolean stasis_disk_copy_needs_monitor(const StasisDiskCopy *disks);
/* NULL when there is nothing to copy. */
StasisDiskSnapshot *stasis_disk_copy_get_snapshot(StasisDiskCopy *disks);
StasisDiskTaking *stasis_disk_copy_get_taking(StasisDiskCopy *disks);
gboolean stasis_disk_copy_is_held(const StasisDiskCopy *disks);
/* After the stop: all of it into the image; of held ones, let them be read. */
gboolean stasis_disk_copy_run(StasisDiskCopy *disks, StasisCopy *copy, guint n_threads,
                              GError **error);
/* The image is there. */
void stasis_disk_copy_settle(StasisDiskCopy *disks);
guint64 stasis_disk_copy_get_bytes(const StasisDiskCopy *disks);
/* The part "disks.json". */
GBytes *stasis_disk_copy_describe(const StasisDiskCopy *disks, const char *cwd, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDiskCopy, stasis_disk_copy_free)

G_END_DECLS
