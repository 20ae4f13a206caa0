/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What <stasis/process.h> asks, of an agent that is at hand already: a fork's. */
#pragma once

#include <stasis/process.h>

#include "agent/client.h"

G_BEGIN_DECLS

/* An older agent may not have @operation: STASIS_ERROR_UNSUPPORTED. @name is the VM's. */
gboolean stasis_agent_check_operation(StasisAgent *agent, const char *name, const char *operation,
                                      GError **error);
/* As stasis_vm_find_boundary(). @direct: refuse what can't be taken in the VM itself, too. */
StasisGuestBoundary *stasis_vm_find_boundary_to(StasisVm *vm, const StasisBoundaryOptions *options,
                                                gboolean direct, GCancellable *cancellable,
                                                GError **error);
/* The same of an agent; @name is the VM's, for messages. */
StasisGuestBoundary *stasis_agent_find_boundary(StasisAgent *agent, const char *name,
                                                const StasisBoundaryOptions *options,
                                                gboolean direct, GCancellable *cancellable,
                                                GError **error);

G_END_DECLS
