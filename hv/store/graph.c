/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which image is incremental to which: all manifests of a store at one moment. IDs sort by time of
 * creation and a parent is older than its children, so one pass in that order knows a parent before
 * its child (a manifest that says otherwise is refused), and no walk along parents is endless.
 */
#include <string.h>

#include "store/internal.h"

static void clear_node(gpointer data)
{
    StasisNode *node = data;
    g_free(node->id);
    stasis_manifest_free(node->manifest);
    g_clear_error(&node->why);
}

void stasis_graph_free(StasisGraph *graph)
{
    if (graph == NULL)
        return;
    g_array_unref(graph->nodes);
    g_free(graph);
}

static gint compare_nodes(gconstpointer a, gconstpointer b)
{
    return strcmp(((const StasisNode *)a)->id, ((const StasisNode *)b)->id);
}

StasisNode *stasis_graph_find(const StasisGraph *graph, const char *id)
{
    StasisNode key = { .id = (char *)id };
    guint at;
    if (id == NULL || !g_array_binary_search(graph->nodes, &key, compare_nodes, &at))
        return NULL;
    return stasis_graph_node(graph, at);
}

/* Find the parent among the nodes before @node, and check that it is the right one. */
static void find_parent(const StasisGraph *graph, StasisNode *node)
{
    node->parent = STASIS_NO_NODE;
    const char *parent_id = node->manifest != NULL ? node->manifest->info->parent : NULL;
    if (parent_id == NULL)
        return;
    const StasisNode *parent = stasis_graph_find(graph, parent_id);
    if (parent == NULL) {
        stasis_corrupt(&node->why, "image %s: its parent %s is missing", node->id, parent_id);
        return;
    }
    node->parent = (guint)(parent - stasis_graph_node(graph, 0));
    node->depth = parent->depth + 1;
    if (parent->manifest != NULL)
        stasis_manifest_check_parent(node->manifest, parent->manifest, &node->why);
}

StasisGraph *stasis_graph_load(StasisStore *store, gboolean strict, GError **error)
{
    g_auto(GStrv) ids = stasis_store_list_ids(store, error);
    if (ids == NULL)
        return NULL;
    g_autoptr(StasisGraph) graph = g_new0(StasisGraph, 1);
    graph->nodes = g_array_new(FALSE, TRUE, sizeof(StasisNode));
    g_array_set_clear_func(graph->nodes, clear_node);
    for (guint i = 0; ids[i] != NULL; i++) {
        StasisNode node = { .parent = STASIS_NO_NODE };
        node.manifest = stasis_manifest_load(store, ids[i], NULL, &node.why);
        if (g_error_matches(node.why, STASIS_ERROR, STASIS_ERROR_NOT_FOUND)) {
            g_clear_error(&node.why); /* deleted since it was listed */
            continue;
        }
        if (strict && node.manifest == NULL &&
            !g_error_matches(node.why, STASIS_ERROR, STASIS_ERROR_CORRUPT)) {
            g_propagate_error(error, node.why);
            return NULL;
        }
        node.id = g_strdup(ids[i]);
        g_array_append_val(graph->nodes, node);
    }
    for (guint i = 0; i < graph->nodes->len; i++)
        find_parent(graph, stasis_graph_node(graph, i));
    return g_steal_pointer(&graph);
}

StasisNode *stasis_graph_keeper(const StasisGraph *graph, const StasisNode *node)
{
    while (node->parent != STASIS_NO_NODE) {
        StasisNode *parent = stasis_graph_node(graph, node->parent);
        if (!parent->going)
            return parent;
        node = parent;
    }
    return NULL;
}

gboolean stasis_graph_is_bereft(const StasisGraph *graph, const StasisNode *node)
{
    return !node->going && node->parent != STASIS_NO_NODE &&
           stasis_graph_node(graph, node->parent)->going;
}

guint stasis_store_count_ancestors(StasisStore *store, const StasisManifest *manifest)
{
    guint n = 0;
    g_autofree char *next = g_strdup(manifest->info->parent);
    while (next != NULL && n <= STASIS_MAX_DEPTH) {
        n++;
        g_autoptr(StasisManifest) parent = stasis_manifest_load(store, next, NULL, NULL);
        g_free(next);
        next = parent != NULL ? g_strdup(parent->info->parent) : NULL;
    }
    return n;
}
