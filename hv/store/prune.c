/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pruning: a policy says which images stay (retain.c); the others are deleted in one go. */
#include <stasis/maintenance.h>

#include "base/options.h"
#include "store/internal.h"
#include "store/prune.h"
#include "store/retain.h"

static void free_image(gpointer data)
{
    StasisPruneImage *image = data;
    stasis_image_info_free(image->info);
    g_free(image->reasons);
    g_free(image);
}

void stasis_prune_result_free(StasisPruneResult *result)
{
    if (result == NULL)
        return;
    g_ptr_array_unref(result->images);
    g_free(result);
}

StasisPruneResult *stasis_prune_result_new(void)
{
    StasisPruneResult *result = g_new0(StasisPruneResult, 1);
    result->images = g_ptr_array_new_with_free_func(free_image);
    return result;
}

gboolean stasis_prune_check(const StasisPruneOptions *options, GError **error)
{
    if (stasis_retain_has_rule(options) || options->allow_remove_all)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                        "prune: no policy says what to keep: give --keep-last or another, or "
                        "--allow-remove-all");
    return FALSE;
}

static StasisPruneResult *list(StasisStore *store, const StasisPruneOptions *options,
                               GError **error)
{
    g_autoptr(GPtrArray) infos = stasis_store_list(store, error);
    if (infos == NULL)
        return NULL;
    StasisPruneResult *result = stasis_prune_result_new();
    for (guint i = 0; i < infos->len; i++) {
        const StasisImageInfo *info = g_ptr_array_index(infos, i);
        if ((options->vm != NULL && g_strcmp0(info->vm, options->vm) != 0) ||
            (options->note != NULL && g_strcmp0(info->note, options->note) != 0) ||
            (options->by_policy && !info->by_policy))
            continue;
        StasisPruneImage *image = g_new0(StasisPruneImage, 1);
        image->info = stasis_image_info_copy(info);
        g_ptr_array_add(result->images, image);
    }
    return result;
}

/* NULL-terminated IDs of those that go, borrowed. */
static GPtrArray *find_going(StasisPruneResult *result)
{
    GPtrArray *ids = g_ptr_array_new();
    for (guint i = 0; i < result->images->len; i++) {
        const StasisPruneImage *image = g_ptr_array_index(result->images, i);
        if (image->reasons == NULL)
            g_ptr_array_add(ids, image->info->id);
    }
    result->n_removed = ids->len;
    result->n_kept = result->images->len - ids->len;
    g_ptr_array_add(ids, NULL);
    return ids;
}

/* What a decision is weighed by. */
typedef struct {
    StasisStore *store;
    StasisGraph *graph;
    StasisUsage *usage;
} Scale;

static gboolean estimate(Scale *scale, const GPtrArray *images, gint64 *ret_freed, GError **error)
{
    for (guint i = 0; i < images->len; i++) {
        const StasisPruneImage *image = g_ptr_array_index(images, i);
        StasisNode *node = stasis_graph_find(scale->graph, image->info->id);
        if (node != NULL)
            node->going = image->reasons == NULL;
    }
    return stasis_usage_estimate(scale->usage, scale->store, scale->graph, ret_freed, error);
}

/* What images that are not looked at take is not in it, but for files that they share. */
static gboolean weigh(GPtrArray *images, guint64 *ret_bytes, gpointer user_data, GError **error)
{
    Scale *scale = user_data;
    gint64 freed;
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    for (guint i = 0; i < images->len; i++)
        g_ptr_array_add(ids, ((const StasisPruneImage *)g_ptr_array_index(images, i))->info->id);
    g_ptr_array_add(ids, NULL);
    if (!estimate(scale, images, &freed, error))
        return FALSE;
    guint64 bytes = stasis_usage_of_images(scale->store, (const char *const *)ids->pdata);
    *ret_bytes = freed < 0 ? bytes + (guint64)-freed : bytes - MIN(bytes, (guint64)freed);
    return TRUE;
}

static gboolean decide(StasisStore *store, const StasisPruneOptions *options,
                       StasisPruneResult *result, GError **error)
{
    g_autoptr(StasisGraph) graph = stasis_graph_load(store, /* strict= */ TRUE, error);
    if (graph == NULL)
        return FALSE;
    g_autoptr(StasisUsage) usage = stasis_usage_new(store, graph);
    Scale scale = { store, graph, usage };
    return stasis_retain_decide(options, result->images, weigh, &scale, error) &&
           estimate(&scale, result->images, &result->freed_bytes, error);
}

StasisPruneResult *stasis_store_prune(StasisStore *store, const StasisPruneOptions *given,
                                      GCancellable *cancellable, GError **error)
{
    StasisPruneOptions own = STASIS_PRUNE_OPTIONS_INIT;
    const StasisPruneOptions *options = stasis_own_options(&own, given, sizeof own);
    if (!stasis_prune_check(options, error))
        return NULL;
    g_autoptr(StasisPruneResult) result = list(store, options, error);
    if (result == NULL || !decide(store, options, result, error))
        return NULL;
    g_autoptr(GPtrArray) ids = find_going(result);
    if (!options->dry_run &&
        !stasis_store_delete_images(store, (const char *const *)ids->pdata, options->progress,
                                    options->progress_data, cancellable, error))
        return NULL;
    return g_steal_pointer(&result);
}
