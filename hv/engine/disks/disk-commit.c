/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way back from overlays: from the top down each is written into the file below, while the VM
 * runs, until it writes to the file that it was started with, or to one above what somebody needs.
 * The record says so first: if we are killed, whoever comes next goes on with it.
 */
#include <stasis/error.h>
#include <string.h>

#include "disk/freeze.h"
#include "engine/disks/disk-files.h"
#include "engine/disks/disk-freeze.h"
#include "engine/disks/disk-needs.h"
#include "engine/rollback/rollback-mark.h"
#include "engine/vm/sweep.h"

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

/* How many of the first @n files can be written back, so that none is written to, or goes, that
 * somebody needs. Images refer to a file and all below it, as overlays lie on them: it is the first
 * that counts. */
static guint count_free(const StasisDisk *disk, guint n, const char *cwd, const GPtrArray *files,
                        char **ret_why)
{
    for (guint i = 0; i <= n; i++) {
        const StasisDiskLayer *layer = g_ptr_array_index(disk->layers, i);
        g_autofree char *path = g_canonicalize_filename(layer->path, cwd);
        const StasisVmDiskFile *file = stasis_disk_files_find(files, path);
        g_autofree char *who = file != NULL ? stasis_disk_files_who_needs(files, file) : NULL;
        if (file != NULL && who == NULL)
            continue;
        if (*ret_why == NULL && file == NULL)
            *ret_why = g_strdup_printf("%s can't be looked at, so nobody can tell who needs it; "
                                       "--force does without",
                                       path);
        else if (*ret_why == NULL)
            *ret_why = g_strdup_printf("%s %s, which would be written to: delete that first, or "
                                       "use --force, and it can't be used any more",
                                       who, path);
        return MAX(i, 1) - 1;
    }
    return n;
}

static void add_paths(GPtrArray *paths, const StasisDisk *disk, guint n)
{
    for (guint i = 0; i < n; i++)
        g_ptr_array_add(paths, ((StasisDiskLayer *)g_ptr_array_index(disk->layers, i))->path);
}

/* *ret_why: who needs the first file that is left, if any is. */
static gboolean choose(StasisSession *session, StasisStore *store, gboolean force,
                       const GPtrArray *disks, GPtrArray *paths, guint *ret_left, char **ret_why,
                       GError **error)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", (int)session->record->pid);
    g_autofree char *cwd = g_file_read_link(link, NULL);
    /* Who is to lose what is not asked for either. */
    g_autoptr(GPtrArray) files = force ? NULL : stasis_disk_files_list(session, store, error);
    *ret_left = 0;
    if (files == NULL && !force)
        return FALSE;
    for (guint i = 0; i < disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks, i);
        guint n = disk->writable ? count_ours(disk, session->domain != NULL) : 0;
        guint n_free = n == 0 || force ? n : count_free(disk, n, cwd, files, ret_why);
        add_paths(paths, disk, n_free);
        *ret_left += n - n_free;
    }
    return TRUE;
}

gboolean stasis_vm_commit_disks(StasisVm *vm, StasisStore *store, gboolean force, guint *ret_n,
                                guint *ret_left, GError **error)
{
    g_autoptr(StasisSession) session =
        stasis_session_open(stasis_vm_get_name(vm), STASIS_LOCK_WAIT_MS, error);
    if (session == NULL)
        return FALSE;
    StasisRecord *record = session->record;
    if (!stasis_rollback_check_whole(record->name, error) ||
        !stasis_session_sweep(session, record->track_image, error))
        return FALSE;
    guint left;
    g_autofree char *why = NULL;
    g_autoptr(GPtrArray) disks = stasis_disks_list(session->qmp, error);
    g_autoptr(GPtrArray) paths = g_ptr_array_new();
    if (disks == NULL || !choose(session, store, force, disks, paths, &left, &why, error))
        return FALSE;
    if (paths->len == 0 && left > 0) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_BUSY, why);
        return FALSE;
    }
    *ret_n = paths->len;
    *ret_left = left;
    if (paths->len == 0)
        return TRUE;
    g_ptr_array_add(paths, NULL);
    return stasis_disk_freezing_note(record, (char **)paths->pdata, "", NULL, error) &&
           stasis_disk_freezing_sweep(session, error);
}
