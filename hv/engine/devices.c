/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The devices of an image. */
#include <stasis/store.h>

#include "device/vmstate.h"
#include "store/image.h"

void stasis_device_info_free(StasisDeviceInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->name);
    g_free(info);
}

GPtrArray *stasis_store_get_devices(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, id, error);
    g_autoptr(GBytes) stream =
        reader != NULL ? stasis_image_reader_get_part(reader, "vmstate", error) : NULL;
    g_autoptr(StasisVmstate) vmstate = stream != NULL ? stasis_vmstate_parse(stream, error) : NULL;
    if (vmstate == NULL)
        return NULL;
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
