/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stopper "inside": the shim has QEMU's main loop stop the VM, save the devices and let it go on,
 * without a round trip to the monitor in between (hv/shim/inside.c). While the VM is stopped QEMU's
 * main loop waits for us, so nothing may be asked over QMP. If we die the shim sees our end of the
 * socket hang up, and lets the VM go on: no lifeline is needed. Ctrl-Z, which no switch puts off
 * then, is put off here, from the stop until resume().
 *
 * The functions of QEMU that this calls are no stable interface: only versions that were tested.
 */
#include <errno.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/hold.h"
#include "base/io.h"
#include "engine/checkpoint/stopper.h"
#include "track/shim-client.h"
#include "vmm/shim-page.h"

/* After QEMU's RESUME it still has to send us its events. */
#define EVENT_TIMEOUT_MS 1000

/* major * 100 + minor */
static const guint tested_versions[] = { 702 };

typedef struct {
    StasisStopper base;
    StasisQmp *qmp;
    StasisShim *shim;
    gboolean own_shim, stopped;
    gint64 fdset;
    gboolean can_flush;
    const GPtrArray *disks;
    guint64 save_us, disk_us;
    guint64 before_us;      /* QEMU's last RESUME before ours */
    StasisStopper *instead; /* for a VM that was paused by somebody else meanwhile */
} InsideStopper;

static gboolean is_tested(guint version_number)
{
    for (gsize i = 0; i < G_N_ELEMENTS(tested_versions); i++)
        if (tested_versions[i] == version_number / 100)
            return TRUE;
    return FALSE;
}

static StasisStopper *inside_open(const StasisStopperMeans *means)
{
    struct stasis_shim_page page;
    guint32 needed = STASIS_SHIM_INSIDE_STOP | (means->has_disks ? STASIS_SHIM_INSIDE_DISKS : 0);
    if (means->may_be_long || means->qmp_needed ||
        !is_tested(stasis_qmp_get_version_number(means->qmp)) ||
        !stasis_shim_page_read(means->pid, &page) || (page.inside & needed) != needed)
        return NULL;
    StasisTracker *tracker = means->tracker;
    StasisShim *shim = NULL;
    if (tracker != NULL && tracker->ops->get_shim != NULL)
        shim = tracker->ops->get_shim(tracker);
    gboolean own = shim == NULL;
    if (own)
        shim = stasis_shim_connect(means->pid, NULL);
    if (shim == NULL)
        return NULL;
    InsideStopper *self = g_new0(InsideStopper, 1);
    self->base.ops = &stasis_stopper_inside;
    self->qmp = means->qmp;
    self->shim = shim;
    self->own_shim = own;
    self->fdset = means->fdset;
    self->disks = means->disks;
    self->can_flush = (page.inside & STASIS_SHIM_INSIDE_FLUSH) != 0;
    self->instead = stasis_stopper_qmp.open(means);
    return &self->base;
}

/* What the shim reads of them, it has read when it answers. */
static int send_words(InsideStopper *self, enum stasis_shim_op op, const void *words, gsize len)
{
    stasis_autofd int fd = memfd_create("stasis-words", MFD_CLOEXEC);
    int r = fd >= 0 ? stasis_pwrite_all(fd, words, len, 0) : -errno;
    return r == 0 ? stasis_shim_call(self->shim, op, 0, len, fd, NULL) : r;
}

static void inside_flush(StasisStopper *stopper)
{
    InsideStopper *self = (InsideStopper *)stopper;
    if (!self->can_flush) {
        self->instead->ops->flush(self->instead);
        return;
    }
    g_autoptr(GByteArray) nodes = g_byte_array_new();
    for (guint i = 0; self->disks != NULL && i < self->disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(self->disks, i);
        if (disk->writable)
            g_byte_array_append(nodes, (const guint8 *)disk->node, (guint)strlen(disk->node) + 1);
    }
    if (nodes->len > 0)
        send_words(self, STASIS_SHIM_FLUSH, nodes->data, nodes->len);
}

static gboolean inside_give_disks(StasisStopper *stopper, StasisDiskTaking *disks, GError **error)
{
    InsideStopper *self = (InsideStopper *)stopper;
    g_autoptr(GBytes) switches = disks->ops->get_switches(disks);
    gsize len;
    const void *data = g_bytes_get_data(switches, &len);
    int r = send_words(self, STASIS_SHIM_SWITCH, data, len);
    if (r < 0)
        return stasis_set_errno(error, -r, "tell the shim of the VM's disks");
    return stasis_fault(STASIS_FAULT_DISK_GIVEN, error);
}

static gboolean inside_stop(StasisStopper *stopper, guint64 by_us, gboolean *ret_stopped,
                            gboolean *ret_late, GError **error)
{
    InsideStopper *self = (InsideStopper *)stopper;
    self->before_us = stasis_qmp_wait_event(self->qmp, "RESUME", 0, 0);
    struct stasis_shim_reply reply = { 0 };
    stasis_hold_begin();
    /* As far as it fits; 0 is for none. */
    guint32 by = by_us != 0 ? MAX((guint32)by_us, 1) : 0;
    int r = stasis_shim_call(self->shim, STASIS_SHIM_PAUSE, by, (guint64)self->fdset, -1, &reply);
    self->disk_us = reply.part_ns / 1000;
    /* -ETIMEDOUT and the like: it may come to a stop yet, and then it is for resume() to say. */
    *ret_late = r == -ETIME;
    self->stopped = *ret_stopped = r != -ESTALE && r != -ETIME;
    if (!self->stopped)
        stasis_hold_end(); /* there will be no resume() */
    if (r == -EIO) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "QEMU could not give a device its filter or overlay; "
                            "STASIS_STOPPER=qmp asks it over QMP, which says why");
        return FALSE;
    }
    return r == 0 || r == -ESTALE || stasis_set_errno(error, -r, "stop the VM from inside QEMU");
}

/* Begun by the stop already. */
static gboolean inside_save(StasisStopper *stopper, GError **error)
{
    InsideStopper *self = (InsideStopper *)stopper;
    return self->stopped || self->instead->ops->save(self->instead, error);
}

static gboolean inside_resume(StasisStopper *stopper, GError **error)
{
    InsideStopper *self = (InsideStopper *)stopper;
    struct stasis_shim_reply reply = { 0 };
    int r = stasis_shim_call(self->shim, STASIS_SHIM_RESUME, 0, 0, -1, &reply);
    self->save_us = reply.part_ns / 1000;
    stasis_qmp_wait_event(self->qmp, "RESUME", self->before_us, r == 0 ? EVENT_TIMEOUT_MS : 0);
    if (r == -EIO)
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "QEMU could not save its devices, and runs on; STASIS_STOPPER=qmp asks "
                            "it over QMP, which says why");
    else if (r == -ETIME)
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "the stop took so long that the shim let the VM go on; try again");
    else if (r < 0)
        stasis_set_errno(error, -r, "let the VM go on from inside QEMU");
    stasis_hold_end();
    return r == 0;
}

static guint64 inside_get_save_us(StasisStopper *stopper)
{
    InsideStopper *self = (InsideStopper *)stopper;
    return self->stopped ? self->save_us : self->instead->ops->get_save_us(self->instead);
}

static guint64 inside_get_disk_us(StasisStopper *stopper)
{
    return ((InsideStopper *)stopper)->disk_us;
}

static void inside_close(StasisStopper *stopper)
{
    InsideStopper *self = (InsideStopper *)stopper;
    self->instead->ops->close(self->instead);
    if (self->own_shim)
        stasis_shim_free(self->shim);
    g_free(self);
}

const StasisStopperOps stasis_stopper_inside = {
    .name = "inside",
    .open = inside_open,
    .flush = inside_flush,
    .give_disks = inside_give_disks,
    .stop = inside_stop,
    .save = inside_save,
    .resume = inside_resume,
    .get_save_us = inside_get_save_us,
    .get_disk_us = inside_get_disk_us,
    .close = inside_close,
};
