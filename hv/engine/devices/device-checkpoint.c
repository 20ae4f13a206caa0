/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image of devices only: the parts "vmstate" and "machine.json" of any image, and no blocks. It
 * has no part in what tracking counts from, so it is neither parent nor child.
 */
#include <stasis/device.h>
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/options.h"
#include "engine/devices/device-name.h"
#include "engine/devices/device-take.h"
#include "store/image.h"
#include "vmm/machine.h"

/* The stream with the devices in @names only. */
static GBytes *pick(StasisVmstate *vmstate, const char *const *names, const char *vm_name,
                    GError **error)
{
    if (names == NULL || names[0] == NULL)
        return g_bytes_ref(stasis_vmstate_get_stream(vmstate));
    guint n = stasis_vmstate_get_n_sections(vmstate);
    g_autofree gboolean *wanted = g_new0(gboolean, n + 1);
    g_autofree char *where = g_strdup_printf("VM %s", vm_name);
    for (; *names != NULL; names++) {
        const StasisVmstateSection *section = stasis_device_find(vmstate, *names, where, error);
        if (section == NULL)
            return NULL;
        for (guint i = 0; i < n; i++)
            wanted[i] |= stasis_vmstate_get_section(vmstate, i) == section;
    }
    return stasis_vmstate_pick(vmstate, wanted, error);
}

static StasisImageInfo *commit(StasisImageWriter *writer, StasisSession *session, GBytes *stream,
                               const StasisImageInfo *about, GError **error)
{
    const StasisRecord *record = session->record;
    g_autoptr(StasisMachine) machine =
        stasis_machine_from_running(record->name, session->qmp, record->pid, NULL, error);
    if (machine == NULL)
        return NULL;
    g_autoptr(GBytes) json = stasis_machine_to_json(machine);
    if (!stasis_image_writer_add_part(writer, "vmstate", stream, error) ||
        !stasis_image_writer_add_part(writer, "machine.json", json, error))
        return NULL;
    StasisImageInfo info = *about;
    info.vm = record->name;
    info.mode = (char *)STASIS_MODE_DEVICES;
    info.machine = machine->machine;
    info.accel = machine->accel;
    info.qemu_version = machine->qemu_version;
    info.n_vcpus = machine->n_vcpus;
    stasis_image_writer_set_info(writer, &info);
    return stasis_image_writer_commit(writer, error);
}

StasisImageInfo *stasis_device_checkpoint(StasisVm *vm, StasisStore *store,
                                          const char *const *devices,
                                          const StasisDeviceCheckpointOptions *given,
                                          GCancellable *cancellable, GError **error)
{
    StasisDeviceCheckpointOptions options = STASIS_DEVICE_CHECKPOINT_OPTIONS_INIT;
    stasis_own_options(&options, given, sizeof options);
    guint64 begun_us = stasis_now_us();
    StasisDeviceTake taken;
    g_autoptr(StasisSession) session = stasis_device_open(stasis_vm_get_name(vm), error);
    if (session == NULL)
        return NULL;
    /* What would stand in the way is found before the VM is stopped. */
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, error);
    if (writer == NULL)
        return NULL;
    stasis_image_writer_set_devices_only(writer);
    g_autoptr(StasisVmstate) vmstate = stasis_device_take(session, &taken, cancellable, error);
    g_autoptr(GBytes) stream =
        vmstate != NULL ? pick(vmstate, devices, session->record->name, error) : NULL;
    if (stream == NULL)
        return NULL;
    StasisImageInfo about = {
        .note = (char *)options.note,
        .created_us = taken.time_us,
        .paused = taken.was_paused,
        .cost = { .pause_us = taken.pause_us,
                  .worst_stall_us = taken.pause_us,
                  .device_us = taken.device_us,
                  .total_us = stasis_now_us() - begun_us },
    };
    g_autoptr(StasisImageInfo) info = commit(writer, session, stream, &about, error);
    if (info == NULL || !stasis_fault(STASIS_FAULT_COMMITTED, error))
        return NULL;
    return g_steal_pointer(&info);
}
