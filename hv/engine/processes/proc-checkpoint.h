/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stasis/process-image.h>

G_BEGIN_DECLS

/* As stasis_process_checkpoint(), where programs of the guest have been told already that there
 * will be one, and will be of its end. */
StasisProcessImageInfo *
stasis_process_checkpoint_of_ready(StasisVm *vm, StasisStore *store,
                                   const StasisProcessCheckpointOptions *options,
                                   GCancellable *cancellable, GError **error);

G_END_DECLS
