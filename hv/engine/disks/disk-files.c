/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files that checkpoints with --disk overlay made of a VM's disks, and who needs each of them.
 *
 *     web.qcow2 ── .stasis-A ── .stasis-B ── .stasis-C     the VM writes to the last
 *                       └────── .stasis-D                  of a time that a rollback has left
 *
 * A file that no chain of the VM's has ("aside") may go when no image refers to it, nothing lies on
 * it and nobody has it open (disk-needs.h). Images of other stores, and overlays that somebody made
 * elsewhere, are not known here; nothing is removed unasked.
 */
#include <errno.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "disk/freeze.h"
#include "disk/in-use.h"
#include "engine/disks/disk-files.h"
#include "engine/disks/disk-needs.h"
#include "engine/rollback/rollback-mark.h"
#include "engine/vm/sweep.h"

void stasis_vm_disk_file_free(StasisVmDiskFile *file)
{
    if (file == NULL)
        return;
    g_free(file->disk);
    g_free(file->path);
    g_strfreev(file->images);
    g_strfreev(file->overlays);
    g_free(file);
}

static void take_out(char **list, const char *word)
{
    guint n = 0;
    for (char **one = list; *one != NULL; one++)
        if (strcmp(*one, word) == 0)
            g_free(*one);
        else
            list[n++] = *one;
    list[n] = NULL;
}

/* ---- what there is ---- */

static gint by_name(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Those beside the lowest file that have its name and our ending, and are in no chain. */
static void add_aside(GPtrArray *files, const char *disk, const char *lowest)
{
    g_autofree char *parent = g_path_get_dirname(lowest);
    g_autofree char *base = g_path_get_basename(lowest);
    g_autoptr(GDir) dir = g_dir_open(parent, 0, NULL);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;)
        if (g_str_has_prefix(name, base) && stasis_disk_is_overlay_path(name) &&
            stasis_disk_overlay_stem(name) == strlen(base))
            g_ptr_array_add(names, g_strdup(name));
    g_ptr_array_sort(names, by_name);
    for (guint i = 0; i < names->len; i++) {
        g_autofree char *path = g_build_filename(parent, g_ptr_array_index(names, i), NULL);
        stasis_disk_files_add(files, disk, path, STASIS_DISK_FILE_ASIDE);
    }
}

static void add_disk(GPtrArray *files, const StasisDisk *disk, const char *cwd)
{
    g_autofree char *lowest = NULL;
    for (guint i = 0; i < disk->layers->len; i++) {
        const StasisDiskLayer *layer = g_ptr_array_index(disk->layers, i);
        g_free(lowest);
        lowest = g_canonicalize_filename(layer->path, cwd);
        stasis_disk_files_add(files, disk->name, lowest,
                              i == 0 ? STASIS_DISK_FILE_TOP : STASIS_DISK_FILE_BELOW);
    }
    if (lowest != NULL)
        add_aside(files, disk->name, lowest);
}

/* ---- together ---- */

GPtrArray *stasis_disk_files_list(StasisSession *session, StasisStore *store, GError **error)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", (int)session->record->pid);
    g_autofree char *cwd = g_file_read_link(link, NULL);
    g_autoptr(GPtrArray) disks = stasis_disks_list(session->qmp, error);
    g_autoptr(GPtrArray) files =
        g_ptr_array_new_with_free_func((GDestroyNotify)stasis_vm_disk_file_free);
    for (guint i = 0; disks != NULL && i < disks->len; i++)
        if (stasis_disk_at(disks, i)->writable)
            add_disk(files, stasis_disk_at(disks, i), cwd);
    return disks != NULL && stasis_disk_files_look(files, store, error) ? g_steal_pointer(&files)
                                                                        : NULL;
}

GPtrArray *stasis_vm_list_disk_files(StasisVm *vm, StasisStore *store, GError **error)
{
    g_autoptr(StasisSession) session =
        stasis_session_open(stasis_vm_get_name(vm), STASIS_LOCK_WAIT_MS, error);
    return session != NULL ? stasis_disk_files_list(session, store, error) : NULL;
}

static gboolean is_free(const StasisVmDiskFile *file)
{
    return file->use == STASIS_DISK_FILE_ASIDE && file->images[0] == NULL &&
           file->overlays[0] == NULL && stasis_disk_check_unused(file->path, NULL);
}

/* What lay on others was the only one to need them, perhaps: once more, until there is none. */
GPtrArray *stasis_vm_prune_disk_files(StasisVm *vm, StasisStore *store, gboolean dry_run,
                                      GError **error)
{
    g_autoptr(StasisSession) session =
        stasis_session_open(stasis_vm_get_name(vm), STASIS_LOCK_WAIT_MS, error);
    g_autoptr(GPtrArray) gone =
        g_ptr_array_new_with_free_func((GDestroyNotify)stasis_vm_disk_file_free);
    if (session == NULL || !stasis_rollback_check_whole(session->record->name, error) ||
        !stasis_session_sweep(session, session->record->track_image, error))
        return NULL;
    g_autoptr(GPtrArray) files = stasis_disk_files_list(session, store, error);
    for (guint n = 1; files != NULL && n > 0;) {
        n = 0;
        for (guint i = files->len; i-- > 0;) {
            if (!is_free(g_ptr_array_index(files, i)))
                continue;
            StasisVmDiskFile *file = g_ptr_array_steal_index(files, i);
            g_ptr_array_add(gone, file);
            n++;
            if (!dry_run && unlink(file->path) < 0 && errno != ENOENT) {
                stasis_set_errno(error, errno, "remove %s", file->path);
                return NULL;
            }
            for (guint k = 0; k < files->len; k++)
                take_out(((StasisVmDiskFile *)g_ptr_array_index(files, k))->overlays, file->path);
        }
    }
    return files != NULL ? g_steal_pointer(&gone) : NULL;
}
