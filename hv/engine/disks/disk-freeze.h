/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disks' part of a checkpoint whose image refers to them (--disk overlay,
 * stasis_disk_freezing_ops): the VM goes on to new files (disk/freeze.h), and the image says which
 * the old ones are.
 *
 * The VM's record names the new files from before the first is made until the image is in the
 * store. So whoever comes after a process that was killed knows which they are, and whether they
 * are needed: where there is no image, what is in them goes back into the disks below.
 */
#pragma once

#include "engine/disks/disk-part.h"

G_BEGIN_DECLS

/* The record says that @files are being made, for image @image of the store at @store or (NULL) for
 * none; NULL, NULL, NULL: nothing is. */
gboolean stasis_disk_freezing_note(StasisRecord *record, char **files, const char *image,
                                   const char *store, GError **error);
/* What a process left that was killed in the middle of it. */
gboolean stasis_disk_freezing_sweep(StasisSession *session, GError **error);

/* The machine's command line with the files that its disks lie in now; @disks: of StasisDisk. NULL
 * without @error: as it is. */
char **stasis_disks_on_line(const char *const *argv, const GPtrArray *disks, GError **error);

G_END_DECLS
