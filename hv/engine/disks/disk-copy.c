/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/disks/disk-copy.h"

#include <string.h>

#include "base/fault.h"
#include "disk/describe.h"
#include "store/scratch.h"

/* Pushed at once. */
#define RUN_PAGES 256u

typedef struct {
    StasisDiskPart part;
    StasisSession *session;
    char *cwd, *scratch_dir, *socket_dir;
    gboolean held;
    int first_block; /* of the image (any, when held); -1: no disk is copied */
    StasisDiskSnapshot *snapshot;
    guint64 copied_bytes;
} DiskCopy;

static DiskCopy *of(const StasisDiskPart *part)
{
    return (DiskCopy *)part;
}

/* One disk as the pipeline sees it. */
typedef struct {
    StasisDiskSnapshot *snapshot;
    guint number;
} Source;

static gboolean needs_monitor(const StasisDiskPart *part)
{
    for (guint i = 0; i < part->disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(part->disks, i);
        if (disk->writable && disk->has_iothread)
            return TRUE;
    }
    return FALSE;
}

static void copy_free(StasisDiskPart *part)
{
    DiskCopy *disks = of(part);
    g_clear_pointer(&disks->snapshot, stasis_disk_snapshot_free);
    g_clear_pointer(&part->disks, g_ptr_array_unref);
    g_free(disks->cwd);
    g_free(disks->scratch_dir);
    g_free(disks->socket_dir);
    g_free(disks);
}

static StasisDiskPart *copy_open(const StasisDiskPartWanted *wanted, GError **error)
{
    DiskCopy *disks = g_new0(DiskCopy, 1);
    g_autoptr(StasisDiskPart) part = &disks->part;
    part->ops = &stasis_disk_copy_ops;
    disks->session = wanted->session;
    disks->first_block = -1;
    disks->cwd = g_strdup(wanted->cwd);
    disks->scratch_dir = stasis_store_scratch_path(wanted->store, "tmp", error);
    if (disks->scratch_dir == NULL)
        return NULL;
    disks->socket_dir = stasis_vm_dir(wanted->session->record->name, error);
    if (disks->socket_dir == NULL)
        return NULL;
    part->disks = stasis_disks_list(wanted->session->qmp, error);
    if (part->disks == NULL || !stasis_disks_check(wanted->session->qmp, part->disks, error))
        return NULL;
    /* Who reads them then may end at any moment. */
    disks->held = wanted->hold && !needs_monitor(part);
    return g_steal_pointer(&part);
}

void stasis_disk_copy_leave(StasisDiskPart *part)
{
    g_clear_pointer(&of(part)->snapshot, stasis_disk_snapshot_leave);
    copy_free(part);
}

static gboolean declare(StasisDiskPart *part, StasisImageWriter *writer, GError **error)
{
    DiskCopy *disks = of(part);
    disks->first_block = -1;
    for (guint i = 0; i < part->disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(part->disks, i);
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

static gboolean get_ready(StasisDiskPart *part, const char *image, const char *since,
                          GError **error)
{
    DiskCopy *disks = of(part);
    /* Of a stop that failed before. */
    g_clear_pointer(&disks->snapshot, stasis_disk_snapshot_free);
    if (disks->first_block < 0)
        return TRUE;
    StasisDiskSnapshotWanted wanted = { .qmp = disks->session->qmp,
                                        .pid = disks->session->record->pid,
                                        .disks = part->disks,
                                        .since = since,
                                        .image = image,
                                        .scratch_dir = disks->scratch_dir,
                                        .socket_dir = disks->socket_dir };
    disks->snapshot = stasis_disk_snapshot_new(&wanted, error);
    return disks->snapshot != NULL;
}

static gboolean has_any(const StasisDiskPart *part)
{
    return of(part)->first_block >= 0;
}

StasisDiskSnapshot *stasis_disk_copy_get_held(StasisDiskPart *part)
{
    return part->ops == &stasis_disk_copy_ops && of(part)->held ? of(part)->snapshot : NULL;
}

static StasisDiskTaking *get_taking(StasisDiskPart *part)
{
    StasisDiskSnapshot *snapshot = of(part)->snapshot;
    return snapshot != NULL ? stasis_disk_snapshot_get_taking(snapshot) : NULL;
}

/* ---- copying ---- */

static gboolean read_source(gpointer data, guint64 offset, void *buf, gsize len, GError **error)
{
    const Source *source = data;
    return stasis_disk_snapshot_read(source->snapshot, source->number, offset, buf, len, error);
}

/* Every page of @map, in runs, to @push. */
typedef struct {
    DiskCopy *disks;
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

static gboolean map_disk(DiskCopy *disks, guint number, Maps *maps, GError **error)
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

static gboolean copy_disk(DiskCopy *disks, StasisCopy *copy, guint number, const Maps *maps,
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

static gboolean run(StasisDiskPart *part, StasisCopy *copy, guint n_threads, GError **error)
{
    DiskCopy *disks = of(part);
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

static void settle(StasisDiskPart *part)
{
    if (of(part)->snapshot != NULL)
        stasis_disk_snapshot_settle(of(part)->snapshot, TRUE);
}

static guint64 get_bytes(const StasisDiskPart *part)
{
    return of(part)->copied_bytes;
}

static gboolean describe(StasisDiskPart *part, StasisImageWriter *writer, GError **error)
{
    const DiskCopy *disks = of(part);
    if (disks->first_block < 0 || disks->held)
        return TRUE;
    g_autoptr(GBytes) notes = stasis_disks_describe(part->disks, FALSE, disks->cwd, error);
    return notes != NULL && stasis_image_writer_add_part(writer, STASIS_DISKS_PART, notes, error);
}

const StasisDiskPartOps stasis_disk_copy_ops = {
    .name = "copy",
    .open = copy_open,
    .free = copy_free,
    .declare = declare,
    .get_ready = get_ready,
    .has_any = has_any,
    .needs_monitor = needs_monitor,
    .get_taking = get_taking,
    .run = run,
    .describe = describe,
    .settle = settle,
    .get_bytes = get_bytes,
};
