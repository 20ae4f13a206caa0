/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/disks/vm-disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "disk/describe.h"
#include "disk/in-use.h"
#include "disk/overlay.h"
#include "engine/disks/disk-dir.h"
#include "store/cache.h"
#include "store/scratch.h"

#define MAX_TRIES 100
#define COPY_BYTES ((size_t)8 << 20)

/* ---- what there is ---- */

GPtrArray *stasis_vm_disks_read_notes(StasisImageReader *reader, GError **error)
{
    g_autoptr(GBytes) json = NULL;
    g_autoptr(GPtrArray) notes = NULL;
    guint n = stasis_image_reader_get_n_disks(reader), n_content = 0;
    if (n == 0 && !stasis_image_reader_get_info(reader)->disks_refer)
        return g_ptr_array_new();
    json = stasis_image_reader_get_part(reader, STASIS_DISKS_PART, error);
    notes = json != NULL ? stasis_disks_parse(json, error) : NULL;
    if (notes == NULL)
        return NULL;
    for (guint i = notes->len; i-- > 0;) {
        const StasisDiskNote *note = g_ptr_array_index(notes, i);
        if (!stasis_disk_note_has_content(note)) {
            g_ptr_array_remove_index(notes, i);
            continue;
        }
        if (note->layers != NULL)
            continue;
        int block = stasis_image_reader_find_disk(reader, note->name);
        if (block >= 0 &&
            stasis_image_reader_get_block(reader, (guint)block)->size_bytes == note->size_bytes)
            n_content++;
    }
    guint n_refer = notes->len - n_content;
    if (n_content == n && (n_refer == 0) == (n != 0))
        return g_steal_pointer(&notes);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "image %s: " STASIS_DISKS_PART " tells of other disks than the manifest",
                stasis_image_reader_get_info(reader)->id);
    return NULL;
}

gboolean stasis_vm_disks_check_own(const GPtrArray *notes, GError **error)
{
    for (guint i = 0; i < notes->len; i++) {
        const StasisDiskNote *note = g_ptr_array_index(notes, i);
        if (note->layers == NULL)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "disk %s: the image refers to the file that it was in, %s, and the VM would "
                    "write to that; without --in-place or --disk none it gets a file of its own on "
                    "top",
                    note->name, note->filename);
        return FALSE;
    }
    return TRUE;
}

gboolean stasis_vm_disks_check_unused(const GPtrArray *notes, GError **error)
{
    for (guint i = 0; i < notes->len; i++) {
        const StasisDiskNote *note = g_ptr_array_index(notes, i);
        if (g_path_is_absolute(note->filename) &&
            !stasis_disk_check_unused(note->filename, error)) {
            g_prefix_error(error, "disk %s: ", note->name);
            return FALSE;
        }
    }
    return TRUE;
}

static char *own(StasisVmDisks *disks, char *text)
{
    g_ptr_array_add(disks->own, text);
    return text;
}

static void add_disk(StasisVmDisks *disks, const StasisDiskNote *note, guint number)
{
    g_autofree char *name = g_strdup_printf("disk-%u.qcow2", number);
    StasisLaunchDisk disk = { .name = own(disks, g_strdup(note->name)),
                              .node = own(disks, g_strdup(note->node)),
                              .filename = own(disks, g_strdup(note->filename)),
                              .path = own(disks, g_build_filename(disks->dir, name, NULL)) };
    g_array_append_val(disks->disks, disk);
}

StasisVmDisks *stasis_vm_disks_plan(const GPtrArray *notes, const char *dir)
{
    StasisVmDisks *disks = g_new0(StasisVmDisks, 1);
    disks->dir = g_strdup(dir);
    disks->dir_fd = -1;
    disks->kept = TRUE; /* nothing to remove */
    disks->disks = g_array_new(FALSE, TRUE, sizeof(StasisLaunchDisk));
    disks->own = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < notes->len; i++)
        add_disk(disks, g_ptr_array_index(notes, i), i);
    return disks;
}

/* ---- making ---- */

/* Those of stores that are gone, too: their memory is given back when no disks are there. */
static void sweep_all(const char *parent, gboolean own)
{
    g_auto(GStrv) memory = stasis_scratch_find("disks");
    for (guint i = 0; memory[i] != NULL; i++)
        stasis_disk_dir_sweep(memory[i], /* own= */ TRUE);
    stasis_disk_dir_sweep(parent, own);
}

static gboolean put_mark(const StasisVmDisks *disks, const StasisDiskDirMark *mark, GError **error)
{
    if (stasis_disk_dir_mark(disks->dir_fd, mark, error))
        return TRUE;
    g_prefix_error(error, "%s: ", disks->dir);
    return FALSE;
}

/* Ours until the VM is there: who finds it when we have died may sweep it. */
static gboolean mark_as_ours(const StasisVmDisks *disks, const char *vm_name, GError **error)
{
    const StasisDiskDirMark mark = { .vm = vm_name,
                                     .pid = getpid(),
                                     .start_time = stasis_process_start_time(getpid()),
                                     .temporary = TRUE };
    return put_mark(disks, &mark, error);
}

/* One that is ours; *ret_swept when somebody took it for a leftover before we held it. */
static gboolean try_open_dir(StasisVmDisks *disks, const char *template, gboolean *ret_swept,
                             GError **error)
{
    struct stat st;
    *ret_swept = FALSE;
    g_free(disks->dir);
    disks->dir = g_strdup(template);
    if (g_mkdtemp_full(disks->dir, 0700) == NULL)
        return stasis_set_errno(error, errno, "make a directory for the VM's disks, %s", template);
    disks->kept = FALSE;
    disks->dir_fd = open(disks->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (disks->dir_fd >= 0 && flock(disks->dir_fd, LOCK_EX) == 0 &&
        fstat(disks->dir_fd, &st) == 0 && st.st_nlink > 0)
        return TRUE;
    *ret_swept = disks->dir_fd >= 0 || errno == ENOENT;
    stasis_clear_fd(&disks->dir_fd);
    return stasis_set_errno(error, *ret_swept ? ENOENT : errno, "open %s", disks->dir);
}

static gboolean open_dir(StasisVmDisks *disks, const char *parent, GError **error)
{
    g_autofree char *template = g_strdup(disks->dir);
    if (g_mkdir_with_parents(parent, 0700) < 0)
        return stasis_set_errno(error, errno, "make %s", parent);
    for (guint tries = 0;; tries++) {
        g_autoptr(GError) local = NULL;
        gboolean swept;
        if (try_open_dir(disks, template, &swept, &local))
            return TRUE;
        if (swept && tries < MAX_TRIES)
            continue;
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
}

/* All of the sparse file @from into @to. */
static gboolean copy_data(int from, int to, GCancellable *cancellable, GError **error)
{
    g_autofree guint8 *buffer = g_malloc(COPY_BYTES);
    off_t size = lseek(from, 0, SEEK_END), at = 0;
    if (size < 0 || ftruncate(to, size) < 0)
        return stasis_set_errno(error, errno, "make a copy of %" G_GINT64_FORMAT " bytes",
                                (gint64)size);
    while ((at = lseek(from, at, SEEK_DATA)) >= 0) {
        off_t end = lseek(from, at, SEEK_HOLE);
        for (; at < end;) {
            size_t n = (size_t)MIN((off_t)COPY_BYTES, end - at);
            int r = stasis_pread_all(from, buffer, n, at);
            r = r == 0 ? stasis_pwrite_all(to, buffer, n, at) : r;
            if (r < 0)
                return stasis_set_errno(error, -r, "copy");
            if (cancellable != NULL && g_cancellable_is_cancelled(cancellable))
                return stasis_set_cancelled(error);
            at += (off_t)n;
        }
    }
    return errno == ENXIO || stasis_set_errno(error, errno, "copy");
}

/* A link where that goes: same file system, and the template still has its name. */
static gboolean make_base(StasisVmDisks *disks, const StasisTemplateBlock *block, const char *name,
                          GCancellable *cancellable, GError **error)
{
    if (linkat(AT_FDCWD, block->path, disks->dir_fd, name, 0) == 0) {
        struct stat linked, opened;
        if (fstatat(disks->dir_fd, name, &linked, AT_SYMLINK_NOFOLLOW) == 0 &&
            fstat(block->fd, &opened) == 0 && linked.st_dev == opened.st_dev &&
            linked.st_ino == opened.st_ino)
            return TRUE;
        unlinkat(disks->dir_fd, name, 0);
    }
    stasis_autofd int to = openat(disks->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
    if (to < 0)
        return stasis_set_errno(error, errno, "make %s", name);
    if (!copy_data(block->fd, to, cancellable, error))
        return FALSE;
    return fdatasync(to) == 0 || stasis_set_errno(error, errno, "sync %s", name);
}

static gboolean make_overlay(const StasisVmDisks *disks, guint number, guint64 size,
                             const char *base, const char *base_format, GError **error)
{
    g_autofree char *name = g_strdup_printf("disk-%u.qcow2", number);
    g_autoptr(GBytes) bytes = stasis_overlay_new(size, base, base_format, error);
    if (bytes == NULL)
        return FALSE;
    stasis_autofd int fd = openat(disks->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    gsize len;
    const void *data = g_bytes_get_data(bytes, &len);
    int r = fd >= 0 ? stasis_pwrite_all(fd, data, len, 0) : -errno;
    return r == 0 || stasis_set_errno(error, -r, "write %s", name);
}

/* *ret NULL: no disk's content is in the image. */
static gboolean get_template(const StasisVmDisksWanted *wanted, StasisTemplate **ret,
                             GCancellable *cancellable, GError **error)
{
    *ret = NULL;
    g_autoptr(GArray) blocks = g_array_new(FALSE, FALSE, sizeof(guint));
    for (guint i = 0; i < wanted->notes->len; i++) {
        const StasisDiskNote *note = g_ptr_array_index(wanted->notes, i);
        if (note->layers != NULL)
            continue;
        guint block = (guint)stasis_image_reader_find_disk(wanted->reader, note->name);
        g_array_append_val(blocks, block);
    }
    if (blocks->len == 0)
        return TRUE;
    *ret = stasis_template_get(wanted->store, wanted->reader, blocks, wanted->progress,
                               wanted->progress_data, cancellable, error);
    return *ret != NULL;
}

/* *next: which of the template's files comes next. */
static gboolean make_disk(StasisVmDisks *disks, guint number, const StasisDiskNote *note,
                          const StasisTemplate *template, guint *next, GCancellable *cancellable,
                          GError **error)
{
    if (note->layers != NULL) {
        const StasisDiskLayer *layer = g_ptr_array_index(note->layers, 0);
        return stasis_disk_note_check(note, error) &&
               make_overlay(disks, number, note->size_bytes, layer->path, layer->format, error);
    }
    g_autofree char *base = g_strdup_printf("disk-%u.base", number);
    return make_base(disks, g_ptr_array_index(template->blocks, (*next)++), base, cancellable,
                     error) &&
           make_overlay(disks, number, note->size_bytes, base, "raw", error);
}

static gboolean fill(StasisVmDisks *disks, const StasisVmDisksWanted *wanted,
                     GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisTemplate) template = NULL;
    if (!get_template(wanted, &template, cancellable, error) ||
        !stasis_fault(STASIS_FAULT_DISK_TEMPLATE, error))
        return FALSE;
    guint next = 0;
    for (guint i = 0; i < wanted->notes->len; i++) {
        const StasisDiskNote *note = g_ptr_array_index(wanted->notes, i);
        if (!make_disk(disks, i, note, template, &next, cancellable, error)) {
            g_prefix_error(error, "disk %s in %s: ", note->name, disks->dir);
            return FALSE;
        }
        add_disk(disks, note, i);
    }
    return TRUE;
}

static gboolean lies_on_others(const GPtrArray *notes)
{
    for (guint i = 0; i < notes->len; i++)
        if (((const StasisDiskNote *)g_ptr_array_index(notes, i))->layers != NULL)
            return TRUE;
    return FALSE;
}

/* What the links of note_in_store() name that is gone, where a file system that is not mounted
 * would not be: with all that was in it. */
static void sweep_links(const char *parent)
{
    g_autoptr(GDir) list = g_dir_open(parent, 0, NULL);
    for (const char *name; list != NULL && (name = g_dir_read_name(list)) != NULL;) {
        g_autofree char *path = g_build_filename(parent, name, NULL);
        g_autofree char *dir = g_file_read_link(path, NULL);
        g_autofree char *above = dir != NULL ? g_path_get_dirname(dir) : NULL;
        g_autoptr(GDir) others = above != NULL ? g_dir_open(above, 0, NULL) : NULL;
        if (others != NULL && g_dir_read_name(others) != NULL &&
            faccessat(AT_FDCWD, dir, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
            unlink(path);
    }
}

/* The store names what lies on files that it refers to, for when no record does any more
 * (disk-needs.h). One that can't be written to has no VMs' disks either. */
static void note_in_store(StasisVmDisks *disks, const StasisVmDisksWanted *wanted)
{
    if (wanted->dir == NULL || !lies_on_others(wanted->notes))
        return;
    g_autofree char *name = g_path_get_basename(disks->dir);
    g_autofree char *parent = g_build_filename(stasis_store_get_path(wanted->store), "disks", NULL);
    g_autofree char *link = g_build_filename(parent, name, NULL);
    sweep_links(parent);
    if ((mkdir(parent, 0700) == 0 || errno == EEXIST) && symlink(disks->dir, link) == 0)
        disks->link = g_steal_pointer(&link);
}

StasisVmDisks *stasis_vm_disks_new(const StasisVmDisksWanted *wanted, GCancellable *cancellable,
                                   GError **error)
{
    g_autofree char *parent = wanted->dir != NULL
                                  ? g_canonicalize_filename(wanted->dir, NULL)
                                  : stasis_store_scratch_path(wanted->store, "disks", error);
    if (parent == NULL)
        return NULL;
    g_autofree char *name = g_strconcat(wanted->vm_name, ".XXXXXX", NULL);
    g_autofree char *dir = g_build_filename(parent, name, NULL);
    g_autoptr(GPtrArray) none = g_ptr_array_new();
    g_autoptr(StasisVmDisks) disks = stasis_vm_disks_plan(none, dir);
    sweep_all(parent, /* own= */ wanted->dir == NULL);
    if (!open_dir(disks, parent, error) || !mark_as_ours(disks, wanted->vm_name, error))
        return NULL;
    note_in_store(disks, wanted);
    if (!fill(disks, wanted, cancellable, error))
        return NULL;
    return g_steal_pointer(&disks);
}

gboolean stasis_vm_disks_keep(StasisVmDisks *disks, const StasisRecord *record, GError **error)
{
    const StasisDiskDirMark mark = { .vm = record->name,
                                     .pid = record->pid,
                                     .start_time = record->start_time,
                                     .temporary = record->disks_temporary };
    disks->kept = put_mark(disks, &mark, error);
    return disks->kept;
}

void stasis_vm_disks_remove(const char *dir)
{
    stasis_autofd int fd = stasis_disk_dir_open(dir);
    if (fd >= 0)
        stasis_disk_dir_remove(fd, dir);
}

void stasis_vm_disks_free(StasisVmDisks *disks)
{
    if (disks == NULL)
        return;
    if (!disks->kept)
        stasis_vm_disks_remove(disks->dir);
    if (!disks->kept && disks->link != NULL)
        unlink(disks->link);
    g_free(disks->link);
    stasis_clear_fd(&disks->dir_fd);
    g_array_unref(disks->disks);
    g_ptr_array_unref(disks->own);
    g_free(disks->dir);
    g_free(disks);
}
