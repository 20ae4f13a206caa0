/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an interrupted checkpoint or rollback left in QEMU, known by its names. The order is that of
 * use: exports, readers, then each filter is taken out from between a device and its disk.
 */
#include <stasis/error.h>
#include <string.h>

#include "base/json.h"
#include "disk/bitmaps.h"
#include "disk/internal.h"
#include "disk/nbd.h"

static const char *const roles[] = { "access-", "filter-", "scratch-", "standin-", "keeper-" };
#define FILTERS 1

/* A QEMU that does not know the question has none of ours. */
static void sweep_exports(StasisQmp *qmp)
{
    JsonArray *list;
    g_autoptr(JsonNode) answer =
        stasis_disk_ask_list(qmp, "query-block-exports", NULL, &list, NULL);
    for (guint i = 0; answer != NULL && i < json_array_get_length(list); i++) {
        JsonObject *item;
        const char *id;
        if (stasis_json_object_at(list, i, &item, NULL) &&
            stasis_json_string(item, "id", &id, NULL) && g_str_has_prefix(id, STASIS_DISK_PREFIX))
            /* It may be on its way out already. */
            stasis_disk_do(qmp, NULL, "block-export-del", "id", id, "mode", "hard", NULL);
    }
}

static gboolean take_out(StasisQmp *qmp, const char *filter, GError **error)
{
    g_autofree char *node = stasis_disk_child(qmp, filter, "file", error);
    g_autoptr(GPtrArray) disks = node != NULL ? stasis_disks_list(qmp, error) : NULL;
    for (guint i = 0; disks != NULL && i < disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks, i);
        if (strcmp(disk->node, filter) == 0 && !stasis_disk_give(qmp, disk->qdev, node, error))
            return FALSE;
    }
    return TRUE;
}

/* Names of our nodes. Free with g_strfreev(). */
static char **find_nodes(StasisQmp *qmp, GError **error)
{
    JsonArray *list;
    g_autoptr(JsonNode) answer = stasis_disk_ask_nodes(qmp, &list, error);
    if (answer == NULL)
        return NULL;
    GPtrArray *names = g_ptr_array_new();
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *node;
        const char *name;
        if (stasis_json_object_at(list, i, &node, NULL) &&
            stasis_json_string(node, "node-name", &name, NULL) &&
            g_str_has_prefix(name, STASIS_DISK_PREFIX))
            g_ptr_array_add(names, g_strdup(name));
    }
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(names, FALSE);
}

static gboolean sweep_nodes(StasisQmp *qmp, GError **error)
{
    g_auto(GStrv) names = find_nodes(qmp, error);
    if (names == NULL)
        return FALSE;
    for (guint role = 0; role < G_N_ELEMENTS(roles); role++)
        for (char **name = names; *name != NULL; name++)
            if (g_str_has_prefix(*name + strlen(STASIS_DISK_PREFIX), roles[role]) &&
                ((role == FILTERS && !take_out(qmp, *name, error)) ||
                 !stasis_disk_delete_node(qmp, *name, error)))
                return FALSE;
    return TRUE;
}

/* An export is gone a moment after it was told to. */
static gboolean put_back(const StasisBitmaps *bitmaps, StasisQmp *qmp, GError **error)
{
    for (guint tries = 0; tries < STASIS_DISK_TRIES; tries++) {
        if (stasis_bitmaps_put_back(bitmaps, qmp, NULL))
            return TRUE;
        g_usleep(STASIS_DISK_POLL_US);
    }
    return stasis_bitmaps_put_back(bitmaps, qmp, error);
}

gboolean stasis_disks_sweep(StasisQmp *qmp, pid_t pid, const char *keep, GError **error)
{
    g_autoptr(StasisBitmaps) bitmaps = stasis_bitmaps_list(qmp, error);
    if (bitmaps == NULL)
        return FALSE;
    sweep_exports(qmp);
    stasis_nbd_server_sweep(qmp, pid);
    return put_back(bitmaps, qmp, error) && sweep_nodes(qmp, error) &&
           stasis_bitmaps_sweep(bitmaps, qmp, keep, error);
}
