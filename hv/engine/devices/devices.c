/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The devices of an image, and of a VM. */
#include <stasis/device.h>

#include "engine/devices/device-take.h"
#include "store/image.h"

void stasis_device_info_free(StasisDeviceInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->name);
    g_free(info);
}

static GPtrArray *list(StasisVmstate *vmstate)
{
    GPtrArray *devices = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_device_info_free);
    for (guint i = 0; i < stasis_vmstate_get_n_sections(vmstate); i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(vmstate, i);
        StasisDeviceInfo *info = g_new0(StasisDeviceInfo, 1);
        info->name = g_strdup(section->name);
        info->instance = section->instance;
        info->version = section->version;
        info->size_bytes = section->payload_size;
        g_ptr_array_add(devices, info);
    }
    return devices;
}

GPtrArray *stasis_store_get_devices(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, id, error);
    g_autoptr(GBytes) stream =
        reader != NULL ? stasis_image_reader_get_part(reader, "vmstate", error) : NULL;
    g_autoptr(StasisVmstate) vmstate = stream != NULL ? stasis_vmstate_parse(stream, error) : NULL;
    return vmstate != NULL ? list(vmstate) : NULL;
}

GPtrArray *stasis_vm_get_devices(StasisVm *vm, guint64 *ret_pause_us, GCancellable *cancellable,
                                 GError **error)
{
    StasisDeviceTake taken;
    g_autoptr(StasisSession) session = stasis_device_open(stasis_vm_get_name(vm), error);
    g_autoptr(StasisVmstate) vmstate =
        session != NULL ? stasis_device_take(session, &taken, cancellable, error) : NULL;
    if (vmstate == NULL)
        return NULL;
    if (ret_pause_us != NULL)
        *ret_pause_us = taken.pause_us;
    return list(vmstate);
}
