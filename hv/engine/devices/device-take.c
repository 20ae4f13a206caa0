/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The stop is that of a checkpoint (instant.c), with nothing beside it: whoever stops the VM,
 * however we end, it goes on.
 */
#include "engine/devices/device-take.h"

#include "disk/flush.h"
#include "engine/checkpoint/instant.h"
#include "engine/rollback/rollback-mark.h"
#include "engine/vm/sweep.h"
#include "store/image.h"
#include "vmm/ram.h"

StasisSession *stasis_device_open(const char *name, GError **error)
{
    g_autoptr(StasisSession) session = stasis_session_open(name, STASIS_LOCK_WAIT_MS, error);
    if (session == NULL || !stasis_rollback_check_whole(session->record->name, error) ||
        !stasis_vm_check_supported(session->qmp, session->record->pid, error) ||
        !stasis_session_sweep(session, session->record->track_image, error))
        return NULL;
    return g_steal_pointer(&session);
}

static int take_no_ram(StasisCopy *copy)
{
    return 0;
}

static gboolean take(StasisInstant *instant, StasisLifeline *lifeline, StasisCopy *copy,
                     GError **error)
{
    static const StasisModeOps no_ram = { .name = STASIS_MODE_DEVICES, .during = take_no_ram };
    return stasis_instant_begin(instant, lifeline, copy, NULL, FALSE, FALSE, error) &&
           stasis_disk_flush(copy->ram->pid, copy->cancellable, error) &&
           stasis_instant_take(instant, copy, &no_ram, NULL, error);
}

StasisVmstate *stasis_device_take(StasisSession *session, StasisDeviceTake *ret,
                                  GCancellable *cancellable, GError **error)
{
    const StasisRam ram = { .pid = session->record->pid };
    StasisCopy copy = { .ram = &ram, .qmp = session->qmp, .cancellable = cancellable };
    g_autoptr(StasisLifeline) lifeline = stasis_lifeline_new(session->qmp, error);
    g_autoptr(StasisInstant) instant =
        lifeline != NULL ? stasis_instant_new(session->qmp, ram.pid, error) : NULL;
    if (instant == NULL || !take(instant, lifeline, &copy, error))
        return NULL;
    g_autoptr(GBytes) stream = stasis_instant_get_vmstate(instant, error);
    g_autoptr(StasisVmstate) vmstate = stream != NULL ? stasis_vmstate_parse(stream, error) : NULL;
    if (vmstate == NULL)
        return NULL;
    *ret = (StasisDeviceTake){
        .time_us = stasis_instant_get_time_us(instant),
        .pause_us = stasis_instant_get_pause_us(instant),
        .device_us = stasis_instant_get_device_us(instant),
        .was_paused = stasis_instant_was_paused(instant),
    };
    return g_steal_pointer(&vmstate);
}
