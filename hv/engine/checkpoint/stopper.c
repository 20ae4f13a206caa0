/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/checkpoint/stopper.h"

#include <string.h>

static const StasisStopperOps *const stoppers[] = {
    &stasis_stopper_inside,
    &stasis_stopper_qmp,
};

/* $STASIS_STOPPER names one: for those who have trouble with another, and for tests. */
StasisStopper *stasis_stopper_open(const StasisStopperMeans *means, gboolean paused)
{
    const char *wanted = paused ? stasis_stopper_qmp.name : g_getenv("STASIS_STOPPER");
    for (gsize i = 0; i < G_N_ELEMENTS(stoppers); i++) {
        StasisStopper *stopper = NULL;
        if (wanted == NULL || strcmp(wanted, stoppers[i]->name) == 0)
            stopper = stoppers[i]->open(means);
        if (stopper != NULL)
            return stopper;
    }
    return stasis_stopper_qmp.open(means);
}

gboolean stasis_stopper_resume(StasisStopper *stopper, GError **error)
{
    return stopper->ops->resume(stopper, error);
}

void stasis_stopper_close(StasisStopper *stopper)
{
    if (stopper != NULL)
        stopper->ops->close(stopper);
}
