/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/pivot.h"

#include <string.h>

#include "disk/device.h"

#define FIRST_HELD_BACK 80200u

/* NVMe has such a property as well, but not for this. */
static gboolean is_virtio_with_ioeventfd(StasisQmp *qmp, const char *path)
{
    g_autoptr(JsonNode) used = stasis_device_property(qmp, path, "ioeventfd");
    if (!stasis_device_is_true(used))
        return FALSE;
    g_autoptr(JsonNode) type = stasis_device_property(qmp, path, "type");
    const char *name = stasis_device_text(type);
    return name != NULL && g_str_has_prefix(name, "virtio-");
}

gboolean stasis_disk_pivot_needs_standstill(StasisQmp *qmp, const StasisDisk *disk)
{
    const StasisDiskLayer *below =
        disk->layers->len > 1 ? g_ptr_array_index(disk->layers, 1) : NULL;
    return stasis_qmp_get_version_number(qmp) < FIRST_HELD_BACK &&
           (below == NULL || strcmp(below->format, "qcow2") != 0) &&
           !stasis_device_any(qmp, disk->qdev, is_virtio_with_ioeventfd);
}
