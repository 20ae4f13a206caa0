/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who uses how much of the disk. Images share data files by hard links, so what one takes and what
 * deleting it frees are two things; the second depends on what those need that are incremental to
 * it, and is found by merging them on paper.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "store/internal.h"

#define BLOCK_BYTES ((guint64)4096)

static guint hash_file(gconstpointer file)
{
    return (guint)((const StasisUsedFile *)file)->ino;
}

static gboolean equal_files(gconstpointer a, gconstpointer b)
{
    const StasisUsedFile *x = a, *y = b;
    return x->ino == y->ino && x->dev == y->dev;
}

/* Count each file of the image @id in directory @place_fd into @files. */
static void count_files(int place_fd, const char *id, GHashTable *files)
{
    stasis_autofd int dir_fd = stasis_store_open_dir(place_fd, id);
    g_auto(GStrv) names = dir_fd < 0 ? NULL : stasis_store_list_names(dir_fd);
    for (guint i = 0; names != NULL && names[i] != NULL; i++) {
        struct stat st;
        if (fstatat(dir_fd, names[i], &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        StasisUsedFile key = { .dev = st.st_dev, .ino = st.st_ino };
        StasisUsedFile *file = g_hash_table_lookup(files, &key);
        if (file == NULL) {
            file = g_memdup2(&key, sizeof(key));
            file->bytes = (guint64)st.st_blocks * 512;
            g_hash_table_add(files, file);
        }
        file->n_images++;
    }
}

static GHashTable *new_table(void)
{
    return g_hash_table_new_full(hash_file, equal_files, g_free, NULL);
}

StasisUsage *stasis_usage_new(StasisStore *store, const StasisGraph *graph)
{
    StasisUsage *usage = g_new0(StasisUsage, 1);
    usage->files = new_table();
    for (guint i = 0; i < graph->nodes->len; i++)
        count_files(store->images_fd, stasis_graph_node(graph, i)->id, usage->files);
    GHashTableIter iter;
    gpointer file;
    g_hash_table_iter_init(&iter, usage->files);
    while (g_hash_table_iter_next(&iter, &file, NULL))
        usage->total_bytes += ((const StasisUsedFile *)file)->bytes;
    return usage;
}

void stasis_usage_free(StasisUsage *usage)
{
    if (usage == NULL)
        return;
    g_hash_table_unref(usage->files);
    g_free(usage);
}

static guint n_images(const StasisUsage *usage, const StasisUsedFile *file)
{
    const StasisUsedFile *known = g_hash_table_lookup(usage->files, file);
    return known != NULL ? known->n_images : 0;
}

void stasis_usage_of(const StasisUsage *usage, StasisStore *store, const StasisNode *node,
                     guint64 *ret_bytes, guint64 *ret_shared_bytes)
{
    g_autoptr(GHashTable) own = new_table();
    count_files(store->images_fd, node->id, own);
    GHashTableIter iter;
    gpointer file;
    g_hash_table_iter_init(&iter, own);
    *ret_bytes = *ret_shared_bytes = 0;
    while (g_hash_table_iter_next(&iter, &file, NULL)) {
        guint64 bytes = ((const StasisUsedFile *)file)->bytes;
        *ret_bytes += bytes;
        *ret_shared_bytes += n_images(usage, file) > 1 ? bytes : 0;
    }
}

guint64 stasis_usage_of_images(StasisStore *store, const char *const *ids)
{
    return stasis_usage_of_dirs(store->images_fd, ids);
}

guint64 stasis_usage_of_dirs(int place_fd, const char *const *ids)
{
    g_autoptr(GHashTable) files = new_table();
    for (guint i = 0; ids[i] != NULL; i++)
        count_files(place_fd, ids[i], files);
    guint64 sum = 0;
    GHashTableIter iter;
    gpointer file;
    g_hash_table_iter_init(&iter, files);
    while (g_hash_table_iter_next(&iter, &file, NULL))
        sum += ((const StasisUsedFile *)file)->bytes;
    return sum;
}

/* ---- on paper ---- */

typedef struct {
    StasisStore *store;
    const StasisGraph *graph;
    GHashTable *lost;   /* how many images each file loses */
    GHashTable *linked; /* how many it has won, through heirs that came before */
    guint64 new_bytes;
} Estimate;

static guint64 on_disk(guint64 bytes)
{
    return (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
}

static void keep(Estimate *estimate, dev_t dev, ino_t ino)
{
    StasisUsedFile key = { .dev = dev, .ino = ino };
    StasisUsedFile *file = g_hash_table_lookup(estimate->lost, &key);
    if (file != NULL && file->n_images > 0)
        file->n_images--;
}

static gboolean add_layers(Estimate *estimate, const StasisNode *node, StasisMerge *merge,
                           GError **error)
{
    const StasisNode *base = stasis_graph_keeper(estimate->graph, node);
    for (const StasisNode *n = node; n != base;
         n = n->parent != STASIS_NO_NODE ? stasis_graph_node(estimate->graph, n->parent) : NULL) {
        guint numbers[STASIS_MAX_DATA_FILES];
        g_autoptr(StasisLayer) layer = stasis_layer_open(estimate->store, n->id, error);
        if (layer == NULL || !stasis_merge_add(merge, layer, TRUE, numbers, error))
            return FALSE;
        for (guint i = 0; n == node && i < layer->manifest->parts->len; i++) {
            const StasisFileRef *part = g_ptr_array_index(layer->manifest->parts, i);
            struct stat st;
            if (fstatat(layer->dir_fd, part->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
                keep(estimate, st.st_dev, st.st_ino);
        }
    }
    return TRUE;
}

/* A file that an heir before this one has linked is shared by now. */
static void count_new_links(const Estimate *estimate, StasisMerge *merge)
{
    for (guint i = 0; i < merge->sources->len; i++) {
        StasisSource *source = &g_array_index(merge->sources, StasisSource, i);
        StasisUsedFile key = { .dev = source->dev, .ino = source->ino };
        const StasisUsedFile *file = g_hash_table_lookup(estimate->linked, &key);
        source->n_links += file != NULL ? file->n_images : 0;
    }
}

static void note_new_link(Estimate *estimate, dev_t dev, ino_t ino)
{
    StasisUsedFile key = { .dev = dev, .ino = ino, .n_images = 1 };
    StasisUsedFile *file = g_hash_table_lookup(estimate->linked, &key);
    if (file != NULL)
        file->n_images++;
    else
        g_hash_table_add(estimate->linked, g_memdup2(&key, sizeof(key)));
}

/* @node takes over what its parents that go hold. */
static gboolean add_heir(Estimate *estimate, const StasisNode *node, GError **error)
{
    if (node->manifest == NULL)
        return TRUE;
    count_files(estimate->store->images_fd, node->id, estimate->lost);
    g_autoptr(StasisMerge) merge = stasis_merge_new(node->manifest);
    if (!add_layers(estimate, node, merge, error))
        return FALSE;
    count_new_links(estimate, merge);
    if (!stasis_merge_decide(merge, stasis_graph_keeper(estimate->graph, node) == NULL, error))
        return FALSE;
    for (guint i = 0; i < merge->sources->len; i++) {
        const StasisSource *source = &g_array_index(merge->sources, StasisSource, i);
        if (source->fate != STASIS_FATE_LINK)
            continue;
        keep(estimate, source->dev, source->ino);
        note_new_link(estimate, source->dev, source->ino);
    }
    estimate->new_bytes += on_disk(merge->copied_bytes) + BLOCK_BYTES +
                           on_disk(merge->records->len * sizeof(StasisIndexRecord));
    return TRUE;
}

gboolean stasis_usage_estimate(const StasisUsage *usage, StasisStore *store,
                               const StasisGraph *graph, gint64 *ret_freed_bytes, GError **error)
{
    g_autoptr(GHashTable) lost = new_table(), linked = new_table();
    Estimate estimate = { store, graph, lost, linked, 0 };
    for (guint i = 0; i < graph->nodes->len; i++)
        if (stasis_graph_node(graph, i)->going)
            count_files(store->images_fd, stasis_graph_node(graph, i)->id, lost);
    for (guint i = 0; i < graph->nodes->len; i++) {
        const StasisNode *node = stasis_graph_node(graph, i);
        if (stasis_graph_is_bereft(graph, node) && !add_heir(&estimate, node, error))
            return FALSE;
    }
    gint64 freed = -(gint64)estimate.new_bytes;
    GHashTableIter iter;
    gpointer file;
    g_hash_table_iter_init(&iter, lost);
    while (g_hash_table_iter_next(&iter, &file, NULL)) {
        const StasisUsedFile *f = file;
        if (f->n_images >= n_images(usage, f))
            freed += (gint64)f->bytes;
    }
    *ret_freed_bytes = freed;
    return TRUE;
}
