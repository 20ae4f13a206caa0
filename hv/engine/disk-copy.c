/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/disk-copy.h"

#include <string.h>

#include "base/fault.h"
#include "disk/describe.h"

/* Pushed at once. */
#define RUN_PAGES 256u

struct _StasisDiskCopy {
    StasisSession *session;
    GPtrArray *disks; /* of StasisDisk */
    char *scratch_dir, *socket_dir;
    gboolean held;
    int first_block; /* of the image (any, when held); -1: no disk is copied */
    StasisDiskSnapshot *snapshot;
    guint64 copied_bytes;
};

/* One disk as the pipeline sees it. */
typedef struct {
    StasisDiskSnapshot *snapshot;
    guint number;
} Source;

StasisDiskCopy *stasis_disk_copy_new(StasisSession *session, StasisStore *store, gboolean hold,
                                     GError **error)
{
    g_autoptr(StasisDiskCopy) disks = g_new0(StasisDiskCopy, 1);
    disks->session = session;
    disks->first_block = -1;
    disks->scratch_dir = g_build_filename(stasis_store_get_path(store), "tmp", NULL);
    disks->socket_dir = stasis_vm_dir(session->record->name, error);
    disks->disks = disks->socket_dir != NULL ? stasis_disks_list(session->qmp, error) : NULL;
    if (disks->disks == NULL || !stasis_disks_check(session->qmp, disks->disks, error))
        return NULL;
    /* Who reads them then may end at any moment. */
    disks->held = hold && !stasis_disk_copy_needs_monitor(disks);
    return g_steal_pointer(&disks);
}

void stasis_disk_copy_free(StasisDiskCopy *disks)
{
    if (disks == NULL)
        return;
    g_clear_pointer(&disks->snapshot, stasis_disk_snapshot_free);
    g_clear_pointer(&disks->disks, g_ptr_array_unref);
    g_free(disks->scratch_dir);
    g_free(disks->socket_dir);
    g_free(disks);
}

void stasis_disk_copy_leave(StasisDiskCopy *disks)
{
    g_clear_pointer(&disks->snapshot, stasis_disk_snapshot_leave);
    stasis_disk_copy_free(disks);
}

GPtrArray *stasis_disk_copy_get_all(const StasisDiskCopy *disks)
{
    return g_ptr_array_ref(disks->disks);
}

gboolean stasis_disk_copy_add(StasisDiskCopy *disks, StasisImageWriter *writer, GError **error)
{
    disks->first_block = -1;
    for (guint i = 0; i < disks->disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks->disks, i);
        if (!disk->writable)
            continue;
        int block = disks->held
                        ? 0
                        : stasis_image_writer_add_disk(writer, disk->name, disk->size_bytes, error);
        if (block < 0)
            return FALSE;
        if (disks->first_block < 0)
            disks->first_block = block;
    }
    return TRUE;
}

gboolean stasis_disk_copy_get_ready(StasisDiskCopy *disks, const char *image, const char *since,
                                    GError **error)
{
    /* Of a stop that failed before. */
    g_clear_pointer(&disks->snapshot, stasis_disk_snapshot_free);
    if (disks->first_block < 0)
        return TRUE;
    StasisDiskSnapshotWanted wanted = { .qmp = disks->session->qmp,
                                        .pid = disks->session->record->pid,
                                        .disks = disks->disks,
                                        .since = since,
                                        .image = image,
                                        .scratch_dir = disks->scratch_dir,
                                        .socket_dir = disks->socket_dir };
    disks->snapshot = stasis_disk_snapshot_new(&wanted, error);
    return disks->snapshot != NULL;
}

gboolean stasis_disk_copy_has_any(const StasisDiskCopy *disks)
{
    return disks->first_block >= 0;
}

gboolean stasis_disk_copy_needs_monitor(const StasisDiskCopy *disks)
{
    for (guint i = 0; i < disks->disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks->disks, i);
        if (disk->writable && disk->has_iothread)
            return TRUE;
    }
    return FALSE;
}

gboolean stasis_disk_copy_is_held(const StasisDiskCopy *disks)
{
    return disks->held && disks->snapshot != NULL;
}

StasisDiskSnapshot *stasis_disk_copy_get_snapshot(StasisDiskCopy *disks)
{
    return disks->snapshot;
}

StasisDiskTaking *stasis_disk_copy_get_taking(StasisDiskCopy *disks)
{
    return disks->snapshot != NULL ? stasis_disk_snapshot_get_taking(disks->snapshot) : NULL;
}

/* ---- copying ---- */

static gboolean read_source(gpointer data, guint64 offset, void *buf, gsize len, GError **error)
{
    const Source *source = data;
    return stasis_disk_snapshot_read(source->snapshot, source->number, offset, buf, len, error);
}

/* Every page of @map, in runs, to @push. */
typedef struct {
    StasisDiskCopy *disks;
    StasisCopy *copy;
    guint block;
    const StasisPageSource *source; /* NULL: pages that are zero */
    guint64 *done_bytes, total_bytes;
} Push;

static gboolean push_runs(const Push *push, const StasisBitmap *map, GError **error)
{
    StasisCopy *copy = push->copy;
    guint64 first, n;
    for (guint64 at = 0; stasis_bitmap_next_run(
             map, at, push->source != NULL ? RUN_PAGES : G_MAXUINT64, &first, &n);
         at = first + n) {
        if (!stasis_copy_may_go_on(copy, error))
            return FALSE;
        if (push->source == NULL) {
            if (!stasis_pipeline_push_zero(copy->pipeline, push->block, first, n, error))
                return FALSE;
            continue;
        }
        StasisPageRun run = {
            .block = push->block, .first_page = first, .n_pages = n, .source = push->source
        };
        guint64 done = *push->done_bytes + n * STASIS_PAGE_BYTES;
        /* Once, with at least half of the data yet to be read. */
        if (*push->done_bytes * 2 < push->total_bytes && done * 2 >= push->total_bytes &&
            !stasis_fault(STASIS_FAULT_DISK_HALF, error))
            return FALSE;
        stasis_pipeline_push(copy->pipeline, &run);
        *push->done_bytes = done;
        push->disks->copied_bytes += n * STASIS_PAGE_BYTES;
        stasis_copy_report(copy, "disks", *push->done_bytes, push->total_bytes);
    }
    return TRUE;
}

/* What of one disk is needed, taken apart: pages to read, and pages that are zero. */
typedef struct {
    StasisBitmap *data, *zero;
} Maps;

static void maps_clear(gpointer data)
{
    Maps *maps = data;
    stasis_bitmap_free(maps->data);
    stasis_bitmap_free(maps->zero);
}

static gboolean map_disk(StasisDiskCopy *disks, guint number, Maps *maps, GError **error)
{
    const StasisDisk *disk = stasis_disk_snapshot_get(disks->snapshot, number);
    guint64 n_pages = (disk->size_bytes - 1) / STASIS_PAGE_BYTES + 1;
    maps->data = stasis_bitmap_new(n_pages);
    maps->zero = stasis_bitmap_new(n_pages);
    if (!stasis_disk_snapshot_map(disks->snapshot, number, maps->data, maps->zero, error))
        return FALSE;
    for (guint64 i = 0; i < (n_pages + 63) / 64; i++) {
        guint64 needed = maps->data->words[i];
        maps->data->words[i] = needed & ~maps->zero->words[i];
        maps->zero->words[i] &= needed;
    }
    return TRUE;
}

static gboolean copy_disk(StasisDiskCopy *disks, StasisCopy *copy, guint number, const Maps *maps,
                          guint64 *done_bytes, guint64 total_bytes, GError **error)
{
    Source source = { disks->snapshot, number };
    const StasisDisk *disk = stasis_disk_snapshot_get(disks->snapshot, number);
    StasisPageSource pages = { read_source, &source, disk->size_bytes };
    Push push = { disks, copy, (guint)disks->first_block + number, NULL, done_bytes, total_bytes };
    gboolean ok = push_runs(&push, maps->zero, error);
    push.source = &pages;
    ok = ok && push_runs(&push, maps->data, error);
    /* The source goes out of use with us. */
    return stasis_pipeline_drain(copy->pipeline, ok ? error : NULL) && ok;
}

gboolean stasis_disk_copy_run(StasisDiskCopy *disks, StasisCopy *copy, guint n_threads,
                              GError **error)
{
    if (disks->snapshot == NULL)
        return TRUE;
    g_autoptr(GArray) all = g_array_new(FALSE, TRUE, sizeof(Maps));
    g_array_set_clear_func(all, maps_clear);
    guint64 total = 0, done = 0;
    guint n = stasis_disk_snapshot_get_n(disks->snapshot);
    if (!stasis_disk_snapshot_open(disks->snapshot, disks->held ? 1 : n_threads, error))
        return FALSE;
    if (disks->held)
        return TRUE;
    g_array_set_size(all, n);
    for (guint i = 0; i < n; i++) {
        if (!map_disk(disks, i, &g_array_index(all, Maps, i), error))
            return FALSE;
        total += stasis_bitmap_count(g_array_index(all, Maps, i).data) * STASIS_PAGE_BYTES;
    }
    for (guint i = 0; i < n; i++) {
        if (!copy_disk(disks, copy, i, &g_array_index(all, Maps, i), &done, total, error))
            return FALSE;
    }
    stasis_disk_snapshot_close(disks->snapshot);
    return stasis_fault(STASIS_FAULT_DISK_CLOSED, error);
}

void stasis_disk_copy_settle(StasisDiskCopy *disks)
{
    if (disks->snapshot != NULL)
        stasis_disk_snapshot_settle(disks->snapshot, TRUE);
}

guint64 stasis_disk_copy_get_bytes(const StasisDiskCopy *disks)
{
    return disks->copied_bytes;
}

GBytes *stasis_disk_copy_describe(const StasisDiskCopy *disks, const char *cwd, GError **error)
{
    return stasis_disks_describe(disks->disks, FALSE, cwd, error);
}
