/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who needs the files that a VM's disks lie in: images of a store that refer to them, and what lies
 * on them, which is looked for by the heads of qcow2 files: beside them, in the directories of
 * VMs' disks (disk-dir.h) there, in those of the store, and wherever VMs of this host have theirs.
 * By whatever name: the file counts, and the name only where no file is behind it any more.
 */
#pragma once

#include <stasis/disk.h>

G_BEGIN_DECLS

/* A list has only what this has put there. Nobody is known to need it yet. One that is among
 * @files, or is not there, is left out. */
void stasis_disk_files_add(GPtrArray *files, const char *disk, const char *path,
                           StasisDiskFileUse use);
/* Look for who needs @files, of StasisVmDiskFile. @store: or NULL. */
gboolean stasis_disk_files_look(GPtrArray *files, StasisStore *store, GError **error);

/* One of them by an absolute path of it, if only another one; NULL: it is not among them. */
StasisVmDiskFile *stasis_disk_files_find(const GPtrArray *files, const char *path);
/* Who needs @file, or one of @files that lies on it, besides the VM: "image ID refers to", "PATH
 * lies on". What lies aside, and nobody needs or has open, is nobody. NULL: nobody that is known.
 * Free with g_free(). */
char *stasis_disk_files_who_needs(const GPtrArray *files, const StasisVmDiskFile *file);

G_END_DECLS
