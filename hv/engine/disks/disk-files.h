/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files that a VM's disks lie in, and who needs them: what <stasis/disk.h> lists, for a
 * session. */
#pragma once

#include <stasis/disk.h>

#include "engine/vm/session.h"

G_BEGIN_DECLS

/* Element type: StasisVmDiskFile. */
GPtrArray *stasis_disk_files_list(StasisSession *session, StasisStore *store, GError **error);
/* One of them by its absolute path; NULL: it is not among them. */
StasisVmDiskFile *stasis_disk_files_find(const GPtrArray *files, const char *path);
/* Who needs @file besides the VM and what lies aside: "image ID refers to", "PATH lies on". NULL:
 * nobody that is known. Free with g_free(). */
char *stasis_disk_files_who_needs(const GPtrArray *files, const StasisVmDiskFile *file);

G_END_DECLS
