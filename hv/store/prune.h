/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What pruning images of VMs and images of processes share. */
#pragma once

#include <stasis/maintenance.h>

G_BEGIN_DECLS

/* Without images yet. */
StasisPruneResult *stasis_prune_result_new(void);
/* Does it say what stays, or that nothing need to? Else STASIS_ERROR_USAGE. */
gboolean stasis_prune_check(const StasisPruneOptions *options, GError **error);

G_END_DECLS
