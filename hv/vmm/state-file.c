/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/state-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"

/* What the set is called in QEMU. */
#define NAME "stasis-vmstate"
#define MAX_BYTES (64u << 20)

/* Open @write_fd's memory for reading as well. It may be QEMU's word alone that it is ours: another
 * file would not be. */
static gboolean open_memory(StasisStateFile *self, int write_fd)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", write_fd);
    self->fd = fcntl(write_fd, F_GET_SEALS) >= 0 ? open(path, O_RDWR | O_CLOEXEC) : -1;
    return self->fd >= 0;
}

/* QEMU's descriptor @number, from set @set. */
static gboolean take_up(StasisStateFile *self, pid_t pid, guint64 number, guint64 set)
{
    stasis_autofd int pidfd = number <= G_MAXINT ? pidfd_open(pid, 0) : -1;
    stasis_autofd int fd = pidfd >= 0 ? pidfd_getfd(pidfd, (int)number, 0) : -1;
    if (fd < 0 || (fcntl(fd, F_GETFL) & O_ACCMODE) != O_WRONLY || !open_memory(self, fd))
        return FALSE;
    self->write_fd = stasis_steal_fd(&fd);
    self->set = (gint64)set;
    return TRUE;
}

static gboolean take_up_set(StasisStateFile *self, pid_t pid, JsonArray *sets, guint i)
{
    JsonObject *set, *only;
    JsonArray *descriptors;
    guint64 id, number;
    return stasis_json_object_at(sets, i, &set, NULL) &&
           stasis_json_uint(set, "fdset-id", &id, NULL) &&
           stasis_json_array(set, "fds", &descriptors, NULL) &&
           json_array_get_length(descriptors) == 1 &&
           stasis_json_object_at(descriptors, 0, &only, NULL) &&
           strcmp(stasis_json_string_or(only, "opaque", ""), NAME) == 0 &&
           stasis_json_uint(only, "fd", &number, NULL) && take_up(self, pid, number, id);
}

/* What was left for us, if there is any. */
static gboolean take_up_any(StasisStateFile *self, StasisQmp *qmp, pid_t pid)
{
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "query-fdsets", NULL, -1, 0, NULL);
    JsonArray *sets =
        answer != NULL && JSON_NODE_HOLDS_ARRAY(answer) ? json_node_get_array(answer) : NULL;
    for (guint i = 0; sets != NULL && i < json_array_get_length(sets); i++)
        if (take_up_set(self, pid, sets, i))
            return TRUE;
    return FALSE;
}

static gboolean make_memory(StasisStateFile *self, GError **error)
{
    self->fd = memfd_create(NAME, MFD_CLOEXEC);
    if (self->fd < 0)
        return stasis_set_errno(error, errno, "memory for the device state");
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", self->fd);
    self->write_fd = open(path, O_WRONLY | O_CLOEXEC);
    return self->write_fd >= 0 ||
           stasis_set_errno(error, errno, "open the memory for the device state");
}

static void forget(StasisStateFile *self)
{
    stasis_clear_fd(&self->fd);
    stasis_clear_fd(&self->write_fd);
    self->set = -1;
}

gboolean stasis_state_file_lend(StasisStateFile *self, StasisQmp *qmp, pid_t pid, GError **error)
{
    forget(self);
    if (take_up_any(self, qmp, pid))
        return TRUE;
    forget(self);
    g_autoptr(JsonObject) arguments = json_object_new();
    json_object_set_string_member(arguments, "opaque", NAME);
    g_autoptr(JsonNode) answer =
        make_memory(self, error)
            ? stasis_qmp_execute(qmp, "add-fd", arguments, self->write_fd, 0, error)
            : NULL;
    guint64 set;
    if (answer == NULL || !JSON_NODE_HOLDS_OBJECT(answer) ||
        !stasis_json_uint(json_node_get_object(answer), "fdset-id", &set, error))
        return FALSE;
    self->set = (gint64)set;
    return TRUE;
}

void stasis_state_file_close(StasisStateFile *self, StasisQmp *qmp, gboolean keep)
{
    if (self->set >= 0 && !keep) {
        g_autoptr(JsonObject) arguments = json_object_new();
        json_object_set_int_member(arguments, "fdset-id", self->set);
        g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "remove-fd", arguments, -1, 0, NULL);
    }
    forget(self);
}

gboolean stasis_state_file_rewind(StasisStateFile *self, GError **error)
{
    return (ftruncate(self->fd, 0) == 0 && lseek(self->write_fd, 0, SEEK_SET) == 0) ||
           stasis_set_errno(error, errno, "rewind the device state");
}

char *stasis_state_file_save_line(gint64 set)
{
    return g_strdup_printf("{\"execute\":\"xen-save-devices-state\",\"arguments\":{\"filename\":"
                           "\"/dev/fdset/%" G_GINT64_FORMAT "\",\"live\":false}}\n",
                           set);
}

GBytes *stasis_state_file_read(StasisStateFile *self, GError **error)
{
    off_t size = lseek(self->fd, 0, SEEK_END);
    if (size <= 0 || size > MAX_BYTES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "QEMU saved %" G_GINT64_FORMAT " bytes of device state", (gint64)size);
        return NULL;
    }
    g_autofree guint8 *data = g_malloc((gsize)size);
    int r = stasis_pread_all(self->fd, data, (size_t)size, 0);
    if (r < 0) {
        stasis_set_errno(error, -r, "read the device state");
        return NULL;
    }
    return g_bytes_new_take(g_steal_pointer(&data), (gsize)size);
}

GBytes *stasis_state_file_save(StasisStateFile *self, StasisQmp *qmp, GError **error)
{
    g_autofree char *line = stasis_state_file_save_line(self->set);
    return stasis_state_file_rewind(self, error) && stasis_qmp_execute_line(qmp, line, 0, error)
               ? stasis_state_file_read(self, error)
               : NULL;
}

GBytes *stasis_state_file_save_once(StasisQmp *qmp, pid_t pid, gboolean keep, GError **error)
{
    StasisStateFile file = STASIS_STATE_FILE_NONE;
    GBytes *saved = stasis_state_file_lend(&file, qmp, pid, error)
                        ? stasis_state_file_save(&file, qmp, error)
                        : NULL;
    stasis_state_file_close(&file, qmp, keep);
    return saved;
}
