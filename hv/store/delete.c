/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Deleting images, wherever they are in a chain. First each image whose parent goes is rebased onto
 * its nearest ancestor that stays; then nobody needs those that go, and they leave the list, the
 * newest first, so that no listed image is ever without its parent. A checkpoint that is taken
 * meanwhile may be incremental to one of them: it is found when the lock is held at the end, and
 * rebased too. A deletion that is cut short has moved some data; all images are whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <stasis/maintenance.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "store/cache.h"
#include "store/internal.h"

/* So often data are moved without the writer lock; what has come then is moved under it. */
#define UNLOCKED_ROUNDS 3
#define MAX_ROUNDS (UNLOCKED_ROUNDS + 3)

typedef struct {
    StasisStore *store;
    char **ids; /* sorted, each once */
    StasisTask task;
} Deletion;

static gint compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static char **sorted_ids(const char *const *ids, GError **error)
{
    g_autoptr(GPtrArray) sorted = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; ids[i] != NULL; i++) {
        if (!stasis_id_is_valid(ids[i])) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "\"%s\" is no image ID",
                        ids[i]);
            return NULL;
        }
        if (!g_ptr_array_find_with_equal_func(sorted, ids[i], g_str_equal, NULL))
            g_ptr_array_add(sorted, g_strdup(ids[i]));
    }
    g_ptr_array_sort(sorted, compare_names);
    g_ptr_array_add(sorted, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&sorted), FALSE);
}

static gboolean check_there(const Deletion *deletion, GError **error)
{
    StasisStore *store = deletion->store;
    for (char **id = deletion->ids; *id != NULL; id++) {
        if (faccessat(store->images_fd, *id, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "no image %s in store %s", *id,
                    store->path);
        return FALSE;
    }
    return TRUE;
}

/* An image whose own manifest is damaged can't be read with or without its parent, so it does not
 * hold the parent back. One that could not be looked at (too many files, a newer format) does. */
static StasisGraph *load_graph(const Deletion *deletion, GError **error)
{
    StasisGraph *graph = stasis_graph_load(deletion->store, /* strict= */ TRUE, error);
    if (graph == NULL) {
        g_prefix_error(error, "not deleted, another image may need it: ");
        return NULL;
    }
    for (char **id = deletion->ids; *id != NULL; id++) {
        StasisNode *node = stasis_graph_find(graph, *id);
        if (node != NULL)
            node->going = TRUE;
    }
    return graph;
}

static gboolean rebase_heir(Deletion *deletion, const StasisGraph *graph, const StasisNode *node,
                            GError **error)
{
    const StasisNode *base = stasis_graph_keeper(graph, node);
    g_autoptr(GError) local = NULL;
    if (stasis_rebase(deletion->store, node->id, base != NULL ? base->id : NULL, graph,
                      &deletion->task, &local))
        return TRUE;
    /* Deleted, or rebased elsewhere, by somebody else: the next look at the store tells. */
    if (g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
        return TRUE;
    if (!g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED))
        g_prefix_error(&local, "nothing was deleted: image %s needs data of image %s: ", node->id,
                       stasis_graph_node(graph, node->parent)->id);
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

/* Rebase who needs what goes; *ret_n of them there were. */
static gboolean rebase_heirs(Deletion *deletion, const StasisGraph *graph, guint *ret_n,
                             GError **error)
{
    *ret_n = 0;
    for (guint i = 0; i < graph->nodes->len; i++) {
        const StasisNode *node = stasis_graph_node(graph, i);
        if (!stasis_graph_is_bereft(graph, node))
            continue;
        ++*ret_n;
        if (!rebase_heir(deletion, graph, node, error))
            return FALSE;
    }
    return TRUE;
}

/* Newest first, and back again oldest first: whatever is listed in between has its parent. */
static gboolean unlist(const Deletion *deletion, int tmp_fd, GError **error)
{
    int images_fd = deletion->store->images_fd;
    gboolean ok = TRUE;
    for (guint i = g_strv_length(deletion->ids); ok && i > 0; i--) {
        const char *id = deletion->ids[i - 1];
        if (renameat(images_fd, id, tmp_fd, id) < 0 && errno != ENOENT)
            ok = stasis_set_errno(error, errno, "image %s: delete", id);
    }
    ok = ok &&
         stasis_store_settle_move(tmp_fd, images_fd, STASIS_FAULT_STORE_UNLISTED, "images", error);
    /* Not known to be durable: then the files must stay, and so the names. */
    for (char **id = deletion->ids; !ok && *id != NULL; id++)
        renameat(tmp_fd, *id, images_fd, *id);
    return ok;
}

static gboolean has_heirs(const StasisGraph *graph)
{
    for (guint i = 0; i < graph->nodes->len; i++)
        if (stasis_graph_is_bereft(graph, stasis_graph_node(graph, i)))
            return TRUE;
    return FALSE;
}

/* Under the lock, so that no more can come: the last of those that need data, if @last_round. Else
 * *ret_more says that there are some. */
static gboolean settle_heirs(Deletion *deletion, gboolean last_round, gboolean *ret_more,
                             GError **error)
{
    g_autoptr(StasisGraph) graph = load_graph(deletion, error);
    *ret_more = graph != NULL && has_heirs(graph);
    if (graph == NULL || !*ret_more || !last_round)
        return graph != NULL;
    guint n;
    deletion->task.lock_held = TRUE;
    gboolean ok = rebase_heirs(deletion, graph, &n, error);
    deletion->task.lock_held = FALSE;
    g_autoptr(StasisGraph) now = ok ? load_graph(deletion, error) : NULL;
    *ret_more = now != NULL && has_heirs(now);
    return now != NULL;
}

/* Under the lock. *ret_done is FALSE when another image has come that needs one of them. */
static gboolean drop(Deletion *deletion, int tmp_fd, gboolean last_round, gboolean *ret_done,
                     GError **error)
{
    gboolean more;
    *ret_done = FALSE;
    if (!settle_heirs(deletion, last_round, &more, error))
        return FALSE;
    if (more)
        return TRUE;
    if (!unlist(deletion, tmp_fd, error))
        return FALSE;
    *ret_done = TRUE;
    /* Out of the list for good. A crash from here on leaves work for the next writer. */
    gboolean ok = stasis_fault(STASIS_FAULT_STORE_DROPPED, error);
    for (char **id = deletion->ids; *id != NULL; id++) {
        stasis_store_remove_dir(tmp_fd, *id);
        stasis_cache_remove(deletion->store, *id);
    }
    return ok;
}

static gboolean delete_all(Deletion *deletion, GError **error)
{
    for (guint round = 0; round < MAX_ROUNDS; round++) {
        gboolean last = round >= UNLOCKED_ROUNDS;
        g_autoptr(StasisGraph) graph = load_graph(deletion, error);
        guint n_heirs = 0;
        if (graph == NULL || (!last && !rebase_heirs(deletion, graph, &n_heirs, error)))
            return FALSE;
        if (n_heirs > 0)
            continue; /* and look once more: others may have come */
        stasis_autofd int tmp_fd = -1;
        int lock_fd = stasis_store_lock(deletion->store, STASIS_STORE_LOCK_WAIT_MS,
                                        deletion->task.cancellable, &tmp_fd, error);
        if (lock_fd < 0)
            return FALSE;
        gboolean done, ok = drop(deletion, tmp_fd, last, &done, error);
        stasis_store_unlock(&lock_fd);
        if (!ok || done)
            return ok;
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                "nothing was deleted: images that need image %s are changed by others all the "
                "time; try again",
                deletion->ids[0]);
    return FALSE;
}

gboolean stasis_store_delete_images(StasisStore *store, const char *const *ids,
                                    StasisProgressFunc progress, gpointer user_data,
                                    GCancellable *cancellable, GError **error)
{
    g_auto(GStrv) sorted = sorted_ids(ids, error);
    if (sorted == NULL)
        return FALSE;
    Deletion deletion = { .store = store,
                          .ids = sorted,
                          .task = { .func = progress,
                                    .data = user_data,
                                    .cancellable = cancellable,
                                    .progress = { .phase = "delete" } } };
    if (sorted[0] == NULL || g_cancellable_set_error_if_cancelled(cancellable, error))
        return sorted[0] == NULL;
    return check_there(&deletion, error) && delete_all(&deletion, error);
}

gboolean stasis_store_delete(StasisStore *store, const char *id, GError **error)
{
    const char *const ids[] = { id, NULL };
    return stasis_store_delete_images(store, ids, NULL, NULL, NULL, error);
}
