/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pruning images of processes, by the rules that images of VMs have (retain.c), which look at whose
 * an image is and when it was taken: so each is put to them as an image that has that and nothing
 * else. None needs another, but they share files: those are counted once, as for VMs.
 */
#include <stasis/error.h>
#include <stasis/process-image.h>

#include "base/fd.h"
#include "base/options.h"
#include "store/internal.h"
#include "store/proc-image-manifest.h"
#include "store/prune.h"
#include "store/retain.h"

static gboolean is_looked_at(const StasisPruneOptions *options, const char *const *ids,
                             const StasisProcessImageInfo *info)
{
    return (options->vm == NULL || g_strcmp0(info->vm, options->vm) == 0) &&
           (options->note == NULL || g_strcmp0(info->note, options->note) == 0) &&
           (!options->by_policy || info->by_policy) &&
           (ids == NULL || g_strv_contains(ids, info->id));
}

static StasisPruneImage *stand_in(const StasisProcessImageInfo *info)
{
    StasisPruneImage *image = g_new0(StasisPruneImage, 1);
    StasisImageInfo shown = { .id = info->id,
                              .vm = info->vm,
                              .note = info->note,
                              .created_us = info->created_us,
                              .stored_bytes = info->stored_bytes,
                              .by_policy = info->by_policy };
    image->info = stasis_image_info_copy(&shown);
    return image;
}

static StasisPruneResult *list(StasisStore *store, const StasisPruneOptions *options,
                               const char *const *ids, GError **error)
{
    g_autoptr(GPtrArray) infos = stasis_store_list_processes(store, error);
    StasisPruneResult *result = infos != NULL ? stasis_prune_result_new() : NULL;
    for (guint i = 0; result != NULL && i < infos->len; i++)
        if (is_looked_at(options, ids, infos->pdata[i]))
            g_ptr_array_add(result->images, stand_in(infos->pdata[i]));
    return result;
}

/* What those that stay take on the disk. */
static gboolean weigh(GPtrArray *images, guint64 *ret_bytes, gpointer data, GError **error)
{
    int place_fd = GPOINTER_TO_INT(data);
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    for (guint i = 0; i < images->len; i++) {
        const StasisPruneImage *image = images->pdata[i];
        if (image->reasons != NULL)
            g_ptr_array_add(ids, image->info->id);
    }
    g_ptr_array_add(ids, NULL);
    *ret_bytes = stasis_usage_of_dirs(place_fd, (const char *const *)ids->pdata);
    return TRUE;
}

/* What is free once those without a reason have gone, but for what others share with them. */
static gboolean estimate(StasisStore *store, int place_fd, StasisPruneResult *result,
                         GError **error)
{
    g_auto(GStrv) ids = stasis_store_list_process_ids(store, error);
    g_autoptr(GHashTable) going = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GPtrArray) others = g_ptr_array_new();
    if (ids == NULL)
        return FALSE;
    for (guint i = 0; i < result->images->len; i++) {
        const StasisPruneImage *image = result->images->pdata[i];
        if (image->reasons == NULL)
            g_hash_table_add(going, image->info->id);
    }
    for (char **id = ids; *id != NULL; id++)
        if (!g_hash_table_contains(going, *id))
            g_ptr_array_add(others, *id);
    g_ptr_array_add(others, NULL);
    result->n_removed = g_hash_table_size(going);
    result->n_kept = result->images->len - result->n_removed;
    result->freed_bytes =
        (gint64)stasis_usage_of_dirs(place_fd, (const char *const *)ids) -
        (gint64)stasis_usage_of_dirs(place_fd, (const char *const *)others->pdata);
    return TRUE;
}

static gboolean delete_going(StasisStore *store, const StasisPruneResult *result,
                             GCancellable *cancellable, GError **error)
{
    for (guint i = 0; i < result->images->len; i++) {
        const StasisPruneImage *image = result->images->pdata[i];
        if (image->reasons == NULL && (g_cancellable_set_error_if_cancelled(cancellable, error) ||
                                       !stasis_store_delete_process(store, image->info->id, error)))
            return FALSE;
    }
    return TRUE;
}

StasisPruneResult *stasis_store_prune_processes(StasisStore *store, const StasisPruneOptions *given,
                                                const char *const *ids, GCancellable *cancellable,
                                                GError **error)
{
    StasisPruneOptions own = STASIS_PRUNE_OPTIONS_INIT;
    const StasisPruneOptions *options = stasis_own_options(&own, given, sizeof own);
    if (!stasis_prune_check(options, error))
        return NULL;
    g_autoptr(StasisPruneResult) result = list(store, options, ids, error);
    if (result == NULL)
        return NULL;
    /* Without such a directory there is nothing to weigh. */
    stasis_autofd int place_fd = stasis_store_open_dir(store->dir_fd, STASIS_PROCESS_DIR);
    if (!stasis_retain_decide(options, result->images, weigh, GINT_TO_POINTER(place_fd), error) ||
        !estimate(store, place_fd, result, error) ||
        (!options->dry_run && !delete_going(store, result, cancellable, error)))
        return NULL;
    return g_steal_pointer(&result);
}
