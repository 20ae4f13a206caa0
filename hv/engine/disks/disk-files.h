/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files that a VM's disks lie in: what <stasis/disk.h> lists, for a session. */
#pragma once

#include <stasis/disk.h>

#include "engine/vm/session.h"

G_BEGIN_DECLS

/* Element type: StasisVmDiskFile. */
GPtrArray *stasis_disk_files_list(StasisSession *session, StasisStore *store, GError **error);

G_END_DECLS
