/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image comes, goes and changes its parent by a rename in images/ or processes/, which changes
 * the directory's times: two stat(2) tell that nothing is new. Times have a grain of some
 * milliseconds, so a directory that changed in the last second may change again unseen, and is read
 * once more.
 */
#include "web/model.h"

#include <stasis/error.h>
#include <sys/stat.h>

#include "store/listing.h"

#define GRAIN_NS G_GINT64_CONSTANT(1000000000)

typedef struct {
    guint64 inode;
    gint64 changed_ns;
} Mark;

struct _StasisWebModel {
    char *path;
    StasisStore *store;
    StasisListing *images, *processes;
    StasisWebSnapshot snapshot;
    GHashTable *seen; /* ID of an image that is counted and still there → its parent, or NULL */
    gboolean looked;  /* once; so what is new now has come since */
    Mark marks[2];
    gint64 marked_ns; /* when they were taken */
};

StasisWebModel *stasis_web_model_new(const char *path)
{
    StasisWebModel *model = g_new0(StasisWebModel, 1);
    const char *usual = g_getenv("STASIS_STORE");
    model->path = g_strdup(path != NULL ? path : usual != NULL ? usual : "/var/lib/stasis");
    model->seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    model->images = stasis_listing_new(&stasis_listing_images);
    model->processes = stasis_listing_new(&stasis_listing_processes);
    model->snapshot.images = stasis_listing_get(model->images);
    model->snapshot.processes = stasis_listing_get(model->processes);
    model->snapshot.totals = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    /* From now on images count. */
    stasis_web_model_look(model);
    return model;
}

void stasis_web_model_free(StasisWebModel *model)
{
    if (model == NULL)
        return;
    g_clear_pointer(&model->store, stasis_store_unref);
    g_clear_pointer(&model->images, stasis_listing_free);
    g_clear_pointer(&model->processes, stasis_listing_free);
    g_hash_table_unref(model->snapshot.totals);
    g_hash_table_unref(model->seen);
    g_free(model->snapshot.problem);
    g_free(model->path);
    g_free(model);
}

const char *stasis_web_model_path(StasisWebModel *model)
{
    return model->path;
}

StasisStore *stasis_web_model_store(StasisWebModel *model, GError **error)
{
    if (model->store == NULL)
        model->store = stasis_store_open(model->path, STASIS_STORE_EXISTING, error);
    return model->store;
}

/* ---- has it changed? ---- */

static Mark mark_of(const char *store, const char *name)
{
    struct stat st;
    g_autofree char *path = g_build_filename(store, name, NULL);
    if (stat(path, &st) < 0)
        return (Mark){ 0 };
    return (Mark){ st.st_ino, st.st_mtim.tv_sec * GRAIN_NS + st.st_mtim.tv_nsec };
}

static gboolean is_as_it_was(StasisWebModel *model)
{
    static const char *const names[] = { "images", "processes" };
    gint64 now_ns = g_get_real_time() * 1000;
    gboolean same = model->marked_ns != 0;
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        Mark mark = mark_of(model->path, names[i]);
        same = same && mark.inode == model->marks[i].inode &&
               mark.changed_ns == model->marks[i].changed_ns &&
               model->marked_ns - mark.changed_ns > GRAIN_NS;
        model->marks[i] = mark;
    }
    if (!same)
        model->marked_ns = now_ns;
    return same;
}

/* ---- counting ---- */

static StasisWebTotals *totals_of(StasisWebModel *model, const char *vm)
{
    StasisWebTotals *totals = g_hash_table_lookup(model->snapshot.totals, vm);
    if (totals == NULL) {
        totals = g_new0(StasisWebTotals, 1);
        g_hash_table_insert(model->snapshot.totals, g_strdup(vm), totals);
    }
    return totals;
}

static void count_image(StasisWebModel *model, const StasisImageInfo *info)
{
    StasisWebTotals *totals = totals_of(model, info->vm);
    totals->deadlines_counted |= info->cost.deadlines_counted;
    if (!model->looked)
        return;
    totals->n_images++;
    totals->copied_bytes += info->cost.copied_bytes;
    totals->missed_deadlines += info->cost.missed_deadlines;
    if (info->cost.pause_us > 0)
        stasis_histogram_observe(&totals->stop, (double)info->cost.pause_us / 1e6);
}

static void count_process_image(StasisWebModel *model, const StasisProcessImageInfo *info)
{
    StasisWebTotals *totals = totals_of(model, info->vm);
    if (!model->looked)
        return;
    totals->n_process_images++;
    if (info->cost.pause_us > 0)
        stasis_histogram_observe(&totals->stop, (double)info->cost.pause_us / 1e6);
}

/* Remember @id, with the parent that it has now. TRUE: it is new, or has another one than before,
 * as the deletion of an image gives its children. */
static gboolean remember(StasisWebModel *model, GHashTable *before, const char *id,
                         const char *parent, gboolean *ret_new)
{
    gpointer old = NULL;
    *ret_new = !g_hash_table_lookup_extended(before, id, NULL, &old);
    g_hash_table_insert(model->seen, g_strdup(id), g_strdup(parent));
    return *ret_new || g_strcmp0(old, parent) != 0;
}

/* Each image is counted when it is seen first, but for those of the first look. TRUE: these are
 * other images than those before. */
static gboolean count(StasisWebModel *model, const GPtrArray *images, const GPtrArray *processes)
{
    gboolean is_new;
    g_autoptr(GHashTable) before = g_steal_pointer(&model->seen);
    gboolean changed = g_hash_table_size(before) != images->len + processes->len;
    model->seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    for (guint i = 0; i < images->len; i++) {
        const StasisImageInfo *info = images->pdata[i];
        changed |= remember(model, before, info->id, info->parent, &is_new);
        if (is_new)
            count_image(model, info);
    }
    for (guint i = 0; i < processes->len; i++) {
        const StasisProcessImageInfo *info = processes->pdata[i];
        changed |= remember(model, before, info->id, info->parent, &is_new);
        if (is_new)
            count_process_image(model, info);
    }
    return changed;
}

/* ---- looking ---- */

static gboolean read_all(StasisWebModel *model, GError **error)
{
    StasisStore *store = stasis_web_model_store(model, error);
    if (store == NULL || !stasis_listing_look(model->images, store, error) ||
        !stasis_listing_look(model->processes, store, error))
        return FALSE;
    if (count(model, model->snapshot.images, model->snapshot.processes))
        model->snapshot.version++;
    return TRUE;
}

const StasisWebSnapshot *stasis_web_model_look(StasisWebModel *model)
{
    if (is_as_it_was(model))
        return &model->snapshot;
    g_autoptr(GError) error = NULL;
    g_clear_pointer(&model->snapshot.problem, g_free);
    /* Another store may be at that path by now. */
    g_clear_pointer(&model->store, stasis_store_unref);
    gboolean ok = read_all(model, &error);
    gboolean none = g_error_matches(error, STASIS_ERROR, STASIS_ERROR_NO_STORE);
    model->looked |= ok || none;
    if (!ok) {
        model->marked_ns = 0;
        model->snapshot.version++;
        model->snapshot.problem = g_strdup(error->message);
    }
    model->snapshot.there = !none;
    return &model->snapshot;
}
