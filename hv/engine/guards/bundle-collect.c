/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What goes into a bundle: the files of images and of all that these need, what is said of the
 * failure, and the kernel and so on that the machine boots.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <stasis/version.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/tree.h"
#include "engine/guards/bundle-work.h"
#include "store/image.h"
#include "vmm/boot-files.h"

static void source_free(gpointer data)
{
    StasisBundleSource *source = data;
    g_clear_pointer(&source->bytes, g_bytes_unref);
    g_free(source->file);
    g_free(source);
}

static void close_fds(GArray *fds)
{
    for (guint i = 0; i < fds->len; i++)
        close(g_array_index(fds, int, i));
    g_array_unref(fds);
}

void stasis_bundle_work_init(StasisBundleWork *work, StasisStore *store, int fd, int direct_fd)
{
    *work =
        (StasisBundleWork){ .store = store,
                            .info = stasis_bundle_info_new(),
                            .sources = g_ptr_array_new_with_free_func(source_free),
                            .dir_fds = g_array_new(FALSE, FALSE, sizeof(int)),
                            .inodes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL),
                            .images = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL),
                            .fd = fd,
                            .direct_fd = direct_fd };
    g_mutex_init(&work->mutex);
}

void stasis_bundle_work_clear(StasisBundleWork *work)
{
    if (work->sources == NULL)
        return;
    g_clear_pointer(&work->sources, g_ptr_array_unref);
    g_clear_pointer(&work->dir_fds, close_fds);
    g_clear_pointer(&work->inodes, g_hash_table_unref);
    g_clear_pointer(&work->images, g_hash_table_unref);
    g_clear_pointer(&work->info, stasis_bundle_info_free);
    g_clear_error(&work->failed);
    g_mutex_clear(&work->mutex);
}

/* ---- files and bytes ---- */

static StasisBundleSource *add_source(StasisBundleWork *work, const char *name, guint64 size,
                                      const char *link)
{
    StasisBundleSource *source = g_new0(StasisBundleSource, 1);
    source->dir_fd = -1;
    source->member = stasis_bundle_member_new(name, size, link);
    g_ptr_array_add(work->info->members, source->member);
    g_ptr_array_add(work->sources, source);
    return source;
}

static void add_bytes(StasisBundleWork *work, const char *name, GBytes *bytes)
{
    gsize n = bytes != NULL ? g_bytes_get_size(bytes) : 0;
    StasisBundleSource *source = add_source(work, name, n, NULL);
    source->bytes = bytes != NULL ? g_bytes_ref(bytes) : g_bytes_new(NULL, 0);
}

static gboolean add_file(StasisBundleWork *work, const char *name, int dir_fd, const char *file,
                         GError **error)
{
    struct stat st;
    if (fstatat(dir_fd, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return stasis_set_errno(error, errno, "%s", name);
    if (!S_ISREG(st.st_mode))
        return stasis_bundle_corrupt(error, "%s is not a regular file", name);
    char *key = g_strdup_printf("%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    const char *first = st.st_nlink > 1 ? g_hash_table_lookup(work->inodes, key) : NULL;
    StasisBundleSource *source = add_source(work, name, (guint64)st.st_size, first);
    source->dir_fd = dir_fd;
    source->file = g_strdup(file);
    source->dev = st.st_dev;
    source->ino = st.st_ino;
    if (first == NULL)
        g_hash_table_insert(work->inodes, key, source->member->name);
    else
        g_free(key);
    return TRUE;
}

static gint by_name(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static gboolean add_image(StasisBundleWork *work, const char *id, GError **error)
{
    g_autofree char *path =
        g_build_filename(stasis_store_get_path(work->store), "images", id, NULL);
    int dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (dir_fd < 0)
        return stasis_set_errno(error, errno, "image %s", id);
    g_array_append_val(work->dir_fds, dir_fd);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    stasis_autofd int list_fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = list_fd >= 0 ? fdopendir(list_fd) : NULL;
    if (dir == NULL)
        return stasis_set_errno(error, errno, "image %s", id);
    stasis_steal_fd(&list_fd);
    for (struct dirent *entry; (entry = stasis_next_entry(dir)) != NULL;)
        if (entry->d_name[0] != '.')
            g_ptr_array_add(names, g_strdup(entry->d_name));
    int errnum = errno;
    closedir(dir);
    if (errnum != 0)
        return stasis_set_errno(error, errnum, "image %s: look into it", id);
    g_ptr_array_sort(names, by_name);
    for (guint i = 0; i < names->len; i++) {
        g_autofree char *name =
            g_strconcat(STASIS_BUNDLE_IMAGES, id, "/", (const char *)names->pdata[i], NULL);
        if (!add_file(work, name, dir_fd, names->pdata[i], error))
            return FALSE;
    }
    return TRUE;
}

/* The kernel and so on, which the machine has by their paths: on another host they are not there,
 * or others. Here one may be gone by now, too, and then is not in the bundle. */
static void add_boot_files(StasisBundleWork *work)
{
    if (work->info->machine == NULL)
        return;
    g_autoptr(GBytes) json = g_bytes_new_static(work->info->machine, strlen(work->info->machine));
    g_autoptr(StasisMachine) machine = stasis_machine_from_json(json, NULL);
    for (guint i = 0; machine != NULL && stasis_boot_files[i] != NULL; i++) {
        g_autofree char *named = stasis_boot_file_path(machine, stasis_boot_files[i]);
        g_autofree char *path = named != NULL ? realpath(named, NULL) : NULL;
        if (path == NULL)
            continue;
        g_autofree char *dir = g_path_get_dirname(path), *base = g_path_get_basename(path);
        g_autofree char *name = g_strconcat(STASIS_BUNDLE_BOOT, stasis_boot_files[i], NULL);
        int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir_fd < 0)
            continue;
        g_array_append_val(work->dir_fds, dir_fd);
        add_file(work, name, dir_fd, base, NULL);
    }
}

/* @ids and all that they need, oldest first. */
static GPtrArray *find_chain(StasisBundleWork *work, const char *const *ids, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (const char *const *wanted = ids; *wanted != NULL; wanted++) {
        g_autofree char *id = g_strdup(*wanted);
        while (id != NULL && !g_hash_table_contains(seen, id)) {
            g_autoptr(StasisImageInfo) info = stasis_store_get_image(work->store, id, error);
            if (info == NULL)
                return NULL;
            g_hash_table_add(seen, g_steal_pointer(&id));
            id = g_strdup(info->parent);
        }
    }
    g_autoptr(GPtrArray) chain = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter iter;
    gpointer id;
    g_hash_table_iter_init(&iter, seen);
    while (g_hash_table_iter_next(&iter, &id, NULL))
        g_ptr_array_add(chain, g_strdup(id));
    g_ptr_array_sort(chain, by_name);
    return g_steal_pointer(&chain);
}

static gboolean describe_images(StasisBundleWork *work, const char *const *ids, GError **error)
{
    const char *newest = NULL;
    for (const char *const *id = ids; *id != NULL; id++) {
        g_autoptr(StasisImageInfo) image = stasis_store_get_image(work->store, *id, error);
        if (image == NULL)
            return FALSE;
        StasisBundleImage *entry = g_new0(StasisBundleImage, 1);
        entry->id = g_strdup(*id);
        entry->created_us = image->created_us;
        g_ptr_array_add(work->info->images, entry);
        g_free(work->info->qemu_version);
        work->info->qemu_version = g_strdup(image->qemu_version);
        newest = *id;
    }
    /* A bundle's head is not encrypted: the machine is in the image. */
    g_autoptr(StasisImageReader) reader =
        newest != NULL ? stasis_image_reader_open(work->store, newest, error) : NULL;
    g_autoptr(GBytes) json =
        reader != NULL ? stasis_image_reader_get_part(reader, "machine.json", error) : NULL;
    if (json != NULL && stasis_image_reader_get_info(reader)->encrypted_with == NULL)
        work->info->machine = g_strndup(g_bytes_get_data(json, NULL), g_bytes_get_size(json));
    return newest == NULL || json != NULL;
}

static void describe_reason(StasisBundleWork *work, const StasisBundleOptions *options)
{
    StasisBundleInfo *info = work->info;
    struct utsname host;
    info->created_us = g_get_real_time();
    info->kind = g_strdup(options->kind != NULL ? options->kind : "asked");
    info->detail = g_strdup(options->detail);
    info->at_us = options->at_us;
    info->domain = g_strdup(options->domain);
    info->by = g_strdup(options->by);
    info->name = g_strdup(options->name);
    info->command = g_strdupv((char **)options->command);
    info->on = g_strdupv((char **)options->on);
    info->stasis_version = g_strdup(STASIS_VERSION);
    info->qemu_version = g_strdup(options->qemu_version);
    info->kernel = uname(&host) == 0 ? g_strdup(host.release) : NULL;
}

static gboolean add_extra(StasisBundleWork *work, const StasisBundleOptions *options,
                          GError **error)
{
    for (guint i = 0; i < options->n_files; i++) {
        const StasisBundleFile *file = &options->files[i];
        if (!stasis_tar_name_is_valid(file->name) ||
            g_str_has_prefix(file->name, STASIS_BUNDLE_STORE) ||
            g_str_has_prefix(file->name, STASIS_BUNDLE_BOOT) ||
            strcmp(file->name, STASIS_BUNDLE_HEAD) == 0) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                        "a bundle can't have a file \"%s\"", file->name);
            return FALSE;
        }
        add_bytes(work, file->name, file->data);
    }
    return TRUE;
}

gboolean stasis_bundle_collect_images(StasisBundleWork *work, const char *const *ids,
                                      GError **error)
{
    g_autoptr(GPtrArray) chain = find_chain(work, ids, error);
    guint n_kept = 0;
    if (chain == NULL)
        return FALSE;
    for (guint i = 0; i < chain->len; i++)
        n_kept += g_hash_table_contains(work->images, chain->pdata[i]);
    if (n_kept < g_hash_table_size(work->images)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "an image that was copied is not needed any more");
        return FALSE;
    }
    for (guint i = 0; i < chain->len; i++) {
        if (g_hash_table_contains(work->images, chain->pdata[i]))
            continue;
        if (!add_image(work, chain->pdata[i], error))
            return FALSE;
        g_hash_table_add(work->images, g_strdup(chain->pdata[i]));
    }
    return TRUE;
}

gboolean stasis_bundle_collect_rest(StasisBundleWork *work, const char *const *ids,
                                    const StasisBundleOptions *options, GError **error)
{
    describe_reason(work, options);
    if (!describe_images(work, ids, error))
        return FALSE;
    add_bytes(work, STASIS_BUNDLE_CONSOLE, options->console);
    add_bytes(work, STASIS_BUNDLE_EVENTS, options->events);
    if (!add_extra(work, options, error))
        return FALSE;
    add_boot_files(work);
    g_autofree char *uuid = g_uuid_string_random();
    g_autofree char *mark = g_strdup_printf("{\n  \"format\": 1,\n  \"uuid\": \"%s\"\n}\n", uuid);
    g_autoptr(GBytes) store_file = g_bytes_new(mark, strlen(mark));
    add_bytes(work, STASIS_BUNDLE_STORE_FILE, store_file);
    return TRUE;
}
