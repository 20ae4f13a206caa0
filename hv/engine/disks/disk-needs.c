/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/disks/disk-needs.h"

#include <fcntl.h>
#include <stasis/error.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "disk/freeze.h"
#include "disk/in-use.h"
#include "disk/overlay.h"
#include "engine/disks/disk-dir.h"
#include "engine/disks/vm-disks.h"
#include "store/scratch.h"
#include "vmm/registry.h"

/* As much of a qcow2 file as its backing file's name is in, as a rule. */
#define HEAD_BYTES 4096u
#define DISKS_DIR "disks"

/* ---- the same file ---- */

/* What a list's elements are. A file has other names, too, by links: device and inode tell. */
typedef struct {
    StasisVmDiskFile file;
    dev_t dev;
    ino_t ino;
} Known;

/* What somebody calls a file. */
typedef struct {
    const char *path;
    gboolean is_there;
    dev_t dev;
    ino_t ino; /* of one that is not there: what it was, 0: not known */
} Called;

static Called call(const char *path, guint64 inode)
{
    struct stat st;
    Called called = { .path = path, .ino = (ino_t)inode };
    if (stat(path, &st) < 0)
        return called;
    called.is_there = TRUE;
    called.dev = st.st_dev;
    called.ino = st.st_ino;
    return called;
}

static gboolean is_it(const StasisVmDiskFile *file, const Called *called)
{
    const Known *known = (const Known *)file;
    return strcmp(file->path, called->path) == 0 ||
           (called->is_there && known->dev == called->dev && known->ino == called->ino);
}

/* Where that can't be told, as behind a link that is gone, the last part of the name has to do. */
static gboolean may_be_it(const StasisVmDiskFile *file, const Called *called)
{
    if (called->is_there || is_it(file, called))
        return is_it(file, called);
    g_autofree char *name = g_path_get_basename(file->path);
    g_autofree char *other = g_path_get_basename(called->path);
    return strcmp(name, other) == 0 &&
           (called->ino == 0 || called->ino == ((const Known *)file)->ino ||
            stasis_disk_is_overlay_path(name));
}

StasisVmDiskFile *stasis_disk_files_find(const GPtrArray *files, const char *path)
{
    const Called called = call(path, 0);
    for (guint i = 0; i < files->len; i++)
        if (is_it(g_ptr_array_index(files, i), &called))
            return g_ptr_array_index(files, i);
    return NULL;
}

static void append(char ***list, const char *word)
{
    guint n = g_strv_length(*list);
    if (g_strv_contains((const char *const *)*list, word))
        return;
    *list = g_renew(char *, *list, n + 2);
    (*list)[n] = g_strdup(word);
    (*list)[n + 1] = NULL;
}

void stasis_disk_files_add(GPtrArray *files, const char *disk, const char *path,
                           StasisDiskFileUse use)
{
    struct stat st;
    if (stasis_disk_files_find(files, path) != NULL || stat(path, &st) < 0)
        return;
    Known *known = g_new0(Known, 1);
    StasisVmDiskFile *file = &known->file;
    known->dev = st.st_dev;
    known->ino = st.st_ino;
    file->disk = g_strdup(disk);
    file->path = g_strdup(path);
    file->use = use;
    file->stored_bytes = (guint64)st.st_blocks * 512;
    file->images = g_new0(char *, 1);
    file->overlays = g_new0(char *, 1);
    g_ptr_array_add(files, file);
}

/* ---- images ---- */

static void add_layer(GPtrArray *files, const StasisDiskLayer *layer, const char *id)
{
    const Called called = call(layer->path, layer->inode);
    for (guint i = 0; i < files->len; i++) {
        StasisVmDiskFile *file = g_ptr_array_index(files, i);
        if (may_be_it(file, &called))
            append(&file->images, id);
    }
}

static gboolean add_image(GPtrArray *files, StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, id, error);
    g_autoptr(GPtrArray) notes = reader != NULL ? stasis_vm_disks_read_notes(reader, error) : NULL;
    for (guint i = 0; notes != NULL && i < notes->len; i++) {
        const StasisDiskNote *note = g_ptr_array_index(notes, i);
        for (guint k = 0; note->layers != NULL && k < note->layers->len; k++)
            add_layer(files, g_ptr_array_index(note->layers, k), id);
    }
    return notes != NULL;
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

/* ---- overlays ---- */

typedef struct {
    GPtrArray *files;
    GHashTable *seen; /* directories, by device and inode */
} Search;

/* What a file at @path would lie on, if it is a qcow2 file; a disk whose guest wrote such a head
 * keeps a file from being removed, and no more. NULL: on nothing. */
static char *backing_of(const char *path)
{
    guint8 head[HEAD_BYTES];
    struct stat st;
    /* Before it is opened: a tape would be wound, a watchdog begin to count. */
    if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
        return NULL;
    stasis_autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return NULL;
    ssize_t n = pread(fd, head, sizeof head, 0);
    g_autofree char *name = n > 0 ? stasis_overlay_get_backing(head, (gsize)n) : NULL;
    if (name == NULL)
        return NULL;
    const char *file = g_str_has_prefix(name, "file:") ? name + strlen("file:") : name;
    g_autofree char *dir = g_path_get_dirname(path);
    /* What ".." is behind a link is left to the kernel. */
    return g_path_is_absolute(file) ? g_strdup(file) : g_build_filename(dir, file, NULL);
}

static void add_overlay(GPtrArray *files, const char *path)
{
    g_autofree char *backing = backing_of(path);
    if (backing == NULL)
        return;
    const Called called = call(backing, 0);
    const StasisVmDiskFile *own = stasis_disk_files_find(files, path);
    for (guint i = 0; i < files->len; i++) {
        StasisVmDiskFile *file = g_ptr_array_index(files, i);
        if (may_be_it(file, &called))
            append(&file->overlays, own != NULL ? own->path : path);
    }
}

static gboolean is_new(Search *search, int dir_fd)
{
    struct stat st;
    return fstat(dir_fd, &st) == 0 &&
           g_hash_table_add(search->seen,
                            g_strdup_printf("%" G_GUINT64_FORMAT ":%" G_GUINT64_FORMAT,
                                            (guint64)st.st_dev, (guint64)st.st_ino));
}

static gboolean is_vm_disks(const char *path)
{
    stasis_autofd int fd = stasis_disk_dir_open(path);
    return fd >= 0 && stasis_disk_dir_is_marked(fd);
}

/* And in the directories there that VMs have their disks in. */
static void look_in(Search *search, const char *parent)
{
    stasis_autofd int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || !is_new(search, fd))
        return;
    g_autoptr(GDir) dir = g_dir_open(parent, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename(parent, name, NULL);
        add_overlay(search->files, path);
        if (is_vm_disks(path))
            look_in(search, path);
    }
}

static void look_beside_file(Search *search, const char *path)
{
    g_autofree char *parent = g_path_get_dirname(path);
    g_autofree char *above = g_path_get_dirname(parent);
    look_in(search, parent);
    if (is_vm_disks(parent))
        look_in(search, above);
}

/* Beside the files, and where they are a VM's own, beside its directory. */
static void look_beside(Search *search)
{
    for (guint i = 0; i < search->files->len; i++) {
        const StasisVmDiskFile *file = g_ptr_array_index(search->files, i);
        char *real = realpath(file->path, NULL);
        look_beside_file(search, file->path);
        if (real != NULL)
            look_beside_file(search, real);
        free(real);
    }
}

/* Also behind links. */
static void look_in_all(Search *search, const char *disks)
{
    g_autoptr(GDir) dir = disks == NULL ? NULL : g_dir_open(disks, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename(disks, name, NULL);
        g_autofree char *link = g_file_read_link(path, NULL);
        look_in(search, link != NULL && g_path_is_absolute(link) ? link : path);
    }
}

static void look_in_store(Search *search, StasisStore *store)
{
    g_autofree char *links = g_build_filename(stasis_store_get_path(store), DISKS_DIR, NULL);
    g_autofree char *disks = stasis_store_scratch_path(store, DISKS_DIR, NULL);
    look_in_all(search, links);
    look_in_all(search, disks);
}

/* Where VMs have their disks, wherever that is. */
static gboolean look_at_vms(Search *search, GError **error)
{
    g_auto(GStrv) names = stasis_record_names(error);
    for (char **name = names; name != NULL && *name != NULL; name++) {
        g_autoptr(GError) local = NULL;
        g_autoptr(StasisRecord) record = stasis_record_load(*name, &local);
        if (record == NULL && !g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND)) {
            g_propagate_prefixed_error(error, g_steal_pointer(&local),
                                       "where VM %s has its disks can't be told: ", *name);
            return FALSE;
        }
        if (record != NULL && record->disk_dir != NULL)
            look_in(search, record->disk_dir);
    }
    return names != NULL;
}

gboolean stasis_disk_files_look(GPtrArray *files, StasisStore *store, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    Search search = { files, seen };
    if (!add_images(files, store, error))
        return FALSE;
    look_beside(&search);
    if (store != NULL)
        look_in_store(&search, store);
    return look_at_vms(&search, error);
}

/* ---- who ---- */

/* What lies aside is nobody's, unless a program has it open. */
static gboolean is_used(const StasisVmDiskFile *file)
{
    return file->use == STASIS_DISK_FILE_ASIDE && !stasis_disk_check_unused(file->path, NULL);
}

/* @seen: what was asked about; heads that a guest wrote can lead in a circle. */
static char *who_needs(const GPtrArray *files, const StasisVmDiskFile *file, GHashTable *seen)
{
    if (!g_hash_table_add(seen, (gpointer)file))
        return NULL;
    if (file->images[0] != NULL)
        return g_strdup_printf("image %s refers to", file->images[0]);
    for (char **overlay = file->overlays; *overlay != NULL; overlay++) {
        const StasisVmDiskFile *above = stasis_disk_files_find(files, *overlay);
        if (above == NULL || is_used(above))
            return g_strdup_printf("%s lies on", *overlay);
        char *who = who_needs(files, above, seen);
        if (who != NULL)
            return who;
    }
    return NULL;
}

char *stasis_disk_files_who_needs(const GPtrArray *files, const StasisVmDiskFile *file)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    return who_needs(files, file, seen);
}
