/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disks' part of a checkpoint that copies them (--disk copy, stasis_disk_copy_ops): from the
 * monitor's list of them to pages in the image.
 *
 * Or they are held: nothing is copied, the disks as of the instant are to be read where they are,
 * as long as the object lives. Where that can't be (a disk has an iothread) they are copied all the
 * same.
 */
#pragma once

#include "disk/snapshot.h"
#include "engine/disks/disk-part.h"

G_BEGIN_DECLS

/* Of a part of this way that holds disks; else NULL. */
StasisDiskSnapshot *stasis_disk_copy_get_held(StasisDiskPart *part);
/* Free it, and leave held disks as they are for a sweep. */
void stasis_disk_copy_leave(StasisDiskPart *part);

G_END_DECLS
