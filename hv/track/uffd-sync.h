/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What write protection of a part of RAM (residual.c) needs of uffd-sync, which serves its faults.
 */
#pragma once

#include "track/tracker.h"
#include "track/uffd.h"

G_BEGIN_DECLS

/* A synchronous tracker of @ram whose userfaultfd is registered nowhere yet; its user registers
 * pages with it, and has unregistered them before it closes it. Leaves other tracking alone. */
StasisTracker *stasis_uffd_sync_open_empty(const StasisRam *ram, StasisQmp *qmp, GError **error);

/* Stays the tracker's. */
const StasisUffd *stasis_uffd_sync_get_uffd(StasisTracker *tracker);

G_END_DECLS
