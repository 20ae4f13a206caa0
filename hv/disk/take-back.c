/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Doing away with an overlay that a running VM may be writing to: QEMU's job block-commit copies
 * what is in it into the disk below and then lets the device have that again, while the guest runs.
 */
#include <errno.h>
#include <stasis/error.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"
#include "disk/freeze.h"
#include "disk/internal.h"

#define JOB STASIS_DISK_PREFIX "take-back"

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

static gboolean a_device_has(StasisQmp *qmp, const char *node, gboolean *ret, GError **error)
{
    g_autoptr(GPtrArray) disks = stasis_disks_list(qmp, error);
    *ret = FALSE;
    for (guint i = 0; disks != NULL && i < disks->len; i++)
        *ret |= strcmp(stasis_disk_at(disks, i)->node, node) == 0;
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

/* A job that is there already is an earlier process's of ours. */
static gboolean run_job(StasisQmp *qmp, const char *node, const char *base, GError **error)
{
    gboolean completing = FALSE;
    g_autofree char *before = job_status(qmp, error);
    if (before == NULL)
        return FALSE;
    if (*before == '\0' && !stasis_disk_do(qmp, error, "block-commit", "job-id", JOB, "device",
                                           node, "top-node", node, "base-node", base, NULL))
        return FALSE;
    for (;;) {
        g_autofree char *status = job_status(qmp, error);
        if (status == NULL)
            return FALSE;
        if (*status == '\0')
            return TRUE;
        if (strcmp(status, "ready") == 0 && !completing)
            completing = stasis_disk_do(qmp, NULL, "job-complete", "id", JOB, NULL);
        g_usleep(STASIS_DISK_POLL_US);
    }
}

static gboolean merge(StasisQmp *qmp, const char *path, const char *node, GError **error)
{
    gboolean has;
    g_autofree char *base = stasis_disk_child(qmp, node, "backing", error);
    if (base == NULL || !run_job(qmp, node, base, error) || !a_device_has(qmp, node, &has, error))
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
    gboolean has = FALSE;
    g_autofree char *node = NULL;
    if (!stasis_disk_find_node(qmp, path, "qcow2", STASIS_DISK_OVERLAY_PREFIX, NULL, &node,
                               error) ||
        (node != NULL && !a_device_has(qmp, node, &has, error)))
        return FALSE;
    if (has && !wanted)
        return TRUE;
    if (has && !merge(qmp, path, node, error))
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
