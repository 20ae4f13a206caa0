/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way back from overlays: from the top down each is written into the file below, while the VM
 * runs, until it writes to the file that it was started with. The record says so first: if we are
 * killed, whoever comes next goes on with it.
 */
#include <stasis/disk.h>
#include <stasis/error.h>
#include <string.h>

#include "disk/freeze.h"
#include "engine/disk-freeze.h"
#include "engine/rollback-mark.h"
#include "engine/sweep.h"

/* Ours, from the top down, above the file that the VM was started with. libvirt, which knows what
 * is below a disk, would start a domain with the topmost: there names tell. */
static guint count_ours(const StasisDisk *disk, gboolean domain)
{
    for (guint n = 0; n + 1 < disk->layers->len; n++) {
        const char *path = ((const StasisDiskLayer *)g_ptr_array_index(disk->layers, n))->path;
        if (!stasis_disk_is_overlay_path(path) ||
            (!domain && strcmp(path, disk->line_filename) == 0))
            return n;
    }
    return disk->layers->len - 1;
}

static void add_paths(GPtrArray *paths, const StasisDisk *disk, guint from, guint to)
{
    for (guint i = from; i < to; i++) {
        const StasisDiskLayer *layer = g_ptr_array_index(disk->layers, i);
        g_ptr_array_add(paths, g_strdup(layer->path));
    }
}

/* Would a file be written to, or go, that image @id refers to? */
static gboolean check_image(StasisStore *store, const char *id, GPtrArray *touched, GError **error)
{
    g_autoptr(GPtrArray) files = stasis_image_get_disk_files(store, id, error);
    for (guint i = 0; files != NULL && i < files->len; i++) {
        const StasisDiskFile *file = g_ptr_array_index(files, i);
        if (!g_ptr_array_find_with_equal_func(touched, file->path, g_str_equal, NULL))
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                    "image %s refers to %s, which would be written to: delete the image first, or "
                    "use --force, and it can't be used any more",
                    id, file->path);
        return FALSE;
    }
    return files != NULL;
}

static gboolean check_images(StasisStore *store, GPtrArray *touched, GError **error)
{
    g_autoptr(GPtrArray) images = stasis_store_list(store, error);
    for (guint i = 0; images != NULL && i < images->len; i++) {
        const StasisImageInfo *info = g_ptr_array_index(images, i);
        if (info->disks_refer && !check_image(store, info->id, touched, error))
            return FALSE;
    }
    return images != NULL;
}

/* QEMU has relative names only of what is on its command line, the lowest of all. */
static void make_absolute(GPtrArray *paths, pid_t pid)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", (int)pid);
    g_autofree char *cwd = g_file_read_link(link, NULL);
    for (guint i = 0; i < paths->len; i++) {
        char *path = g_canonicalize_filename(g_ptr_array_index(paths, i), cwd);
        g_free(g_ptr_array_index(paths, i));
        g_ptr_array_index(paths, i) = path;
    }
}

gboolean stasis_vm_commit_disks(StasisVm *vm, StasisStore *store, gboolean force, guint *ret_n,
                                GError **error)
{
    g_autoptr(StasisSession) session =
        stasis_session_open(stasis_vm_get_name(vm), STASIS_LOCK_WAIT_MS, error);
    if (session == NULL)
        return FALSE;
    StasisRecord *record = session->record;
    if (!stasis_rollback_check_whole(record->name, error) ||
        !stasis_session_sweep(session, record->track_image, error))
        return FALSE;
    g_autoptr(GPtrArray) disks = stasis_disks_list(session->qmp, error);
    g_autoptr(GPtrArray) ours = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) touched = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; disks != NULL && i < disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks, i);
        guint n = count_ours(disk, session->domain != NULL);
        gboolean has = n > 0 && disk->writable;
        add_paths(ours, disk, 0, has ? n : 0);
        add_paths(touched, disk, 0, has ? n + 1 : 0);
    }
    if (disks == NULL)
        return FALSE;
    make_absolute(touched, record->pid);
    *ret_n = ours->len;
    if (ours->len == 0)
        return TRUE;
    if (store != NULL && !force && !check_images(store, touched, error))
        return FALSE;
    g_ptr_array_add(ours, NULL);
    return stasis_disk_freezing_note(record, (char **)ours->pdata, "", NULL, error) &&
           stasis_disk_freezing_sweep(session, error);
}
