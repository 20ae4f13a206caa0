/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Folding long chains. From the oldest image on, one that has more ancestors than it may is rebased
 * onto the full image at the end of its chain: it then holds all that changed since that one (a
 * "differential" image), and those that follow are as many steps nearer to the end. All images
 * stay, and as data files are shared by links, little is written: the merged index, and the small
 * files when they are many.
 *
 * A fold also gives back dead bytes: what is in an image's files only because another one needed
 * it, which has gone since.
 */
#include <stasis/maintenance.h>

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/options.h"
#include "store/internal.h"

typedef struct {
    StasisStore *store;
    StasisGraph *graph;
    guint max_depth;
    gboolean *wanted; /* for each node: is it in the chain that was named? */
    StasisTask task;
    StasisFoldResult result;
    GError *first_error;
} Fold;

static void fold_clear(Fold *fold)
{
    stasis_graph_free(fold->graph);
    g_free(fold->wanted);
    g_clear_error(&fold->first_error);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Fold, fold_clear)

static gboolean choose(Fold *fold, const char *id, GError **error)
{
    guint n = fold->graph->nodes->len;
    fold->wanted = g_new0(gboolean, n + 1);
    if (id == NULL) {
        for (guint i = 0; i < n; i++)
            fold->wanted[i] = TRUE;
        return TRUE;
    }
    const StasisNode *node = stasis_graph_find(fold->graph, id);
    if (node == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "no image %s in store %s", id,
                    fold->store->path);
        return FALSE;
    }
    guint at = (guint)(node - stasis_graph_node(fold->graph, 0));
    for (; at != STASIS_NO_NODE; at = stasis_graph_node(fold->graph, at)->parent)
        fold->wanted[at] = TRUE;
    return TRUE;
}

static guint deepest(const Fold *fold)
{
    guint most = 0;
    for (guint i = 0; i < fold->graph->nodes->len; i++)
        if (fold->wanted[i])
            most = MAX(most, stasis_graph_node(fold->graph, i)->depth);
    return most;
}

/* What others have changed meanwhile is no failure. FALSE: cancelled, stop. */
static gboolean rebase(Fold *fold, const StasisNode *node, const char *base, guint *count)
{
    g_autoptr(GError) local = NULL;
    if (stasis_rebase(fold->store, node->id, base, NULL, &fold->task, &local)) {
        ++*count;
        return TRUE;
    }
    gboolean stop = g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    if (stop)
        g_clear_error(&fold->first_error);
    if (fold->first_error == NULL && !g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
        fold->first_error = g_steal_pointer(&local);
    return !stop;
}

static gboolean is_mostly_dead(StasisStore *store, const StasisNode *node)
{
    const StasisManifest *manifest = node->manifest;
    if (manifest == NULL || manifest->format == STASIS_FORMAT_VERSION)
        return FALSE;
    stasis_autofd int dir_fd = stasis_store_open_dir(store->images_fd, node->id);
    for (guint i = 0; i < manifest->n_data && dir_fd >= 0; i++) {
        const StasisDataFile *data = &manifest->data[i];
        struct stat st;
        if (data->size - data->dead_bytes < (data->size - data->hole_bytes) / 2 &&
            fstatat(dir_fd, stasis_data_file_name(i), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            st.st_nlink == 1)
            return TRUE;
    }
    return FALSE;
}

/* Parents come first, and their depth is up to date when their children's turn comes. */
static gboolean fold_node(Fold *fold, guint at)
{
    StasisNode *node = stasis_graph_node(fold->graph, at);
    if (node->parent == STASIS_NO_NODE)
        return TRUE;
    guint n_before = fold->result.n_folded;
    guint root = node->parent;
    node->depth = stasis_graph_node(fold->graph, root)->depth + 1;
    if (!fold->wanted[at] || node->depth <= fold->max_depth)
        return TRUE;
    while (stasis_graph_node(fold->graph, root)->parent != STASIS_NO_NODE)
        root = stasis_graph_node(fold->graph, root)->parent;
    if (!rebase(fold, node, stasis_graph_node(fold->graph, root)->id, &fold->result.n_folded))
        return FALSE;
    if (fold->result.n_folded > n_before) {
        node->parent = root;
        node->depth = 1;
    }
    return TRUE;
}

static gboolean fold_all(Fold *fold)
{
    for (guint i = 0; i < fold->graph->nodes->len; i++)
        if (!fold_node(fold, i))
            return FALSE;
    for (guint i = 0; i < fold->graph->nodes->len; i++) {
        const StasisNode *node = stasis_graph_node(fold->graph, i);
        if (!fold->wanted[i] || !is_mostly_dead(fold->store, node))
            continue;
        /* As it is named now: folding may just have changed it. */
        g_autoptr(StasisManifest) now = stasis_manifest_load(fold->store, node->id, NULL, NULL);
        if (now != NULL && !rebase(fold, node, now->info->parent, &fold->result.n_compacted))
            return FALSE;
    }
    return TRUE;
}

gboolean stasis_store_fold(StasisStore *store, const StasisFoldOptions *given,
                           StasisFoldResult *ret_result, GCancellable *cancellable, GError **error)
{
    StasisFoldOptions own = STASIS_FOLD_OPTIONS_INIT;
    const StasisFoldOptions *options = stasis_own_options(&own, given, sizeof own);
    g_auto(Fold) fold = {
        .store = store,
        .max_depth = options->max_depth != 0 ? options->max_depth : STASIS_DEFAULT_MAX_DEPTH,
        .task = { .func = options->progress,
                  .data = options->progress_data,
                  .cancellable = cancellable,
                  .progress = { .phase = "fold" } },
    };
    fold.graph = stasis_graph_load(store, /* strict= */ FALSE, error);
    if (fold.graph == NULL || !choose(&fold, options->id, error))
        return FALSE;
    fold.result.depth_before = deepest(&fold);
    fold_all(&fold);
    if (fold.first_error != NULL) {
        g_propagate_error(error, g_steal_pointer(&fold.first_error));
        return FALSE;
    }
    fold.result.depth_after = deepest(&fold);
    if (ret_result != NULL)
        *ret_result = fold.result;
    return TRUE;
}

gboolean stasis_store_get_depth(StasisStore *store, const char *id, guint *ret_depth,
                                GError **error)
{
    g_autoptr(StasisManifest) manifest = stasis_manifest_load(store, id, NULL, error);
    if (manifest == NULL)
        return FALSE;
    *ret_depth = stasis_store_count_ancestors(store, manifest);
    return TRUE;
}
