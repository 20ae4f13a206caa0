/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pruning: a policy says which images stay, as in the backup programs that people know (restic
 * forget, borg prune), for each VM by itself; the others are deleted in one go. A bucket is an
 * hour, day, week, month or year of local time; the newest image in it stands for it, and only
 * buckets with an image in them count.
 */
#include <stasis/maintenance.h>

#include <string.h>

#include "store/internal.h"

typedef struct {
    const char *reason;
    const char *format; /* of g_date_time_format(): what is equal within one bucket */
    gsize count;        /* where StasisPruneOptions has the number of them */
} Rule;

static const Rule rules[] = {
    { "last", NULL, G_STRUCT_OFFSET(StasisPruneOptions, keep_last) },
    { "hourly", "%Y-%m-%d %H %z", G_STRUCT_OFFSET(StasisPruneOptions, keep_hourly) },
    { "daily", "%Y-%m-%d", G_STRUCT_OFFSET(StasisPruneOptions, keep_daily) },
    { "weekly", "%G-%V", G_STRUCT_OFFSET(StasisPruneOptions, keep_weekly) },
    { "monthly", "%Y-%m", G_STRUCT_OFFSET(StasisPruneOptions, keep_monthly) },
    { "yearly", "%Y", G_STRUCT_OFFSET(StasisPruneOptions, keep_yearly) },
};

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

static guint count_of(const StasisPruneOptions *options, const Rule *rule)
{
    return G_STRUCT_MEMBER(guint, options, rule->count);
}

static gboolean has_policy(const StasisPruneOptions *options)
{
    guint64 any = options->keep_within_us;
    for (guint i = 0; i < G_N_ELEMENTS(rules); i++)
        any |= count_of(options, &rules[i]);
    return any != 0;
}

static void add_reason(StasisPruneImage *image, const char *reason)
{
    char *reasons =
        image->reasons == NULL ? g_strdup(reason) : g_strconcat(image->reasons, ", ", reason, NULL);
    g_free(image->reasons);
    image->reasons = reasons;
}

static char *bucket_of(const StasisPruneImage *image, const Rule *rule)
{
    if (rule->format == NULL)
        return g_strdup(image->info->id); /* each its own */
    gint64 seconds = image->info->created_us / G_TIME_SPAN_SECOND;
    g_autoptr(GDateTime) local = g_date_time_new_from_unix_local(seconds);
    return local != NULL ? g_date_time_format(local, rule->format) : g_strdup("");
}

/* @images are those of one VM, oldest first. */
static void apply_rule(const StasisPruneOptions *options, const Rule *rule, GPtrArray *images)
{
    guint left = count_of(options, rule);
    g_autofree char *last = NULL;
    for (guint i = images->len; left > 0 && i > 0; i--) {
        StasisPruneImage *image = g_ptr_array_index(images, i - 1);
        char *bucket = bucket_of(image, rule);
        gboolean is_new = g_strcmp0(bucket, last) != 0;
        g_free(last);
        last = bucket;
        if (!is_new)
            continue;
        add_reason(image, rule->reason);
        left--;
    }
}

static void apply_within(const StasisPruneOptions *options, GPtrArray *images)
{
    const StasisPruneImage *newest = g_ptr_array_index(images, images->len - 1);
    for (guint i = 0; i < images->len && options->keep_within_us > 0; i++) {
        StasisPruneImage *image = g_ptr_array_index(images, i);
        gint64 age = newest->info->created_us - image->info->created_us;
        if (age < 0 || (guint64)age <= options->keep_within_us)
            add_reason(image, "within");
    }
}

static gint compare_created(gconstpointer a, gconstpointer b)
{
    const StasisPruneImage *x = *(StasisPruneImage *const *)a, *y = *(StasisPruneImage *const *)b;
    if (x->info->created_us != y->info->created_us)
        return x->info->created_us < y->info->created_us ? -1 : 1;
    return strcmp(x->info->id, y->info->id);
}

static void apply_policy(const StasisPruneOptions *options, GPtrArray *images)
{
    g_ptr_array_sort(images, compare_created);
    for (guint i = 0; i < G_N_ELEMENTS(rules); i++)
        apply_rule(options, &rules[i], images);
    apply_within(options, images);
}

static gboolean keeps_some(const GPtrArray *images)
{
    for (guint i = 0; i < images->len; i++)
        if (((const StasisPruneImage *)g_ptr_array_index(images, i))->reasons != NULL)
            return TRUE;
    return FALSE;
}

/* Group by VM and decide on each group. */
static gboolean decide(const StasisPruneOptions *options, GPtrArray *images, GError **error)
{
    g_autoptr(GHashTable) by_vm =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_ptr_array_unref);
    for (guint i = 0; i < images->len; i++) {
        StasisPruneImage *image = g_ptr_array_index(images, i);
        /* An image of devices only stands for no other, and none with memory for it. */
        g_autofree char *key =
            g_strconcat(image->info->ram_bytes > 0 ? "+" : "-", image->info->vm, NULL);
        GPtrArray *group = g_hash_table_lookup(by_vm, key);
        if (group == NULL) {
            group = g_ptr_array_new();
            g_hash_table_insert(by_vm, g_steal_pointer(&key), group);
        }
        g_ptr_array_add(group, image);
    }
    GHashTableIter iter;
    gpointer vm, group;
    g_hash_table_iter_init(&iter, by_vm);
    while (g_hash_table_iter_next(&iter, &vm, &group)) {
        apply_policy(options, group);
        if (options->allow_remove_all || keeps_some(group))
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "prune: nothing would be left of the %u images of VM \"%s\"; keep some, or "
                    "allow it with --allow-remove-all",
                    ((GPtrArray *)group)->len, (const char *)vm + 1);
        return FALSE;
    }
    return TRUE;
}

static StasisPruneResult *list(StasisStore *store, const StasisPruneOptions *options,
                               GError **error)
{
    g_autoptr(GPtrArray) infos = stasis_store_list(store, error);
    if (infos == NULL)
        return NULL;
    StasisPruneResult *result = g_new0(StasisPruneResult, 1);
    result->images = g_ptr_array_new_with_free_func(free_image);
    for (guint i = 0; i < infos->len; i++) {
        const StasisImageInfo *info = g_ptr_array_index(infos, i);
        if (options->vm != NULL && g_strcmp0(info->vm, options->vm) != 0)
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

static gboolean estimate(StasisStore *store, const GPtrArray *ids, gint64 *ret_freed,
                         GError **error)
{
    g_autoptr(StasisGraph) graph = stasis_graph_load(store, /* strict= */ TRUE, error);
    if (graph == NULL)
        return FALSE;
    for (guint i = 0; ids->pdata[i] != NULL; i++) {
        StasisNode *node = stasis_graph_find(graph, ids->pdata[i]);
        if (node != NULL)
            node->going = TRUE;
    }
    g_autoptr(StasisUsage) usage = stasis_usage_new(store, graph);
    return stasis_usage_estimate(usage, store, graph, ret_freed, error);
}

StasisPruneResult *stasis_store_prune(StasisStore *store, const StasisPruneOptions *options,
                                      GCancellable *cancellable, GError **error)
{
    if (!has_policy(options) && !options->allow_remove_all) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "prune: no policy says what to keep: give --keep-last or another, or "
                            "--allow-remove-all");
        return NULL;
    }
    g_autoptr(StasisPruneResult) result = list(store, options, error);
    if (result == NULL || !decide(options, result->images, error))
        return NULL;
    g_autoptr(GPtrArray) ids = find_going(result);
    if (!estimate(store, ids, &result->freed_bytes, error))
        return NULL;
    if (!options->dry_run &&
        !stasis_store_delete_images(store, (const char *const *)ids->pdata, options->progress,
                                    options->progress_data, cancellable, error))
        return NULL;
    return g_steal_pointer(&result);
}
