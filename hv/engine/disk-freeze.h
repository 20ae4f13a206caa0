/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disks' part of a checkpoint whose image refers to them (--disk overlay): the VM goes on to
 * new files (disk/freeze.h), and the image says which the old ones are.
 *
 * The VM's record names the new files from before the first is made until the image is in the
 * store. So whoever comes after a process that was killed knows which they are, and whether they
 * are needed: where there is no image, what is in them goes back into the disks below.
 */
#pragma once

#include "disk/taking.h"
#include "engine/session.h"
#include "store/image.h"

G_BEGIN_DECLS

typedef struct _StasisDiskFreezing StasisDiskFreezing;

/* Look at the VM's disks, and refuse by name what can't be had in this way. */
StasisDiskFreezing *stasis_disk_freezing_new(StasisSession *session, StasisStore *store,
                                             const char *cwd, GError **error);
/* All of it is taken back unless it was settled. */
void stasis_disk_freezing_free(StasisDiskFreezing *freezing);

/* All of the VM's disks (of StasisDisk); the caller's reference. */
GPtrArray *stasis_disk_freezing_get_all(const StasisDiskFreezing *freezing);
/* Has the VM a disk that it writes to? Else there is nothing to do. */
gboolean stasis_disk_freezing_has_any(const StasisDiskFreezing *freezing);
/* Before each stop, the VM running. */
gboolean stasis_disk_freezing_get_ready(StasisDiskFreezing *freezing, const char *image,
                                        GError **error);
StasisDiskTaking *stasis_disk_freezing_get_taking(StasisDiskFreezing *freezing);
/* After the stop: the disks are closed for writing, and described. The part "disks.json". */
GBytes *stasis_disk_freezing_end(StasisDiskFreezing *freezing, GError **error);
/* The image is there. */
void stasis_disk_freezing_settle(StasisDiskFreezing *freezing);

/* The record says that @files are being made, for image @image of the store at @store or (NULL) for
 * none; NULL, NULL, NULL: nothing is. */
gboolean stasis_disk_freezing_note(StasisRecord *record, char **files, const char *image,
                                   const char *store, GError **error);
/* What a process left that was killed in the middle of it. */
gboolean stasis_disk_freezing_sweep(StasisSession *session, GError **error);

/* The machine's command line with the files that its disks lie in now; @disks: of StasisDisk. NULL
 * without @error: as it is. */
char **stasis_disks_on_line(const char *const *argv, const GPtrArray *disks, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDiskFreezing, stasis_disk_freezing_free)

G_END_DECLS
