/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Statistics of a store: what takes how much of the disk, for each image, each VM and in all. */
#include <fcntl.h>
#include <stasis/maintenance.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "store/internal.h"

static void free_image(gpointer data)
{
    StasisImageStats *image = data;
    g_free(image->id);
    g_free(image->parent);
    g_free(image->vm);
    g_free(image);
}

static void free_sum(gpointer data)
{
    StasisStatsSum *sum = data;
    if (sum != NULL)
        g_free(sum->vm);
    g_free(sum);
}

void stasis_store_stats_free(StasisStoreStats *stats)
{
    if (stats == NULL)
        return;
    g_ptr_array_unref(stats->images);
    g_ptr_array_unref(stats->vms);
    free_sum(stats->total);
    g_free(stats);
}

/* What deleting @node alone would free. */
static void find_alone(StasisStore *store, const StasisUsage *usage, StasisGraph *graph,
                       StasisNode *node, StasisImageStats *image)
{
    node->going = TRUE;
    image->alone_known = stasis_usage_estimate(usage, store, graph, &image->alone_bytes, NULL);
    node->going = FALSE;
}

static StasisImageStats *image_stats(StasisStore *store, const StasisUsage *usage,
                                     const StasisNode *node)
{
    const StasisManifest *manifest = node->manifest;
    StasisImageStats *image = g_new0(StasisImageStats, 1);
    image->id = g_strdup(node->id);
    image->parent = g_strdup(manifest->info->parent);
    image->vm = g_strdup(manifest->info->vm);
    image->depth = node->depth;
    image->n_data_files = manifest->n_data;
    image->data_pages = manifest->info->data_pages + manifest->info->disk_data_pages;
    image->zero_pages = manifest->info->zero_pages + manifest->info->disk_zero_pages;
    image->live_bytes = stasis_manifest_live_bytes(manifest);
    for (guint i = 0; i < manifest->n_data; i++)
        image->dead_bytes += manifest->data[i].dead_bytes - manifest->data[i].hole_bytes;
    stasis_usage_of(usage, store, node, &image->disk_bytes, &image->shared_bytes);
    return image;
}

static void add_to_sum(StasisStatsSum *sum, const StasisImageStats *image)
{
    sum->n_images++;
    sum->max_depth = MAX(sum->max_depth, image->depth);
    sum->data_pages += image->data_pages;
    sum->zero_pages += image->zero_pages;
    sum->live_bytes += image->live_bytes;
    sum->dead_bytes += image->dead_bytes;
}

static gint compare_sums(gconstpointer a, gconstpointer b)
{
    return strcmp((*(StasisStatsSum *const *)a)->vm, (*(StasisStatsSum *const *)b)->vm);
}

/* The bytes of a VM's images, each file once. */
static guint64 bytes_of_vm(StasisStore *store, const StasisGraph *graph, const char *vm)
{
    StasisGraph own = { .nodes = g_array_new(FALSE, FALSE, sizeof(StasisNode)) };
    for (guint i = 0; i < graph->nodes->len; i++) {
        const StasisNode *node = stasis_graph_node(graph, i);
        if (node->manifest != NULL && strcmp(node->manifest->info->vm, vm) == 0)
            g_array_append_val(own.nodes, *node);
    }
    g_autoptr(StasisUsage) usage = stasis_usage_new(store, &own);
    g_array_unref(own.nodes);
    return usage->total_bytes;
}

static void sum_up(StasisStoreStats *stats, StasisStore *store, const StasisGraph *graph)
{
    g_autoptr(GHashTable) by_vm = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < stats->images->len; i++) {
        const StasisImageStats *image = g_ptr_array_index(stats->images, i);
        StasisStatsSum *sum = g_hash_table_lookup(by_vm, image->vm);
        if (sum == NULL) {
            sum = g_new0(StasisStatsSum, 1);
            sum->vm = g_strdup(image->vm);
            sum->disk_bytes = bytes_of_vm(store, graph, image->vm);
            g_hash_table_insert(by_vm, sum->vm, sum);
            g_ptr_array_add(stats->vms, sum);
        }
        add_to_sum(sum, image);
        add_to_sum(stats->total, image);
    }
    g_ptr_array_sort(stats->vms, compare_sums);
}

static guint64 leftover_bytes(StasisStore *store)
{
    stasis_autofd int tmp_fd = stasis_store_open_dir(store->dir_fd, "tmp");
    g_auto(GStrv) dirs = tmp_fd < 0 ? NULL : stasis_store_list_names(tmp_fd);
    guint64 sum = 0;
    for (guint i = 0; dirs != NULL && dirs[i] != NULL; i++) {
        stasis_autofd int fd = stasis_store_open_dir(tmp_fd, dirs[i]);
        g_auto(GStrv) names = fd < 0 ? NULL : stasis_store_list_names(fd);
        struct stat st;
        for (guint k = 0; names != NULL && names[k] != NULL; k++)
            if (fstatat(fd, names[k], &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_nlink == 1)
                sum += (guint64)st.st_blocks * 512;
    }
    return sum;
}

StasisStoreStats *stasis_store_get_stats(StasisStore *store, GCancellable *cancellable,
                                         GError **error)
{
    g_autoptr(StasisGraph) graph = stasis_graph_load(store, /* strict= */ FALSE, error);
    if (graph == NULL)
        return NULL;
    g_autoptr(StasisUsage) usage = stasis_usage_new(store, graph);
    g_autoptr(StasisStoreStats) stats = g_new0(StasisStoreStats, 1);
    stats->images = g_ptr_array_new_with_free_func(free_image);
    stats->vms = g_ptr_array_new_with_free_func(free_sum);
    stats->total = g_new0(StasisStatsSum, 1);
    for (guint i = 0; i < graph->nodes->len; i++) {
        StasisNode *node = stasis_graph_node(graph, i);
        if (g_cancellable_set_error_if_cancelled(cancellable, error))
            return NULL;
        stats->n_damaged += node->manifest == NULL || node->why != NULL;
        if (node->manifest == NULL)
            continue;
        StasisImageStats *image = image_stats(store, usage, node);
        g_ptr_array_add(stats->images, image);
        find_alone(store, usage, graph, node, image);
    }
    sum_up(stats, store, graph);
    stats->total->disk_bytes = usage->total_bytes;
    stats->leftover_bytes = leftover_bytes(store);
    return g_steal_pointer(&stats);
}
