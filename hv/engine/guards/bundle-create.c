/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing a bundle. All sizes are known before the first byte is written, so every member has its
 * place, and several are copied and hashed at once; bundle.json, which has their digests, comes
 * last and lies first. The file gets its name when all of it is on the disk.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <stasis/version.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/sha256.h"
#include "engine/guards/bundle-internal.h"
#include "store/image.h"
#include "vmm/boot-files.h"

#define MAX_TRIES 5 /* images that were folded or deleted under our hands */
#define MAX_THREADS 4
#define END_BLOCKS 2u

/* Where a member's content comes from: bytes, or a file of the store's that is opened when its turn
 * comes (a ring has more files than a process descriptors), below a directory that is held. */
typedef struct {
    StasisBundleMember *member; /* the info's */
    GBytes *bytes;
    int dir_fd; /* the work's */
    char *file;
    guint64 offset; /* of its head in the bundle */
    dev_t dev;
    ino_t ino;
} Source;

typedef struct {
    StasisStore *store;
    const StasisBundleOptions *options;
    StasisBundleInfo *info;
    GPtrArray *sources;
    GArray *dir_fds;    /* one of each image */
    GHashTable *inodes; /* "dev:ino" → name of the first member that has it */
    int fd;
    guint64 end;
    GCancellable *cancellable;
    GMutex mutex; /* guards what follows */
    GError *failed;
    guint64 done_bytes;
} Work;

static void source_free(gpointer data)
{
    Source *source = data;
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

static void work_clear(Work *work)
{
    g_clear_pointer(&work->sources, g_ptr_array_unref);
    g_clear_pointer(&work->dir_fds, close_fds);
    g_clear_pointer(&work->inodes, g_hash_table_unref);
    g_clear_pointer(&work->info, stasis_bundle_info_free);
    g_clear_error(&work->failed);
    stasis_clear_fd(&work->fd);
    g_mutex_clear(&work->mutex);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Work, work_clear)

/* ---- what goes in ---- */

static Source *add_source(Work *work, const char *name, guint64 size, const char *link)
{
    Source *source = g_new0(Source, 1);
    source->dir_fd = -1;
    source->member = stasis_bundle_member_new(name, size, link);
    g_ptr_array_add(work->info->members, source->member);
    g_ptr_array_add(work->sources, source);
    return source;
}

static void add_bytes(Work *work, const char *name, GBytes *bytes)
{
    gsize n = bytes != NULL ? g_bytes_get_size(bytes) : 0;
    Source *source = add_source(work, name, n, NULL);
    source->bytes = bytes != NULL ? g_bytes_ref(bytes) : g_bytes_new(NULL, 0);
}

static gboolean add_file(Work *work, const char *name, int dir_fd, const char *file, GError **error)
{
    struct stat st;
    if (fstatat(dir_fd, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return stasis_set_errno(error, errno, "%s", name);
    if (!S_ISREG(st.st_mode))
        return stasis_bundle_corrupt(error, "%s is not a regular file", name);
    char *key = g_strdup_printf("%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    const char *first = st.st_nlink > 1 ? g_hash_table_lookup(work->inodes, key) : NULL;
    Source *source = add_source(work, name, (guint64)st.st_size, first);
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

static gboolean add_image(Work *work, const char *id, GError **error)
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
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] != '.')
            g_ptr_array_add(names, g_strdup(entry->d_name));
    closedir(dir);
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
static void add_boot_files(Work *work)
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
static GPtrArray *find_chain(Work *work, const char *const *ids, GError **error)
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

static gboolean describe_images(Work *work, const char *const *ids, GError **error)
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

static void describe_reason(Work *work)
{
    const StasisBundleOptions *options = work->options;
    StasisBundleInfo *info = work->info;
    struct utsname host;
    info->created_us = g_get_real_time();
    info->kind = g_strdup(options->kind != NULL ? options->kind : "asked");
    info->detail = g_strdup(options->detail);
    info->at_us = options->at_us;
    info->domain = g_strdup(options->domain);
    info->command = g_strdupv((char **)options->command);
    info->stasis_version = g_strdup(STASIS_VERSION);
    info->qemu_version = g_strdup(options->qemu_version);
    info->kernel = uname(&host) == 0 ? g_strdup(host.release) : NULL;
}

static gboolean add_extra(Work *work, GError **error)
{
    for (guint i = 0; i < work->options->n_files; i++) {
        const StasisBundleFile *file = &work->options->files[i];
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

static gboolean collect(Work *work, const char *const *ids, GError **error)
{
    describe_reason(work);
    if (!describe_images(work, ids, error))
        return FALSE;
    g_autoptr(GPtrArray) chain = find_chain(work, ids, error);
    if (chain == NULL)
        return FALSE;
    add_bytes(work, STASIS_BUNDLE_CONSOLE, work->options->console);
    add_bytes(work, STASIS_BUNDLE_EVENTS, work->options->events);
    if (!add_extra(work, error))
        return FALSE;
    add_boot_files(work);
    g_autofree char *uuid = g_uuid_string_random();
    g_autofree char *mark = g_strdup_printf("{\n  \"format\": 1,\n  \"uuid\": \"%s\"\n}\n", uuid);
    g_autoptr(GBytes) store_file = g_bytes_new(mark, strlen(mark));
    add_bytes(work, STASIS_BUNDLE_STORE_FILE, store_file);
    for (guint i = 0; i < chain->len; i++)
        if (!add_image(work, chain->pdata[i], error))
            return FALSE;
    return TRUE;
}

/* ---- where it goes ---- */

static guint64 room_for(guint64 size)
{
    return STASIS_TAR_BLOCK + size + stasis_tar_padding(size);
}

static void lay_out(Work *work)
{
    g_autofree char *json = stasis_bundle_info_to_json(work->info);
    work->end = room_for(strlen(json));
    for (guint i = 0; i < work->sources->len; i++) {
        Source *source = work->sources->pdata[i];
        source->offset = work->end;
        work->end += room_for(source->member->size_bytes);
    }
    work->end += END_BLOCKS * STASIS_TAR_BLOCK;
}

static gboolean write_head(Work *work, const char *name, guint64 size, const char *link,
                           guint64 offset, GError **error)
{
    StasisTarEntry entry = { .type = link != NULL ? STASIS_TAR_LINK : STASIS_TAR_FILE,
                             .mode = 0600,
                             .size = size,
                             .mtime_s = (guint64)(work->info->created_us / G_USEC_PER_SEC) };
    guint8 block[STASIS_TAR_BLOCK];
    g_strlcpy(entry.name, name, sizeof entry.name);
    g_strlcpy(entry.link, link != NULL ? link : "", sizeof entry.link);
    if (!stasis_tar_format(&entry, block)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "a tar can't have a file \"%s\"",
                    name);
        return FALSE;
    }
    int r = stasis_pwrite_all(work->fd, block, sizeof block, (off_t)offset);
    return r == 0 || stasis_set_errno(error, -r, "write the head of %s", name);
}

static gboolean count(Work *work, guint64 n, GError **error)
{
    g_mutex_lock(&work->mutex);
    work->done_bytes += n;
    gboolean others_failed = work->failed != NULL;
    g_mutex_unlock(&work->mutex);
    if (work->cancellable != NULL && g_cancellable_is_cancelled(work->cancellable))
        return stasis_set_cancelled(error);
    return !others_failed;
}

static gboolean copy_bytes(Work *work, Source *source, StasisSha256 *sha, guint64 at,
                           GError **error)
{
    gsize n;
    const void *bytes = g_bytes_get_data(source->bytes, &n);
    stasis_sha256_add(sha, bytes, n);
    int r = n > 0 ? stasis_pwrite_all(work->fd, bytes, n, (off_t)at) : 0;
    return r == 0 || stasis_set_errno(error, -r, "write %s", source->member->name);
}

static gboolean copy_file(Work *work, Source *source, StasisSha256 *sha, guint64 at, GError **error)
{
    const char *name = source->member->name;
    stasis_autofd int fd = openat(source->dir_fd, source->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return stasis_set_errno(error, errno, "%s", name);
    if (st.st_ino != source->ino || (guint64)st.st_size != source->member->size_bytes)
        return stasis_set_errno(error, ENOENT, "%s: it is another file now", name);
    g_autofree guint8 *piece = g_malloc(STASIS_BUNDLE_PIECE);
    for (guint64 done = 0; done < source->member->size_bytes;) {
        gsize n = (gsize)MIN(STASIS_BUNDLE_PIECE, source->member->size_bytes - done);
        int r = stasis_pread_all(fd, piece, n, (off_t)done);
        if (r == 0) {
            stasis_sha256_add(sha, piece, n);
            r = stasis_pwrite_all(work->fd, piece, n, (off_t)(at + done));
        }
        if (r < 0)
            return stasis_set_errno(error, -r, "copy %s", name);
        /* Begun now, so that the sync at the end finds little to do. */
        sync_file_range(work->fd, (off64_t)(at + done), (off64_t)n, SYNC_FILE_RANGE_WRITE);
        done += n;
        if (!count(work, n, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean put(Work *work, Source *source, GError **error)
{
    StasisBundleMember *member = source->member;
    if (!write_head(work, member->name, member->size_bytes, member->link, source->offset, error))
        return FALSE;
    if (member->link != NULL)
        return TRUE;
    g_autoptr(StasisSha256) sha = stasis_sha256_new();
    guint64 at = source->offset + STASIS_TAR_BLOCK;
    gboolean ok = source->bytes != NULL ? copy_bytes(work, source, sha, at, error)
                                        : copy_file(work, source, sha, at, error);
    member->sha256 = g_malloc(STASIS_SHA256_HEX);
    stasis_sha256_finish(sha, member->sha256);
    return ok;
}

static void put_one(gpointer data, gpointer user_data)
{
    Work *work = user_data;
    g_autoptr(GError) local = NULL;
    if (put(work, data, &local) || local == NULL)
        return;
    g_mutex_lock(&work->mutex);
    if (work->failed == NULL)
        work->failed = g_steal_pointer(&local);
    g_mutex_unlock(&work->mutex);
}

static gint largest_first(gconstpointer a, gconstpointer b, gpointer unused)
{
    guint64 x = ((const Source *)a)->member->size_bytes,
            y = ((const Source *)b)->member->size_bytes;
    return x < y ? 1 : x > y ? -1 : 0;
}

static gboolean put_all(Work *work, GError **error)
{
    if (ftruncate(work->fd, (off_t)work->end) < 0)
        return stasis_set_errno(error, errno, "make room for the bundle");
    GThreadPool *pool =
        g_thread_pool_new(put_one, work, (gint)MIN(g_get_num_processors(), MAX_THREADS),
                          /* exclusive= */ FALSE, error);
    if (pool == NULL)
        return FALSE;
    g_thread_pool_set_sort_function(pool, largest_first, NULL);
    for (guint i = 0; i < work->sources->len; i++)
        g_thread_pool_push(pool, work->sources->pdata[i], NULL);
    g_thread_pool_free(pool, /* immediate= */ FALSE, /* wait_= */ TRUE);
    if (work->failed == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&work->failed));
    return FALSE;
}

static gboolean put_json(Work *work, GError **error)
{
    g_autofree char *json = stasis_bundle_info_to_json(work->info);
    gsize n = strlen(json);
    if (!write_head(work, STASIS_BUNDLE_HEAD, n, NULL, 0, error))
        return FALSE;
    int r = stasis_pwrite_all(work->fd, json, n, STASIS_TAR_BLOCK);
    return r == 0 || stasis_set_errno(error, -r, "write " STASIS_BUNDLE_HEAD);
}

/* ---- together ---- */

static gboolean try_create(StasisStore *store, const char *const *ids, int fd,
                           const StasisBundleOptions *options, GCancellable *cancellable,
                           GError **error)
{
    g_auto(Work) work = { .store = store,
                          .options = options,
                          .cancellable = cancellable,
                          .info = stasis_bundle_info_new(),
                          .sources = g_ptr_array_new_with_free_func(source_free),
                          .dir_fds = g_array_new(FALSE, FALSE, sizeof(int)),
                          .inodes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL),
                          .fd = fcntl(fd, F_DUPFD_CLOEXEC, 0) };
    g_mutex_init(&work.mutex);
    if (work.fd < 0)
        return stasis_set_errno(error, errno, "the bundle's file");
    if (!collect(&work, ids, error))
        return FALSE;
    lay_out(&work);
    return put_all(&work, error) && put_json(&work, error);
}

static gboolean give_name(int dir_fd, const char *partial, int fd, const char *base, GError **error)
{
    if (!stasis_fault(STASIS_FAULT_BUNDLE_WRITTEN, error))
        return FALSE;
    if (fsync(fd) < 0)
        return stasis_set_errno(error, errno, "sync the bundle");
    if (renameat2(dir_fd, partial, dir_fd, base, RENAME_NOREPLACE) < 0)
        return stasis_set_errno(error, errno, "name the bundle %s", base);
    if (fsync(dir_fd) < 0)
        return stasis_set_errno(error, errno, "sync the bundle's directory");
    return TRUE;
}

gboolean stasis_bundle_create(StasisStore *store, const char *const *ids, const char *path,
                              const StasisBundleOptions *options, GCancellable *cancellable,
                              GError **error)
{
    g_autofree char *dir = g_path_get_dirname(path), *base = g_path_get_basename(path);
    g_autofree char *partial = g_strdup_printf(".%s.%08x", base, g_random_int());
    stasis_autofd int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return stasis_set_errno(error, errno, "bundle %s: open %s", path, dir);
    if (faccessat(dir_fd, base, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return stasis_set_errno(error, EEXIST, "bundle %s", path);
    stasis_autofd int fd = openat(dir_fd, partial, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return stasis_set_errno(error, errno, "bundle %s", path);
    gboolean ok = FALSE;
    for (guint tries = 1; !ok; tries++) {
        g_autoptr(GError) local = NULL;
        ok = ftruncate(fd, 0) == 0 && try_create(store, ids, fd, options, cancellable, &local);
        gboolean moved = local != NULL && g_error_matches(local, STASIS_ERROR, STASIS_ERROR_FAILED);
        if (ok || (moved && tries < MAX_TRIES))
            continue;
        g_propagate_error(error, g_steal_pointer(&local));
        break;
    }
    ok = ok && give_name(dir_fd, partial, fd, base, error);
    if (!ok) {
        unlinkat(dir_fd, partial, 0);
        g_prefix_error(error, "bundle %s: ", path);
    }
    return ok;
}
