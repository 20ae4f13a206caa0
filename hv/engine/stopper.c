/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/stopper.h"

static const StasisStopperOps *const stoppers[] = {
    &stasis_stopper_qmp,
};

StasisStopper *stasis_stopper_open(StasisQmp *qmp, StasisLifeline *lifeline, gint64 fdset,
                                   gboolean paused)
{
    for (gsize i = paused ? G_N_ELEMENTS(stoppers) - 1 : 0; i < G_N_ELEMENTS(stoppers); i++) {
        StasisStopper *stopper = stoppers[i]->open(qmp, lifeline, fdset);
        if (stopper != NULL)
            return stopper;
    }
    g_assert_not_reached(); /* the last one always can */
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
