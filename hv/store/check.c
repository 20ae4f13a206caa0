/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checking a store: each image by itself, once, and then who needs one that is damaged. Nothing
 * stops at the first damage. What lies about and belongs to no image is told of, but is no damage:
 * the next writer removes what is in tmp/.
 */
#include <fcntl.h>
#include <stasis/maintenance.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/options.h"
#include "store/internal.h"
#include "store/proc-image.h"

typedef struct {
    StasisStore *store;
    StasisGraph *graph;
    const StasisCheckOptions *options;
    StasisTask task;
    StasisCheckReport *report;
} Check;

static void free_image(gpointer data)
{
    StasisCheckedImage *image = data;
    g_free(image->id);
    g_free(image->damage);
    g_free(image->affected_by);
    g_free(image);
}

static void free_leftover(gpointer data)
{
    StasisLeftover *leftover = data;
    g_free(leftover->path);
    g_free(leftover->what);
    g_free(leftover);
}

void stasis_check_report_free(StasisCheckReport *report)
{
    if (report == NULL)
        return;
    g_ptr_array_unref(report->images);
    g_ptr_array_unref(report->leftovers);
    g_free(report);
}

/* ---- leftovers ---- */

static guint64 bytes_of(int parent_fd, const char *name)
{
    struct stat st;
    if (fstatat(parent_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    guint64 sum = (guint64)st.st_blocks * 512;
    stasis_autofd int dir_fd = S_ISDIR(st.st_mode) ? stasis_store_open_dir(parent_fd, name) : -1;
    g_auto(GStrv) names = dir_fd < 0 ? NULL : stasis_store_list_names(dir_fd);
    for (guint i = 0; names != NULL && names[i] != NULL; i++)
        if (fstatat(dir_fd, names[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
            sum += st.st_nlink == 1 ? (guint64)st.st_blocks * 512 : 0;
    return sum;
}

static void add_leftover(Check *check, int dir_fd, const char *dir, const char *name,
                         const char *what)
{
    StasisLeftover *leftover = g_new0(StasisLeftover, 1);
    leftover->path = g_build_filename(dir, name, NULL);
    leftover->what = g_strdup(what);
    leftover->bytes = bytes_of(dir_fd, name);
    g_ptr_array_add(check->report->leftovers, leftover);
}

/* In tmp/ everything is left over but what somebody works on: under a lock of its own, or under the
 * writer's. */
static void look_at_tmp(Check *check)
{
    stasis_autofd int tmp_fd = stasis_store_open_dir(check->store->dir_fd, "tmp");
    g_auto(GStrv) names = tmp_fd < 0 ? NULL : stasis_store_list_names(tmp_fd);
    gboolean writer = stasis_store_is_locked(check->store);
    for (guint i = 0; names != NULL && names[i] != NULL; i++)
        if (!(writer && stasis_id_is_valid(names[i])) && !stasis_work_is_alive(tmp_fd, names[i]))
            add_leftover(check, tmp_fd, "tmp", names[i],
                         "left by a process that was killed; the next writer removes it");
}

static gboolean belongs(const StasisManifest *manifest, const char *name)
{
    for (guint i = 0; i < manifest->n_data; i++)
        if (strcmp(name, stasis_data_file_name(i)) == 0)
            return TRUE;
    return strcmp(name, "manifest.json") == 0 || strcmp(name, "index") == 0 ||
           stasis_manifest_find_part(manifest, name) != NULL;
}

static void look_for_strangers(Check *check, const StasisLayer *layer)
{
    g_autofree char *dir = g_build_filename("images", layer->manifest->info->id, NULL);
    g_auto(GStrv) names = stasis_store_list_names(layer->dir_fd);
    for (guint i = 0; names != NULL && names[i] != NULL; i++)
        if (!belongs(layer->manifest, names[i]))
            add_leftover(check, layer->dir_fd, dir, names[i], "belongs to no image");
}

static void look_at_names(Check *check)
{
    g_auto(GStrv) names = stasis_store_list_names(check->store->images_fd);
    for (guint i = 0; names != NULL && names[i] != NULL; i++)
        if (!stasis_id_is_valid(names[i]))
            add_leftover(check, check->store->images_fd, "images", names[i], "is no image");
}

/* ---- images ---- */

/* One image, without its ancestors. FALSE, with what is wrong. */
static gboolean check_image(Check *check, const StasisNode *node, GError **error)
{
    for (guint tries = 0;; tries++) {
        g_autoptr(GError) local = NULL;
        g_autoptr(StasisLayer) layer = stasis_layer_open(check->store, node->id, &local);
        if (layer != NULL && tries == 0)
            look_for_strangers(check, layer);
        if (layer != NULL &&
            (check->options->read_data ? stasis_layer_verify(layer, &check->task, &local)
                                       : stasis_layer_check_parts(layer, &local)))
            return TRUE;
        if (layer == NULL || tries == STASIS_LOOK_AGAIN ||
            stasis_store_is_current(check->store, node->id, layer->dir_fd)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
    }
}

/* FALSE when the check can't go on. */
static gboolean report_image(Check *check, StasisNode *node, GError **error)
{
    StasisCheckReport *report = check->report;
    g_autoptr(GError) local = NULL;
    if (!check_image(check, node, &local)) {
        if (g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
            return TRUE; /* deleted since it was listed */
        if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
    }
    StasisCheckedImage *image = g_new0(StasisCheckedImage, 1);
    image->id = g_strdup(node->id);
    const GError *why = local != NULL ? local : node->why;
    image->damage = why != NULL ? g_strdup(why->message) : NULL;
    g_ptr_array_add(report->images, image);
    report->n_damaged += why != NULL;
    node->going = why != NULL; /* here: damaged */
    return TRUE;
}

/* Images of processes need none other. FALSE when the check can't go on. */
static gboolean report_processes(Check *check, GError **error)
{
    g_auto(GStrv) ids = stasis_store_list_process_ids(check->store, error);
    for (guint i = 0; ids != NULL && ids[i] != NULL; i++) {
        g_autoptr(GError) local = NULL;
        g_autoptr(StasisProcImageReader) reader =
            stasis_proc_image_reader_open(check->store, ids[i], &local);
        if (reader != NULL && stasis_proc_image_reader_check_sizes(reader, &local) &&
            check->options->read_data)
            stasis_store_verify_process(check->store, ids[i], NULL, NULL, check->task.cancellable,
                                        &local);
        if (g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
            continue; /* deleted since it was listed */
        if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        StasisCheckedImage *image = g_new0(StasisCheckedImage, 1);
        image->id = g_strdup(ids[i]);
        image->damage = local != NULL ? g_strdup(local->message) : NULL;
        g_ptr_array_add(check->report->images, image);
        check->report->n_damaged += local != NULL;
    }
    return ids != NULL;
}

/* Those with a damaged ancestor. */
static void find_affected(Check *check)
{
    for (guint i = 0; i < check->report->images->len; i++) {
        StasisCheckedImage *image = g_ptr_array_index(check->report->images, i);
        const StasisNode *node = stasis_graph_find(check->graph, image->id);
        while (node->parent != STASIS_NO_NODE && image->affected_by == NULL) {
            node = stasis_graph_node(check->graph, node->parent);
            if (node->going)
                image->affected_by = g_strdup(node->id);
        }
        if (image->affected_by != NULL && image->damage == NULL)
            check->report->n_affected++;
    }
}

static guint64 total_bytes(const StasisGraph *graph)
{
    guint64 sum = 0;
    for (guint i = 0; i < graph->nodes->len; i++) {
        const StasisManifest *manifest = stasis_graph_node(graph, i)->manifest;
        sum += manifest != NULL ? stasis_manifest_live_bytes(manifest) : 0;
    }
    return sum;
}

StasisCheckReport *stasis_store_check(StasisStore *store, const StasisCheckOptions *given,
                                      GCancellable *cancellable, GError **error)
{
    StasisCheckOptions own = STASIS_CHECK_OPTIONS_INIT;
    const StasisCheckOptions *options = stasis_own_options(&own, given, sizeof own);
    g_autoptr(StasisGraph) graph = stasis_graph_load(store, /* strict= */ FALSE, error);
    if (graph == NULL)
        return NULL;
    g_autoptr(StasisCheckReport) report = g_new0(StasisCheckReport, 1);
    report->images = g_ptr_array_new_with_free_func(free_image);
    report->leftovers = g_ptr_array_new_with_free_func(free_leftover);
    Check check = { .store = store,
                    .graph = graph,
                    .options = options,
                    .task = { .func = options->progress,
                              .data = options->progress_data,
                              .cancellable = cancellable,
                              .progress = { .phase = "check", .total_bytes = total_bytes(graph) } },
                    .report = report };
    look_at_tmp(&check);
    look_at_names(&check);
    for (guint i = 0; i < graph->nodes->len; i++)
        if (!report_image(&check, stasis_graph_node(graph, i), error))
            return NULL;
    find_affected(&check);
    if (!report_processes(&check, error))
        return NULL;
    return g_steal_pointer(&report);
}
