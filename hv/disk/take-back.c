/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Doing away with an overlay that a running VM may be writing to: QEMU's job block-commit copies
 * what is in it into the disk below and then lets the device have that again, while the guest runs.
 */
#include <errno.h>
#include <stasis/error.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/io.h"
#include "base/json.h"
#include "disk/flush.h"
#include "disk/freeze.h"
#include "disk/internal.h"
#include "disk/pivot.h"
#include "vmm/standstill.h"

#define JOB STASIS_DISK_PREFIX "take-back"
/* While the guest stands still. */
#define PIVOT_POLL_US 500

gboolean stasis_disk_reopen_read_only(StasisQmp *qmp, const char *node, GError **error)
{
    /* blockdev-reopen wants every option of the node's again, and those of a -drive are not known;
     * this keeps them. It says nothing when it has worked. */
    g_autofree char *line = g_strdup_printf("qemu-io %s \"reopen -r\"", node);
    g_autofree char *said = stasis_qmp_human(qmp, line, error);
    if (said == NULL)
        return FALSE;
    g_strdelimit(g_strstrip(said), "\r\n", ' ');
    if (*said == '\0')
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "QEMU can't open it read-only: %s", said);
    return FALSE;
}

/* The one whose device has @node; NULL: none has. */
static const StasisDisk *find_disk(const GPtrArray *disks, const char *node)
{
    for (guint i = 0; i < disks->len; i++)
        if (strcmp(stasis_disk_at(disks, i)->node, node) == 0)
            return stasis_disk_at(disks, i);
    return NULL;
}

static gboolean a_device_has(StasisQmp *qmp, const char *node, gboolean *ret, GError **error)
{
    g_autoptr(GPtrArray) disks = stasis_disks_list(qmp, error);
    *ret = disks != NULL && find_disk(disks, node) != NULL;
    return disks != NULL;
}

/* "" when there is no such job. */
static char *job_status(StasisQmp *qmp, GError **error)
{
    JsonArray *list;
    g_autoptr(JsonNode) answer = stasis_disk_ask_list(qmp, "query-jobs", NULL, &list, error);
    for (guint i = 0; answer != NULL && i < json_array_get_length(list); i++) {
        JsonObject *job;
        if (stasis_json_object_at(list, i, &job, NULL) &&
            strcmp(stasis_json_string_or(job, "id", ""), JOB) == 0)
            return g_strdup(stasis_json_string_or(job, "status", ""));
    }
    return answer != NULL ? g_strdup("") : NULL;
}

/* Of the job, to the end. *ret_ready: it waits to be told to end. */
static gboolean wait_job(StasisQmp *qmp, gulong poll_us, gboolean until_ready, gboolean *ret_ready,
                         GError **error)
{
    for (;;) {
        g_autofree char *status = job_status(qmp, error);
        if (status == NULL)
            return FALSE;
        *ret_ready = strcmp(status, "ready") == 0;
        if (*status == '\0' || (*ret_ready && until_ready))
            return TRUE;
        g_usleep(poll_us);
    }
}

/* What is written already needs no time of the stop. */
static gboolean begin_standstill(StasisQmp *qmp, const StasisDisk *disk, StasisStandstill **ret,
                                 GError **error)
{
    pid_t pid = stasis_qmp_get_peer_pid(qmp);
    if (!stasis_disk_pivot_needs_standstill(qmp, disk))
        return TRUE;
    *ret = stasis_standstill_new(qmp, error);
    if (*ret == NULL)
        return FALSE;
    stasis_disk_flush_in_qemu(qmp, disk);
    return (pid <= 0 || stasis_disk_flush(pid, NULL, error)) &&
           stasis_standstill_begin(*ret, error);
}

/* It may have ended by itself, or go on copying before it can end. */
static gboolean complete_job(StasisQmp *qmp, const StasisDisk *disk, GError **error)
{
    gboolean ready;
    g_autoptr(StasisStandstill) still = NULL;
    if (!begin_standstill(qmp, disk, &still, error) ||
        !stasis_fault(STASIS_FAULT_OVERLAY_PIVOTING, error))
        return FALSE;
    if (stasis_disk_do(qmp, NULL, "job-complete", "id", JOB, NULL) &&
        !wait_job(qmp, still != NULL ? PIVOT_POLL_US : STASIS_DISK_POLL_US, FALSE, &ready, error))
        return FALSE;
    return still == NULL || stasis_standstill_end(still, error);
}

/* A job that is there already is an earlier process's of ours. */
static gboolean run_job(StasisQmp *qmp, const StasisDisk *disk, const char *base, GError **error)
{
    gboolean ready;
    g_autofree char *before = job_status(qmp, error);
    if (before == NULL)
        return FALSE;
    if (*before == '\0' &&
        !stasis_disk_do(qmp, error, "block-commit", "job-id", JOB, "device", disk->node, "top-node",
                        disk->node, "base-node", base, NULL))
        return FALSE;
    do {
        if (!wait_job(qmp, STASIS_DISK_POLL_US, TRUE, &ready, error) ||
            (ready && !complete_job(qmp, disk, error)))
            return FALSE;
    } while (ready);
    return TRUE;
}

static gboolean merge(StasisQmp *qmp, const char *path, const StasisDisk *disk, GError **error)
{
    gboolean has;
    g_autofree char *base = stasis_disk_child(qmp, disk->node, "backing", error);
    if (base == NULL || !run_job(qmp, disk, base, error) ||
        !a_device_has(qmp, disk->node, &has, error))
        return FALSE;
    if (!has)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "QEMU could not write what is in %s back into the disk below (is its file system "
                "full?)",
                path);
    return FALSE;
}

static gboolean remove_file(StasisQmp *qmp, const char *path, GError **error)
{
    g_autofree char *node = NULL;
    if (!stasis_disk_find_node(qmp, path, "qcow2", "", NULL, &node, error))
        return FALSE;
    /* Something is on top of it. */
    if (node != NULL)
        return TRUE;
    return unlink(path) == 0 || errno == ENOENT ||
           stasis_set_errno(error, errno, "remove %s", path);
}

static gboolean end(StasisQmp *qmp, const char *path, gboolean wanted, GError **error)
{
    g_autofree char *node = NULL;
    if (!stasis_disk_find_node(qmp, path, "qcow2", STASIS_DISK_OVERLAY_PREFIX, NULL, &node, error))
        return FALSE;
    g_autoptr(GPtrArray) disks = node != NULL ? stasis_disks_list(qmp, error) : NULL;
    if (node != NULL && disks == NULL)
        return FALSE;
    const StasisDisk *disk = node != NULL ? find_disk(disks, node) : NULL;
    if (disk != NULL && !wanted)
        return TRUE;
    if (disk != NULL && !merge(qmp, path, disk, error))
        return FALSE;
    if (node != NULL)
        stasis_disk_delete_node(qmp, node, NULL);
    return remove_file(qmp, path, error);
}

gboolean stasis_disk_overlay_take_back(StasisQmp *qmp, const char *path, GError **error)
{
    return end(qmp, path, TRUE, error);
}

gboolean stasis_disk_overlay_drop(StasisQmp *qmp, const char *path, GError **error)
{
    return end(qmp, path, FALSE, error);
}

gboolean stasis_disk_overlay_close(StasisQmp *qmp, const char *path, GError **error)
{
    g_autofree char *node = NULL;
    if (!stasis_disk_find_node(qmp, path, "qcow2", STASIS_DISK_OVERLAY_PREFIX, NULL, &node, error))
        return FALSE;
    return node == NULL || stasis_disk_delete_node(qmp, node, error);
}
