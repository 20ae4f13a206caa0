/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU describes its devices' fields only at the end of a whole migration stream; what
 * xen-save-devices-state saves of a VM has no description. So a throw-away clone that has loaded
 * the image is asked to migrate into a file. Its RAM is shared memory, which "x-ignore-shared"
 * leaves out of the stream; what remains is a few MiB of ROMs and video RAM.
 */
#include "engine/devices/device-describe.h"

#include <errno.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "engine/restore/revive.h"
#include "engine/vm/domain-revive.h"

#define TIMEOUT_US ((guint64)120 * G_USEC_PER_SEC)
#define POLL_US 5000
/* More than any description is long. */
#define MAX_TAIL_BYTES ((off_t)8 << 20)

static StasisStarted *start(const StasisSource *source, StasisNursery *nursery,
                            GCancellable *cancellable, GError **error)
{
    g_autoptr(GArray) ram = stasis_source_own_ram(source);
    g_autofree char *name = g_strdup_printf(
        "%.40s.devices-%08x", stasis_image_reader_get_info(source->reader)->vm, g_random_int());
    StasisLaunchClone clone = { .keep_identity = TRUE,
                                .ram = (const StasisCloneRam *)(void *)ram->data,
                                .n_ram = ram->len };
    StasisRevival revival = { .name = name,
                              .kind = "forked",
                              .paused = TRUE,
                              .no_shim = TRUE,
                              .throw_away = TRUE,
                              .disks_temporary = TRUE,
                              .clone = &clone,
                              .nursery = nursery };
    return stasis_revive(source, &revival, cancellable, error);
}

static gboolean ask(StasisQmp *qmp, const char *command, const char *arguments, int fd,
                    GError **error)
{
    g_autoptr(JsonObject) object = stasis_json_parse_object(arguments, -1, error);
    g_autoptr(JsonNode) answer =
        object != NULL ? stasis_qmp_execute(qmp, command, object, fd, 0, error) : NULL;
    return answer != NULL;
}

static gboolean begin(StasisQmp *qmp, int fd, GError **error)
{
    /* Held to 128 MiB/s by default. */
    return ask(qmp, "migrate-set-capabilities",
               "{\"capabilities\": [{\"capability\": \"x-ignore-shared\", \"state\": true}]}", -1,
               error) &&
           ask(qmp, "migrate-set-parameters", "{\"max-bandwidth\": 68719476736}", -1, error) &&
           ask(qmp, "getfd", "{\"fdname\": \"stasis-description\"}", fd, error) &&
           ask(qmp, "migrate", "{\"uri\": \"fd:stasis-description\"}", -1, error);
}

static gboolean wait_written(StasisQmp *qmp, GCancellable *cancellable, GError **error)
{
    for (guint64 deadline = stasis_now_us() + TIMEOUT_US; stasis_now_us() < deadline;) {
        if (cancellable != NULL && g_cancellable_is_cancelled(cancellable))
            return stasis_set_cancelled(error);
        g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "query-migrate", NULL, -1, 0, error);
        if (answer == NULL)
            return FALSE;
        const char *status = "";
        if (JSON_NODE_HOLDS_OBJECT(answer))
            status = stasis_json_string_or(json_node_get_object(answer), "status", "");
        if (strcmp(status, "completed") == 0)
            return TRUE;
        if (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0) {
            const char *why = stasis_json_string_or(json_node_get_object(answer), "error-desc",
                                                    "it does not say why");
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "QEMU can't describe its devices: %.300s", why);
            return FALSE;
        }
        g_usleep(POLL_US);
    }
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "QEMU does not come to an end with describing its devices");
    return FALSE;
}

static GBytes *read_tail(int fd, GError **error)
{
    off_t size = lseek(fd, 0, SEEK_END), from = MAX(size - MAX_TAIL_BYTES, 0);
    g_autofree guint8 *data = g_malloc((gsize)MAX(size - from, 1));
    int r = size < 0 ? -errno : stasis_pread_all(fd, data, (size_t)(size - from), from);
    if (r < 0) {
        stasis_set_errno(error, -r, "read what QEMU says of its devices");
        return NULL;
    }
    return g_bytes_new_take(g_steal_pointer(&data), (gsize)(size - from));
}

GBytes *stasis_device_describe(StasisStore *store, const char *id, GCancellable *cancellable,
                               GError **error)
{
    stasis_autofd int fd = memfd_create("stasis-description", MFD_CLOEXEC);
    if (fd < 0) {
        stasis_set_errno(error, errno, "memory for the description of devices");
        return NULL;
    }
    g_autoptr(StasisNursery) nursery = stasis_nursery_new(error);
    g_autoptr(StasisSource) source = nursery != NULL ? stasis_source_open(store, id, error) : NULL;
    if (source == NULL || !stasis_source_check_bare(source, error))
        return NULL;
    g_autoptr(StasisStarted) started = start(source, nursery, cancellable, error);
    if (started == NULL || !begin(started->qmp, fd, error) ||
        !wait_written(started->qmp, cancellable, error))
        return NULL;
    return read_tail(fd, error);
}
