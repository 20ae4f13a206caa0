/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/guards/ring.h"

#include <stasis/error.h>
#include <stasis/maintenance.h>

#include "engine/checkpoint/series.h"
#include "engine/guards/bundle-draft.h"
#include "engine/guards/made.h"
#include "store/image.h"

struct _StasisRing {
    StasisStore *store;
    const StasisMemory *memory; /* or NULL */
    char *vm, *note;
    guint keep;
    StasisSeries *series;     /* or NULL */
    GPtrArray *images;        /* of StasisImageInfo, oldest first */
    StasisBundleDraft *draft; /* or NULL */
};

static void image_free(gpointer image)
{
    stasis_image_info_free(image);
}

StasisRing *stasis_ring_new(StasisStore *store, const StasisMemory *memory, const char *vm,
                            const char *note, guint keep)
{
    StasisRing *ring = g_new0(StasisRing, 1);
    ring->store = stasis_store_ref(store);
    ring->memory = memory;
    ring->vm = g_strdup(vm);
    ring->note = g_strdup(note);
    ring->keep = keep;
    ring->images = g_ptr_array_new_with_free_func(image_free);
    return ring;
}

void stasis_ring_free(StasisRing *ring)
{
    if (ring == NULL)
        return;
    stasis_ring_stop(ring);
    stasis_bundle_draft_free(ring->draft);
    g_ptr_array_unref(ring->images);
    stasis_store_unref(ring->store);
    g_free(ring->vm);
    g_free(ring->note);
    g_free(ring);
}

gboolean stasis_ring_start(StasisRing *ring, StasisVm *vm, StasisDisks disks,
                           GCancellable *cancellable, GError **error)
{
    StasisCheckpointOptions options = STASIS_CHECKPOINT_OPTIONS_INIT;
    options.disks = disks;
    options.note = ring->note;
    ring->series = stasis_series_new(vm, ring->store, &options, cancellable, error);
    if (ring->series == NULL)
        return FALSE;
    ring->series->sparing.max_pages = STASIS_SPARING_MAX_PAGES;
    return TRUE;
}

void stasis_ring_stop(StasisRing *ring)
{
    g_clear_pointer(&ring->series, stasis_series_free);
}

StasisSeries *stasis_ring_release(StasisRing *ring)
{
    return g_steal_pointer(&ring->series);
}

StasisSession *stasis_ring_get_session(StasisRing *ring)
{
    return ring->series != NULL ? ring->series->session : NULL;
}

guint stasis_ring_get_n_images(const StasisRing *ring)
{
    return ring->images->len;
}

gboolean stasis_ring_trim(StasisRing *ring, GError **error)
{
    if (ring->images->len <= ring->keep)
        return TRUE;
    if (!stasis_made_prune(ring->memory, ring->store, ring->vm, ring->note, ring->keep, error))
        return FALSE;
    g_ptr_array_remove_range(ring->images, 0, ring->images->len - ring->keep);
    return TRUE;
}

/* Several go at once: folding one costs nearly what folding a few does. */
const StasisImageInfo *stasis_ring_take(StasisRing *ring, GCancellable *cancellable, GError **error)
{
    StasisImageInfo *image = stasis_series_take(ring->series, cancellable, error);
    if (image == NULL)
        return NULL;
    if (!stasis_made_note(ring->memory, ring->store, ring->note, image->id, error)) {
        stasis_image_info_free(image);
        return NULL;
    }
    g_ptr_array_add(ring->images, image);
    gboolean full = ring->draft == NULL && ring->images->len > ring->keep + ring->keep / 2;
    return !full || stasis_ring_trim(ring, error) ? image : NULL;
}

gboolean stasis_ring_may_skip(const GError *error)
{
    return g_error_matches(error, STASIS_ERROR, STASIS_ERROR_OUTRUN) ||
           g_error_matches(error, STASIS_ERROR, STASIS_ERROR_BUDGET);
}

static guint count_before(const StasisRing *ring, gint64 us)
{
    guint n = ring->images->len;
    while (n > 0 && ((StasisImageInfo *)ring->images->pdata[n - 1])->created_us >= us)
        n--;
    return n;
}

const StasisImageInfo *stasis_ring_find_before(const StasisRing *ring, gint64 since_us,
                                               gint64 seen_us, guint n_older)
{
    guint n = count_before(ring, since_us);
    if (n == 0)
        return count_before(ring, seen_us) > 0 ? ring->images->pdata[0] : NULL;
    return ring->images->pdata[n - 1 - MIN(n_older, n - 1)];
}

void stasis_ring_forget_after(StasisRing *ring, const StasisImageInfo *image)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    guint n = 0;
    while (ring->images->pdata[n] != image)
        n++;
    for (guint i = n + 1; i < ring->images->len; i++)
        g_ptr_array_add(ids, ((StasisImageInfo *)ring->images->pdata[i])->id);
    g_ptr_array_add(ids, NULL);
    if (ids->len > 1)
        stasis_store_delete_images(ring->store, (const char *const *)ids->pdata, NULL, NULL, NULL,
                                   NULL);
    g_ptr_array_set_size(ring->images, (gint)n + 1);
}

/* NULL-terminated; the strings are the ring's. */
static GPtrArray *get_ids(const StasisRing *ring)
{
    GPtrArray *ids = g_ptr_array_new();
    for (guint i = 0; i < ring->images->len; i++)
        g_ptr_array_add(ids, ((StasisImageInfo *)ring->images->pdata[i])->id);
    g_ptr_array_add(ids, NULL);
    return ids;
}

/* Why there is no draft, if so, is what making the bundle says then. */
void stasis_ring_begin_bundle(StasisRing *ring, const char *dir)
{
    g_autoptr(GPtrArray) ids = get_ids(ring);
    if (ring->draft == NULL && ring->images->len > 0)
        ring->draft =
            stasis_bundle_draft_new(ring->store, (const char *const *)ids->pdata, dir, NULL);
}

gboolean stasis_ring_bundle(StasisRing *ring, const char *path, const StasisBundleOptions *options,
                            GCancellable *cancellable, GError **error)
{
    g_autoptr(GPtrArray) ids = get_ids(ring);
    g_autoptr(StasisBundleDraft) draft = g_steal_pointer(&ring->draft);
    const char *const *wanted = (const char *const *)ids->pdata;
    if (draft == NULL)
        return stasis_bundle_create(ring->store, wanted, path, options, cancellable, error);
    g_autofree char *name = g_path_get_basename(path);
    return stasis_bundle_draft_finish(draft, wanted, name, options, cancellable, error);
}
