/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/ci-ring.h"

#include "engine/series.h"

struct _StasisCiRing {
    StasisStore *store;
    StasisSeries *series;
    GPtrArray *ids; /* of char* */
    guint keep;
};

void stasis_ci_ring_free(StasisCiRing *ring)
{
    if (ring == NULL)
        return;
    g_clear_pointer(&ring->series, stasis_series_free);
    g_clear_pointer(&ring->store, stasis_store_unref);
    g_clear_pointer(&ring->ids, g_ptr_array_unref);
    g_free(ring);
}

StasisCiRing *stasis_ci_ring_new(StasisVm *vm, const char *dir, guint keep,
                                 GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisCiRing) ring = g_new0(StasisCiRing, 1);
    g_autofree char *path = g_build_filename(dir, "store", NULL);
    StasisCheckpointOptions options = STASIS_CHECKPOINT_OPTIONS_INIT;
    ring->keep = keep;
    ring->ids = g_ptr_array_new_with_free_func(g_free);
    ring->store = stasis_store_open(path, STASIS_STORE_CREATE, error);
    ring->series = ring->store != NULL
                       ? stasis_series_new(vm, ring->store, &options, cancellable, error)
                       : NULL;
    return ring->series != NULL ? g_steal_pointer(&ring) : NULL;
}

gboolean stasis_ci_ring_take(StasisCiRing *ring, GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisImageInfo) info = stasis_series_take(ring->series, cancellable, error);
    if (info == NULL)
        return FALSE;
    g_ptr_array_add(ring->ids, g_strdup(info->id));
    while (ring->ids->len > ring->keep) {
        if (!stasis_store_delete(ring->store, g_ptr_array_index(ring->ids, 0), error))
            return FALSE;
        g_ptr_array_remove_index(ring->ids, 0);
    }
    return TRUE;
}

StasisQmp *stasis_ci_ring_get_qmp(StasisCiRing *ring)
{
    return ring->series->session->qmp;
}

StasisStore *stasis_ci_ring_get_store(StasisCiRing *ring)
{
    return ring->store;
}

const GPtrArray *stasis_ci_ring_get_ids(StasisCiRing *ring)
{
    return ring->ids;
}
