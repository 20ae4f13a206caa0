/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Device state through QEMU's job "snapshot-load": it resets the machine and loads the VM state of
 * an internal snapshot. The snapshot is in a qcow2 image of ours (device/qcow2.h), handed to QEMU
 * as a descriptor of memory and known there as one block node that no device uses; "vmstate" and
 * "devices" name just that node, so no disk of the VM goes back.
 *
 * While a loader is open QEMU has one node and one descriptor of ours, and between load and settle
 * one concluded job. Their names are fixed, so what a killed process leaves is found again.
 */
#include <errno.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "device/qcow2.h"
#include "disk/disk.h"
#include "engine/devices/device-load.h"

/* Of the job, the node and the descriptor. Short: QEMU takes in QMP byte by byte, at 5 µs each. */
#define NAME "stasis-rb"
#define TAG "s"
#define LOAD_LINE                                                                          \
    "{\"execute\":\"snapshot-load\",\"arguments\":{\"job-id\":\"" NAME "\",\"tag\":\"" TAG \
    "\",\"vmstate\":\"" NAME "\",\"devices\":[\"" NAME "\"]}}\n"
#define DISMISS_LINE "{\"execute\":\"job-dismiss\",\"arguments\":{\"id\":\"" NAME "\"}}\n"
#define DELETE_LINE "{\"execute\":\"blockdev-del\",\"arguments\":{\"node-name\":\"" NAME "\"}}\n"
/* Hang limits, not expectations. */
#define LOAD_TIMEOUT_MS 30000
#define EVENT_WAIT_MS 100
#define BLOCK_BYTES 4096u

typedef struct {
    StasisDeviceLoader base;
    StasisQmp *qmp;
    gboolean has_node;
    gboolean has_job;
} JobLoader;

/* ---- the job ---- */

/* Our job in the answer to query-jobs, or NULL. */
static JsonObject *find_job(JsonNode *answer)
{
    JsonArray *jobs = JSON_NODE_HOLDS_ARRAY(answer) ? json_node_get_array(answer) : NULL;
    for (guint i = 0; jobs != NULL && i < json_array_get_length(jobs); i++) {
        JsonObject *job;
        if (stasis_json_object_at(jobs, i, &job, NULL) &&
            strcmp(stasis_json_string_or(job, "id", ""), NAME) == 0)
            return job;
    }
    return NULL;
}

/* Wait until our job is concluded; *ret_none when there is none (and TRUE). The query is answered
 * by the thread that also does the loading, so it waits by itself for as long as that takes. */
static gboolean wait_concluded(StasisQmp *qmp, gboolean *ret_none, GError **error)
{
    guint64 deadline_us = stasis_now_us() + LOAD_TIMEOUT_MS * G_GUINT64_CONSTANT(1000);
    for (;;) {
        guint64 seen_us = stasis_qmp_wait_event(qmp, "JOB_STATUS_CHANGE", 0, 0);
        g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "query-jobs", NULL, -1, 0, error);
        if (answer == NULL)
            return FALSE;
        JsonObject *job = find_job(answer);
        *ret_none = job == NULL;
        if (job == NULL)
            return TRUE;
        if (strcmp(stasis_json_string_or(job, "status", ""), "concluded") == 0) {
            const char *why = stasis_json_string_or(job, "error", NULL);
            if (why != NULL)
                g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "snapshot-load: %s", why);
            return why == NULL;
        }
        if (stasis_now_us() > deadline_us) {
            g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                                "snapshot-load does not come to an end");
            return FALSE;
        }
        stasis_qmp_wait_event(qmp, "JOB_STATUS_CHANGE", seen_us, EVENT_WAIT_MS);
    }
}

static gboolean job_load(StasisDeviceLoader *loader, GError **error)
{
    JobLoader *self = (JobLoader *)loader;
    gboolean none = FALSE;
    loader->ops->settle(loader);
    if (!stasis_qmp_execute_line(self->qmp, LOAD_LINE, LOAD_TIMEOUT_MS, error))
        return FALSE;
    self->has_job = TRUE;
    if (!stasis_fault(STASIS_FAULT_ROLLBACK_LOADING, error) ||
        !wait_concluded(self->qmp, &none, error))
        return FALSE;
    if (none)
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "snapshot-load: somebody else has dismissed the job");
    return !none;
}

static void job_settle(StasisDeviceLoader *loader)
{
    JobLoader *self = (JobLoader *)loader;
    if (self->has_job)
        stasis_qmp_execute_line(self->qmp, DISMISS_LINE, 0, NULL);
    self->has_job = FALSE;
}

/* ---- the node ---- */

/* Behind a stream's end a loading QEMU looks for a description (QEMU_VM_VMDESCRIPTION, a length,
 * JSON) and complains in its log when there is none: an empty one. Behind one it reads no further.
 */
static GBytes *with_description(GBytes *stream)
{
    static const guint8 description[] = { 0x06, 0, 0, 0, 2, '{', '}' };
    gsize len;
    const void *data = g_bytes_get_data(stream, &len);
    GByteArray *out = g_byte_array_sized_new((guint)(len + sizeof(description)));
    g_byte_array_append(out, data, (guint)len);
    g_byte_array_append(out, description, sizeof(description));
    return g_byte_array_free_to_bytes(out);
}

/* Most of a small image is the rest of its clusters: holes, since memory that is used for the first
 * time costs more than all else here. 0 or −errno. */
static int write_sparse(int fd, const guint8 *data, gsize len)
{
    static const guint8 zeros[BLOCK_BYTES];
    int r = ftruncate(fd, (off_t)len) < 0 ? -errno : 0;
    for (gsize at = 0, n; at < len && r == 0; at += n) {
        n = MIN(len - at, BLOCK_BYTES);
        if (memcmp(data + at, zeros, n) != 0)
            r = stasis_pwrite_all(fd, data + at, n, (off_t)at);
    }
    return r;
}

static int make_file(GBytes *stream, GError **error)
{
    g_autoptr(GBytes) described = with_description(stream);
    g_autoptr(GBytes) qcow2 = stasis_qcow2_with_vmstate(described, TAG, error);
    if (qcow2 == NULL)
        return -1;
    stasis_autofd int fd = memfd_create(NAME, MFD_CLOEXEC);
    if (fd < 0) {
        stasis_set_errno(error, errno, "memory for the device state");
        return -1;
    }
    gsize len;
    const void *data = g_bytes_get_data(qcow2, &len);
    int r = write_sparse(fd, data, len);
    if (r < 0) {
        stasis_set_errno(error, -r, "memory for the device state");
        return -1;
    }
    return stasis_steal_fd(&fd);
}

static gboolean remove_fdset(StasisQmp *qmp, gint64 set, GError **error)
{
    g_autoptr(JsonObject) arguments = json_object_new();
    json_object_set_int_member(arguments, "fdset-id", set);
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "remove-fd", arguments, -1, 0, error);
    return answer != NULL;
}

static gboolean lend_file(StasisQmp *qmp, int fd, gint64 *ret_set, GError **error)
{
    g_autoptr(JsonObject) arguments = json_object_new();
    json_object_set_string_member(arguments, "opaque", NAME);
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "add-fd", arguments, fd, 0, error);
    guint64 set;
    if (answer == NULL || !JSON_NODE_HOLDS_OBJECT(answer) ||
        !stasis_json_uint(json_node_get_object(answer), "fdset-id", &set, error))
        return FALSE;
    *ret_set = (gint64)set;
    return TRUE;
}

/* QEMU opens a descriptor of its own of the set's; the set itself is not needed any longer then,
 * and goes with the node. */
static gboolean add_node(StasisQmp *qmp, int fd, GError **error)
{
    gint64 set;
    if (!lend_file(qmp, fd, &set, error))
        return FALSE;
    g_autofree char *line =
        g_strdup_printf("{\"execute\":\"blockdev-add\",\"arguments\":{\"node-name\":\"" NAME "\","
                        "\"driver\":\"qcow2\",\"cache\":{\"direct\":false,\"no-flush\":true},"
                        "\"file\":{\"driver\":\"file\",\"locking\":\"off\","
                        "\"filename\":\"/dev/fdset/%" G_GINT64_FORMAT "\"}}}\n",
                        set);
    gboolean ok = stasis_qmp_execute_line(qmp, line, 0, error);
    return remove_fdset(qmp, set, ok ? error : NULL) && ok;
}

static StasisDeviceLoader *job_open(StasisQmp *qmp, GBytes *stream, GError **error)
{
    stasis_autofd int fd = make_file(stream, error);
    if (fd < 0 || !add_node(qmp, fd, error))
        return NULL;
    JobLoader *self = g_new0(JobLoader, 1);
    self->base.ops = &stasis_device_load_job;
    self->qmp = qmp;
    self->has_node = TRUE;
    return &self->base;
}

static void job_close(StasisDeviceLoader *loader)
{
    JobLoader *self = (JobLoader *)loader;
    job_settle(loader);
    if (self->has_node)
        stasis_qmp_execute_line(self->qmp, DELETE_LINE, 0, NULL);
    g_free(self);
}

/* ---- what was left behind ---- */

static gboolean sweep_fdsets(StasisQmp *qmp, GError **error)
{
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "query-fdsets", NULL, -1, 0, error);
    if (answer == NULL)
        return FALSE;
    JsonArray *sets = JSON_NODE_HOLDS_ARRAY(answer) ? json_node_get_array(answer) : NULL;
    for (guint i = 0; sets != NULL && i < json_array_get_length(sets); i++) {
        JsonObject *set, *first;
        JsonArray *fds;
        guint64 id;
        if (stasis_json_object_at(sets, i, &set, NULL) &&
            stasis_json_uint(set, "fdset-id", &id, NULL) &&
            stasis_json_array(set, "fds", &fds, NULL) &&
            stasis_json_object_at(fds, 0, &first, NULL) &&
            strcmp(stasis_json_string_or(first, "opaque", ""), NAME) == 0)
            remove_fdset(qmp, (gint64)id, NULL);
    }
    return TRUE;
}

static gboolean has_node(StasisQmp *qmp, gboolean *ret, GError **error)
{
    JsonArray *nodes;
    g_autoptr(JsonNode) answer = stasis_disk_ask_nodes(qmp, &nodes, error);
    if (answer == NULL)
        return FALSE;
    *ret = FALSE;
    for (guint i = 0; i < json_array_get_length(nodes); i++) {
        JsonObject *node;
        if (stasis_json_object_at(nodes, i, &node, NULL) &&
            strcmp(stasis_json_string_or(node, "node-name", ""), NAME) == 0)
            *ret = TRUE;
    }
    return TRUE;
}

gboolean stasis_device_load_sweep(StasisQmp *qmp, GError **error)
{
    gboolean none = FALSE, node;
    /* Whether it went well does not matter any more. */
    wait_concluded(qmp, &none, NULL);
    if (!none)
        stasis_qmp_execute_line(qmp, DISMISS_LINE, 0, NULL);
    if (!has_node(qmp, &node, error))
        return FALSE;
    if (node && !stasis_qmp_execute_line(qmp, DELETE_LINE, 0, error))
        return FALSE;
    return sweep_fdsets(qmp, error);
}

const StasisDeviceLoadOps *stasis_device_load_choose(StasisQmp *qmp)
{
    return &stasis_device_load_job;
}

const StasisDeviceLoadOps stasis_device_load_job = {
    .name = "snapshot-load",
    .open = job_open,
    .load = job_load,
    .settle = job_settle,
    .close = job_close,
};
