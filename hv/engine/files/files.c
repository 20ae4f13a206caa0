/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files in an image's disks: which disk files are looked at, and what stasis-files says of them. */
#include <errno.h>
#include <glib/gstdio.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "base/options.h"
#include "base/tree.h"
#include "engine/disks/vm-disks.h"
#include "engine/files/files-internal.h"
#include "store/cache.h"
#include "store/image.h"

#define ASIDE_DEPTH 400u
#define ASIDE_TRIES 100u
#define ASIDE_POLL_US 10000u

void stasis_file_info_free(StasisFileInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->name);
    g_free(info->target);
    g_free(info);
}

/* ---- disks ---- */

/* Where they are, each with its format in front. */
static GPtrArray *referred_disks(StasisImageReader *reader, GError **error)
{
    g_autoptr(GPtrArray) notes = stasis_vm_disks_read_notes(reader, error);
    if (notes == NULL)
        return NULL;
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < notes->len; i++) {
        const StasisDiskNote *note = g_ptr_array_index(notes, i);
        if (!stasis_disk_note_check(note, error))
            return NULL;
        const StasisDiskLayer *layer = g_ptr_array_index(note->layers, 0);
        g_ptr_array_add(paths, g_strdup_printf("%s:%s", layer->format, layer->path));
    }
    return g_steal_pointer(&paths);
}

/* The image's disks as raw files, those that VMs made of it would share; or the files that it
 * refers to. */
static GPtrArray *image_disks(StasisStore *store, const char *id, const StasisFilesOptions *options,
                              StasisTemplate **ret_template, GCancellable *cancellable,
                              GError **error)
{
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, id, error);
    if (reader == NULL)
        return NULL;
    if (stasis_image_reader_get_info(reader)->disks_refer)
        return referred_disks(reader, error);
    g_autoptr(GArray) blocks = g_array_new(FALSE, FALSE, sizeof(guint));
    guint n_ram = stasis_image_reader_get_n_blocks(reader);
    for (guint i = 0; i < stasis_image_reader_get_n_disks(reader); i++) {
        guint block = n_ram + i;
        g_array_append_val(blocks, block);
    }
    if (blocks->len == 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "image %s has no disk's content in it: its VM had no disk that is written to, "
                    "or it was taken with --disk none",
                    id);
        return NULL;
    }
    StasisTemplate *template = *ret_template = stasis_template_get(
        store, reader, blocks, options->progress, options->progress_data, cancellable, error);
    if (template == NULL)
        return NULL;
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < template->blocks->len; i++) {
        const StasisTemplateBlock *block = g_ptr_array_index(template->blocks, i);
        g_ptr_array_add(paths, g_strconcat("raw:", block->path, NULL));
    }
    return g_steal_pointer(&paths);
}

static gboolean open_job(StasisFilesJob *job, StasisStore *store, const char *id,
                         const StasisFilesOptions *given, GCancellable *cancellable, GError **error)
{
    StasisFilesOptions options = STASIS_FILES_OPTIONS_INIT;
    stasis_own_options(&options, given, sizeof options);
    g_autofree char *full_id = stasis_store_resolve(store, id, error);
    if (full_id == NULL)
        return FALSE;
    if (options.disk != NULL) {
        job->disks = g_ptr_array_new_with_free_func(g_free);
        g_autofree char *path = g_canonicalize_filename(options.disk, NULL);
        g_ptr_array_add(job->disks, g_strconcat("raw:", path, NULL));
    } else {
        job->disks = image_disks(store, full_id, &options, &job->template, cancellable, error);
    }
    job->label = g_strdup_printf("stasis:%s", full_id);
    job->filesystem = given->filesystem;
    job->cancellable = cancellable;
    return job->disks != NULL;
}

static gboolean check_path(const char *path, GError **error)
{
    if (path[0] == '/')
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "%s is no path in the guest; those begin with \"/\"", path);
    return FALSE;
}

static gboolean check_directory(const char *path, GError **error)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "%s is no directory of this host", path);
    return FALSE;
}

/* ---- operations ---- */

static const char *known_type(const char *type)
{
    static const char *const types[] = { "file", "directory", "symlink", "block",
                                         "char", "fifo",      "socket" };
    for (guint i = 0; i < G_N_ELEMENTS(types); i++)
        if (strcmp(types[i], type) == 0)
            return types[i];
    return "file";
}

static StasisFileInfo *read_info(JsonObject *object)
{
    StasisFileInfo *info = g_new0(StasisFileInfo, 1);
    info->name = g_strdup(stasis_json_string_or(object, "name", ""));
    info->type = known_type(stasis_json_string_or(object, "type", ""));
    info->mode = (guint32)stasis_json_uint_or(object, "mode", 0);
    info->uid = (guint32)stasis_json_uint_or(object, "uid", 0);
    info->gid = (guint32)stasis_json_uint_or(object, "gid", 0);
    info->size_bytes = stasis_json_uint_or(object, "size_bytes", 0);
    info->modified_us = (gint64)stasis_json_uint_or(object, "modified_us", 0);
    info->target = g_strdup(stasis_json_string_or(object, "target", NULL));
    return info;
}

static GPtrArray *read_list(const char *text, GError **error)
{
    JsonArray *entries;
    JsonObject *entry;
    g_autofree char *wrapped = g_strdup_printf("{\"files\":%s}", text);
    g_autoptr(JsonObject) root = stasis_json_parse_object(wrapped, -1, error);
    if (root == NULL || !stasis_json_array(root, "files", &entries, error))
        return NULL;
    g_autoptr(GPtrArray) files =
        g_ptr_array_new_with_free_func((GDestroyNotify)stasis_file_info_free);
    for (guint i = 0; i < json_array_get_length(entries); i++) {
        if (!stasis_json_object_at(entries, i, &entry, error))
            return NULL;
        g_ptr_array_add(files, read_info(entry));
    }
    return g_steal_pointer(&files);
}

GPtrArray *stasis_files_list(StasisStore *store, const char *id, const StasisFilesOptions *options,
                             const char *path, GCancellable *cancellable, GError **error)
{
    g_auto(StasisFilesJob) job = { 0 };
    g_autofree char *text = NULL;
    if (!check_path(path, error) || !open_job(&job, store, id, options, cancellable, error) ||
        !stasis_files_run(&job, -1, &text, error, "list", path, NULL))
        return NULL;
    return read_list(text, error);
}

gboolean stasis_files_read(StasisStore *store, const char *id, const StasisFilesOptions *options,
                           const char *const *paths, int fd, GCancellable *cancellable,
                           GError **error)
{
    g_auto(StasisFilesJob) job = { 0 };
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    g_ptr_array_add(words, (char *)"cat");
    for (const char *const *path = paths; *path != NULL; path++) {
        if (!check_path(*path, error))
            return FALSE;
        g_ptr_array_add(words, (char *)*path);
    }
    g_ptr_array_add(words, NULL);
    return open_job(&job, store, id, options, cancellable, error) &&
           stasis_files_run_words(&job, fd, NULL, (const char *const *)words->pdata, error);
}

/* Whoever unpacks may be at it for a moment yet when it was called off; and directories may be ones
 * that nothing can be taken from. */
static void remove_aside(const char *aside)
{
    for (guint tries = 0; tries < ASIDE_TRIES; tries++) {
        stasis_autofd int fd = open(aside, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || (stasis_empty_dir(fd, ASIDE_DEPTH) == 0 && rmdir(aside) == 0))
            return;
        g_usleep(ASIDE_POLL_US);
    }
}

/* What could be unpacked is there, also if something could not: a device node, for who is not root.
 */
static gboolean unpack(const StasisFilesJob *job, const char *path, const char *inner,
                       const char *dest, GError **error)
{
    g_autoptr(GError) failure = NULL, settled = NULL;
    stasis_files_run(job, -1, NULL, &failure, "copy-out", path, inner, NULL);
    if (!g_error_matches(failure, STASIS_ERROR, STASIS_ERROR_CANCELLED) &&
        (g_chmod(inner, 0700) == 0 || stasis_set_errno(&settled, errno, "%s", inner)))
        stasis_files_settle(inner, dest, &settled);
    if (failure == NULL && settled == NULL)
        return TRUE;
    if (failure == NULL)
        failure = g_steal_pointer(&settled);
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* By way of a directory that nobody else gets into. One deeper, as a whole root has a mode, too,
 * which the upper one does not get. */
static gboolean copy_out(const StasisFilesJob *job, const char *path, const char *dest,
                         GError **error)
{
    g_autofree char *aside = g_build_filename(dest, ".stasis-XXXXXX", NULL);
    if (g_mkdtemp_full(aside, 0700) == NULL)
        return stasis_set_errno(error, errno, "%s", dest);
    g_autofree char *inner = g_build_filename(aside, "copy", NULL);
    gboolean ok = g_mkdir(inner, 0700) == 0 || stasis_set_errno(error, errno, "%s", inner);
    if (ok)
        ok = unpack(job, path, inner, dest, error);
    remove_aside(aside);
    return ok;
}

gboolean stasis_files_copy_out(StasisStore *store, const char *id,
                               const StasisFilesOptions *options, const char *path,
                               const char *dest, GCancellable *cancellable, GError **error)
{
    g_auto(StasisFilesJob) job = { 0 };
    g_autofree char *full = g_canonicalize_filename(dest, NULL);
    return check_path(path, error) && check_directory(full, error) &&
           open_job(&job, store, id, options, cancellable, error) &&
           copy_out(&job, path, full, error);
}

gboolean stasis_files_mount(StasisStore *store, const char *id, const StasisFilesOptions *options,
                            const char *dir, GCancellable *cancellable, GError **error)
{
    g_auto(StasisFilesJob) job = { 0 };
    g_autofree char *full = g_canonicalize_filename(dir, NULL);
    return check_directory(full, error) && open_job(&job, store, id, options, cancellable, error) &&
           stasis_files_serve(&job, full, error);
}
