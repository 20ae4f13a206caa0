/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files that checkpoints with --disk overlay made of a VM's disks, and who needs each of them.
 *
 *     web.qcow2 ── .stasis-A ── .stasis-B ── .stasis-C     the VM writes to the last
 *                       └────── .stasis-D                  of a time that a rollback has left
 *
 * A file that no chain of the VM's has ("aside") may go when no image refers to it, nothing lies on
 * it and nobody has it open. What lies on it is looked for beside it and among the disks of VMs
 * that were restored from the store, running or not. Images of other stores, and overlays that
 * somebody made elsewhere, are not known here; nothing is removed unasked.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "disk/freeze.h"
#include "disk/in-use.h"
#include "disk/overlay.h"
#include "engine/disks/disk-files.h"
#include "engine/rollback/rollback-mark.h"
#include "engine/vm/sweep.h"
#include "store/scratch.h"

/* As much of a qcow2 file as its backing file's name is in, as a rule. */
#define HEAD_BYTES 4096u
#define DISKS_DIR "disks"

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

StasisVmDiskFile *stasis_disk_files_find(const GPtrArray *files, const char *path)
{
    for (guint i = 0; i < files->len; i++) {
        StasisVmDiskFile *file = g_ptr_array_index(files, i);
        if (strcmp(file->path, path) == 0)
            return file;
    }
    return NULL;
}

static void append(char ***list, const char *word)
{
    guint n = g_strv_length(*list);
    *list = g_renew(char *, *list, n + 2);
    (*list)[n] = g_strdup(word);
    (*list)[n + 1] = NULL;
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

static void add(GPtrArray *files, const char *disk, const char *path, StasisDiskFileUse use)
{
    struct stat st;
    if (stasis_disk_files_find(files, path) != NULL || stat(path, &st) < 0)
        return;
    StasisVmDiskFile *file = g_new0(StasisVmDiskFile, 1);
    file->disk = g_strdup(disk);
    file->path = g_strdup(path);
    file->use = use;
    file->stored_bytes = (guint64)st.st_blocks * 512;
    file->images = g_new0(char *, 1);
    file->overlays = g_new0(char *, 1);
    g_ptr_array_add(files, file);
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
        add(files, disk, path, STASIS_DISK_FILE_ASIDE);
    }
}

static void add_disk(GPtrArray *files, const StasisDisk *disk, const char *cwd)
{
    g_autofree char *lowest = NULL;
    for (guint i = 0; i < disk->layers->len; i++) {
        const StasisDiskLayer *layer = g_ptr_array_index(disk->layers, i);
        g_free(lowest);
        lowest = g_canonicalize_filename(layer->path, cwd);
        add(files, disk->name, lowest, i == 0 ? STASIS_DISK_FILE_TOP : STASIS_DISK_FILE_BELOW);
    }
    if (lowest != NULL)
        add_aside(files, disk->name, lowest);
}

/* ---- who needs them ---- */

static gboolean add_image(GPtrArray *files, StasisStore *store, const char *id, GError **error)
{
    g_autoptr(GPtrArray) needed = stasis_image_get_disk_files(store, id, error);
    for (guint i = 0; needed != NULL && i < needed->len; i++) {
        const StasisDiskFile *one = g_ptr_array_index(needed, i);
        StasisVmDiskFile *file = stasis_disk_files_find(files, one->path);
        if (file != NULL)
            append(&file->images, id);
    }
    return needed != NULL;
}

static gboolean add_images(GPtrArray *files, StasisStore *store, GError **error)
{
    g_autoptr(GPtrArray) images = store != NULL ? stasis_store_list(store, error) : NULL;
    for (guint i = 0; images != NULL && i < images->len; i++) {
        const StasisImageInfo *info = g_ptr_array_index(images, i);
        if (info->disks_refer && !add_image(files, store, info->id, error))
            return FALSE;
    }
    return store == NULL || images != NULL;
}

/* What a file at @path would lie on, if it is a qcow2 file; a disk whose guest wrote such a head
 * keeps a file from being removed, and no more. NULL: on nothing. */
static char *backing_of(const char *path)
{
    guint8 head[HEAD_BYTES];
    stasis_autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return NULL;
    ssize_t n = pread(fd, head, sizeof head, 0);
    g_autofree char *name = n > 0 ? stasis_overlay_get_backing(head, (gsize)n) : NULL;
    g_autofree char *dir = g_path_get_dirname(path);
    return name != NULL ? g_canonicalize_filename(name, dir) : NULL;
}

static void look_in(GPtrArray *files, const char *parent)
{
    g_autoptr(GDir) dir = g_dir_open(parent, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename(parent, name, NULL);
        g_autofree char *backing = backing_of(path);
        StasisVmDiskFile *file = backing != NULL ? stasis_disk_files_find(files, backing) : NULL;
        if (file != NULL)
            append(&file->overlays, path);
    }
}

static void look_for_overlays(GPtrArray *files, StasisStore *store)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (guint i = 0; i < files->len; i++) {
        const StasisVmDiskFile *file = g_ptr_array_index(files, i);
        char *parent = g_path_get_dirname(file->path);
        if (g_hash_table_add(seen, parent))
            look_in(files, parent);
    }
    if (store == NULL)
        return;
    g_autofree char *disks = stasis_store_scratch_path(store, DISKS_DIR, NULL);
    g_autoptr(GDir) dir = disks == NULL ? NULL : g_dir_open(disks, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename(disks, name, NULL);
        look_in(files, path);
    }
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
    if (disks == NULL || !add_images(files, store, error))
        return NULL;
    look_for_overlays(files, store);
    return g_steal_pointer(&files);
}

char *stasis_disk_files_who_needs(const GPtrArray *files, const StasisVmDiskFile *file)
{
    if (file->images[0] != NULL)
        return g_strdup_printf("image %s refers to", file->images[0]);
    for (char **overlay = file->overlays; *overlay != NULL; overlay++)
        if (stasis_disk_files_find(files, *overlay) == NULL)
            return g_strdup_printf("%s lies on", *overlay);
    return NULL;
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
