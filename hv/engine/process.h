/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What <stasis/process.h> asks, of an agent that is at hand already: a fork's. */
#pragma once

#include <stasis/process.h>

#include "agent/client.h"

G_BEGIN_DECLS

/* As stasis_vm_find_boundary(); @name is the VM's, for messages. */
StasisGuestBoundary *stasis_agent_find_boundary(StasisAgent *agent, const char *name,
                                                const StasisBoundaryOptions *options,
                                                GCancellable *cancellable, GError **error);

G_END_DECLS
