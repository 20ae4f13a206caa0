/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stopper "qmp": three commands over the monitor, each with its round trip. Works with every QEMU.
 * The lifeline sends "cont" if we die in between.
 */
#include <stasis/error.h>

#include "base/clock.h"
#include "disk/flush.h"
#include "engine/checkpoint/stopper.h"
#include "vmm/state-file.h"

/* A hang limit, not an expectation. */
#define SAVE_TIMEOUT_MS 30000

typedef struct {
    StasisStopper base;
    StasisQmp *qmp;
    StasisLifeline *lifeline;
    char *save_line;
    const GPtrArray *disks;
    guint64 save_us;
} QmpStopper;

static StasisStopper *qmp_open(const StasisStopperMeans *means)
{
    QmpStopper *self = g_new0(QmpStopper, 1);
    self->base.ops = &stasis_stopper_qmp;
    self->qmp = means->qmp;
    self->lifeline = means->lifeline;
    self->disks = means->disks;
    self->save_line = stasis_state_file_save_line(means->fdset);
    return &self->base;
}

static void qmp_flush(StasisStopper *stopper)
{
    QmpStopper *self = (QmpStopper *)stopper;
    for (guint i = 0; self->disks != NULL && i < self->disks->len; i++)
        stasis_disk_flush_in_qemu(self->qmp, stasis_disk_at(self->disks, i));
}

static gboolean qmp_stop(StasisStopper *stopper, guint64 by_us, gboolean *ret_stopped,
                         gboolean *ret_late, GError **error)
{
    QmpStopper *self = (QmpStopper *)stopper;
    return stasis_lifeline_stop(self->lifeline, self->qmp, ret_stopped, error);
}

static gboolean qmp_save(StasisStopper *stopper, GError **error)
{
    QmpStopper *self = (QmpStopper *)stopper;
    guint64 t0 = stasis_now_us();
    gboolean ok = stasis_qmp_execute_line(self->qmp, self->save_line, SAVE_TIMEOUT_MS, error);
    self->save_us = stasis_now_us() - t0;
    return ok;
}

static gboolean qmp_resume(StasisStopper *stopper, GError **error)
{
    QmpStopper *self = (QmpStopper *)stopper;
    guint64 before = stasis_qmp_wait_event(self->qmp, "RESUME", 0, 0);
    if (!stasis_lifeline_resume(self->lifeline, self->qmp, error))
        return FALSE;
    /* It tells how long the stop was. */
    guint lag_ms = stasis_qmp_get_event_lag_ms(self->qmp);
    if (lag_ms > 0)
        stasis_qmp_wait_event(self->qmp, "RESUME", before, lag_ms);
    return TRUE;
}

static guint64 qmp_get_save_us(StasisStopper *stopper)
{
    return ((QmpStopper *)stopper)->save_us;
}

static void qmp_close(StasisStopper *stopper)
{
    QmpStopper *self = (QmpStopper *)stopper;
    g_free(self->save_line);
    g_free(self);
}

const StasisStopperOps stasis_stopper_qmp = {
    .name = "qmp",
    .open = qmp_open,
    .flush = qmp_flush,
    .stop = qmp_stop,
    .save = qmp_save,
    .resume = qmp_resume,
    .get_save_us = qmp_get_save_us,
    .close = qmp_close,
};
