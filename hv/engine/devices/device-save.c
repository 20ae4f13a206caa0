/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/devices/device-save.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"

#define MAX_STATE_BYTES (64u << 20)

static GBytes *read_all(int fd, GError **error)
{
    off_t size = lseek(fd, 0, SEEK_END);
    if (size <= 0 || size > MAX_STATE_BYTES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "QEMU saved %" G_GINT64_FORMAT " bytes of device state", (gint64)size);
        return NULL;
    }
    g_autofree guint8 *data = g_malloc((gsize)size);
    int r = stasis_pread_all(fd, data, (size_t)size, 0);
    if (r < 0) {
        stasis_set_errno(error, -r, "read the device state");
        return NULL;
    }
    return g_bytes_new_take(g_steal_pointer(&data), (gsize)size);
}

GBytes *stasis_device_save(StasisQmp *qmp, GError **error)
{
    stasis_autofd int fd = memfd_create("stasis-vmstate", MFD_CLOEXEC);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    /* QEMU wants a descriptor that is open for writing only. */
    stasis_autofd int write_fd = fd >= 0 ? open(path, O_WRONLY | O_CLOEXEC) : -1;
    if (write_fd < 0) {
        stasis_set_errno(error, errno, "memory for the device state");
        return NULL;
    }
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "add-fd", NULL, write_fd, 0, error);
    guint64 set;
    if (answer == NULL || !JSON_NODE_HOLDS_OBJECT(answer) ||
        !stasis_json_uint(json_node_get_object(answer), "fdset-id", &set, error))
        return NULL;
    g_autofree char *save = g_strdup_printf(
        "{\"execute\":\"xen-save-devices-state\",\"arguments\":{\"filename\":\"/dev/fdset/"
        "%" G_GUINT64_FORMAT "\",\"live\":false}}\n",
        set);
    g_autofree char *forget = g_strdup_printf(
        "{\"execute\":\"remove-fd\",\"arguments\":{\"fdset-id\":%" G_GUINT64_FORMAT "}}\n", set);
    gboolean saved = stasis_qmp_execute_line(qmp, save, 0, error);
    stasis_qmp_execute_line(qmp, forget, 0, NULL);
    return saved ? read_all(fd, error) : NULL;
}
