/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a bundle. Opening walks the heads of the tar and compares them with the list in
 * bundle.json, one by one and in order; from then on each member's place is known, and what it
 * holds is compared with its digest whenever it is read.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>

#include "base/digest.h"
#include "base/fd.h"
#include "base/io.h"
#include "engine/guards/bundle-internal.h"
#include "store/image.h"
#include "vmm/boot-files.h"

struct _StasisBundle {
    int fd;
    guint64 size;
    StasisBundleInfo *info;
    GArray *offsets; /* of guint64: where each member's content begins */
};

typedef struct {
    StasisProgressFunc func;
    gpointer data;
    GCancellable *cancellable;
    StasisProgress progress;
    gint64 reported_us;
} Task;

#define REPORT_INTERVAL_US 50000

void stasis_bundle_free(StasisBundle *bundle)
{
    if (bundle == NULL)
        return;
    stasis_clear_fd(&bundle->fd);
    g_clear_pointer(&bundle->info, stasis_bundle_info_free);
    g_array_unref(bundle->offsets);
    g_free(bundle);
}

const StasisBundleInfo *stasis_bundle_get_info(StasisBundle *bundle)
{
    return bundle->info;
}

/* ---- opening ---- */

static gboolean read_head(StasisBundle *bundle, guint64 at, StasisTarEntry *ret, GError **error)
{
    guint8 block[STASIS_TAR_BLOCK];
    int r = at <= bundle->size && bundle->size - at >= sizeof block
                ? stasis_pread_all(bundle->fd, block, sizeof block, (off_t)at)
                : -ENODATA;
    if (r < 0 && r != -ENODATA)
        return stasis_set_errno(error, -r, "read at %" G_GUINT64_FORMAT, at);
    if (at == 0 && (r < 0 || !stasis_tar_parse(block, ret)))
        return stasis_bundle_corrupt(
            error, "this is no bundle; guard, ci-run and bundle-export write them");
    if (r < 0 || !stasis_tar_parse(block, ret))
        return stasis_bundle_corrupt(error, "no head of a tar's member at %" G_GUINT64_FORMAT, at);
    if (ret->size > bundle->size - at - STASIS_TAR_BLOCK)
        return stasis_bundle_corrupt(error, "%.100s ends behind the file's end", ret->name);
    return TRUE;
}

static guint64 behind(guint64 at, guint64 size)
{
    return at + STASIS_TAR_BLOCK + size + stasis_tar_padding(size);
}

static gboolean read_json(StasisBundle *bundle, guint64 *ret_end, GError **error)
{
    StasisTarEntry head;
    if (!read_head(bundle, 0, &head, error))
        return FALSE;
    if (strcmp(head.name, STASIS_BUNDLE_HEAD) != 0 || head.type != STASIS_TAR_FILE)
        return stasis_bundle_corrupt(error, "it does not begin with " STASIS_BUNDLE_HEAD);
    if (head.size > STASIS_BUNDLE_MAX_HEAD_BYTES)
        return stasis_bundle_corrupt(error, STASIS_BUNDLE_HEAD " is larger than %u bytes",
                                     STASIS_BUNDLE_MAX_HEAD_BYTES);
    g_autofree char *text = g_malloc(head.size + 1);
    int r = stasis_pread_all(bundle->fd, text, head.size, STASIS_TAR_BLOCK);
    if (r < 0)
        return stasis_set_errno(error, -r, "read " STASIS_BUNDLE_HEAD);
    text[head.size] = '\0';
    bundle->info = stasis_bundle_info_parse(text, head.size, error);
    if (bundle->info == NULL) {
        g_prefix_error(error, STASIS_BUNDLE_HEAD ": ");
        return FALSE;
    }
    bundle->info->size_bytes = bundle->size;
    *ret_end = behind(0, head.size);
    return TRUE;
}

static gboolean walk(StasisBundle *bundle, guint64 at, GError **error)
{
    for (guint i = 0; i < bundle->info->members->len; i++) {
        const StasisBundleMember *member = bundle->info->members->pdata[i];
        StasisTarEntry head;
        if (!read_head(bundle, at, &head, error))
            return FALSE;
        StasisTarType type = member->link != NULL ? STASIS_TAR_LINK : STASIS_TAR_FILE;
        if (head.type != type || strcmp(head.name, member->name) != 0 ||
            head.size != member->size_bytes ||
            (member->link != NULL && strcmp(head.link, member->link) != 0))
            return stasis_bundle_corrupt(
                error, "%.100s at %" G_GUINT64_FORMAT " is not the %.100s that is listed",
                head.name, at, member->name);
        guint64 content = at + STASIS_TAR_BLOCK;
        g_array_append_val(bundle->offsets, content);
        at = behind(at, head.size);
    }
    guint8 end[STASIS_TAR_BLOCK];
    if (at > bundle->size || bundle->size - at < 2 * sizeof end ||
        stasis_pread_all(bundle->fd, end, sizeof end, (off_t)at) < 0 || !stasis_tar_is_end(end))
        return stasis_bundle_corrupt(error, "no end behind the members that are listed");
    return TRUE;
}

StasisBundle *stasis_bundle_open(const char *path, GError **error)
{
    g_autoptr(StasisBundle) bundle = g_new0(StasisBundle, 1);
    bundle->offsets = g_array_new(FALSE, FALSE, sizeof(guint64));
    bundle->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    guint64 at = 0;
    if (bundle->fd < 0 || fstat(bundle->fd, &st) < 0) {
        if (errno == ENOENT)
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "bundle %s: no such file",
                        path);
        else
            stasis_set_errno(error, errno, "bundle %s", path);
        return NULL;
    }
    bundle->size = S_ISREG(st.st_mode) ? (guint64)st.st_size : 0;
    if (!read_json(bundle, &at, error) || !walk(bundle, at, error)) {
        g_prefix_error(error, "bundle %s: ", path);
        return NULL;
    }
    return g_steal_pointer(&bundle);
}

/* ---- what members hold ---- */

static gboolean advance(Task *task, guint64 n, GError **error)
{
    task->progress.done_bytes += n;
    gint64 now = g_get_monotonic_time();
    if (task->func != NULL && now - task->reported_us >= REPORT_INTERVAL_US) {
        task->reported_us = now;
        task->func(&task->progress, task->data);
    }
    if (task->cancellable != NULL && g_cancellable_is_cancelled(task->cancellable))
        return stasis_set_cancelled(error);
    return TRUE;
}

/* Read member @i and compare it with its digest, writing what is read to @to (or -1). */
static gboolean pass(StasisBundle *bundle, guint i, int to, Task *task, GError **error)
{
    const StasisBundleMember *member = bundle->info->members->pdata[i];
    guint64 at = g_array_index(bundle->offsets, guint64, i);
    g_autoptr(StasisHash) sha = stasis_hash_new();
    g_autofree guint8 *piece = g_malloc(STASIS_BUNDLE_PIECE);
    for (guint64 done = 0; done < member->size_bytes;) {
        gsize n = (gsize)MIN(STASIS_BUNDLE_PIECE, member->size_bytes - done);
        int r = stasis_pread_all(bundle->fd, piece, n, (off_t)(at + done));
        if (r == 0 && to >= 0)
            r = stasis_pwrite_all(to, piece, n, (off_t)done);
        if (r < 0)
            return stasis_set_errno(error, -r, "%s", member->name);
        stasis_hash_add(sha, piece, n);
        done += n;
        if (!advance(task, n, error))
            return FALSE;
    }
    char hex[STASIS_DIGEST_HEX];
    if (!stasis_hash_end_hex(sha, hex, error))
        return FALSE;
    return strcmp(hex, member->sha256) == 0 ||
           stasis_bundle_corrupt(error, "%s: its SHA-256 is %.16s…, listed is %.16s…", member->name,
                                 hex, member->sha256);
}

gboolean stasis_bundle_verify(StasisBundle *bundle, StasisProgressFunc progress, gpointer user_data,
                              GCancellable *cancellable, GError **error)
{
    Task task = { .func = progress,
                  .data = user_data,
                  .cancellable = cancellable,
                  .progress = { .phase = "verify", .total_bytes = bundle->size } };
    for (guint i = 0; i < bundle->info->members->len; i++) {
        const StasisBundleMember *member = bundle->info->members->pdata[i];
        if (member->link == NULL && !pass(bundle, i, -1, &task, error))
            return FALSE;
    }
    return TRUE;
}

/* The member that is a file @name, or -1 with STASIS_ERROR_NOT_FOUND. */
static gint find(StasisBundle *bundle, const char *name, GError **error)
{
    for (guint i = 0; i < bundle->info->members->len; i++) {
        const StasisBundleMember *member = bundle->info->members->pdata[i];
        if (strcmp(member->name, name) == 0 && member->link == NULL)
            return (gint)i;
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "the bundle has no %s", name);
    return -1;
}

GBytes *stasis_bundle_read(StasisBundle *bundle, const char *name, GError **error)
{
    Task task = { .func = NULL };
    gint i = find(bundle, name, error);
    if (i < 0)
        return NULL;
    const StasisBundleMember *member = bundle->info->members->pdata[i];
    if (member->size_bytes > STASIS_BUNDLE_MAX_READ) {
        stasis_bundle_corrupt(error, "%s is larger than %u bytes", name, STASIS_BUNDLE_MAX_READ);
        return NULL;
    }
    if (!pass(bundle, (guint)i, -1, &task, error))
        return NULL;
    g_autofree guint8 *data = g_malloc(member->size_bytes + 1);
    int r = stasis_pread_all(bundle->fd, data, member->size_bytes,
                             (off_t)g_array_index(bundle->offsets, guint64, i));
    if (r < 0) {
        stasis_set_errno(error, -r, "%s", name);
        return NULL;
    }
    return g_bytes_new_take(g_steal_pointer(&data), member->size_bytes);
}

/* ---- into files ---- */

static gboolean extract(StasisBundle *bundle, guint i, const char *path, GError **error)
{
    Task task = { .func = NULL };
    stasis_autofd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return stasis_set_errno(error, errno, "make %s", path);
    return pass(bundle, i, fd, &task, error);
}

gboolean stasis_bundle_extract_file(StasisBundle *bundle, const char *name, const char *path,
                                    GError **error)
{
    gint i = find(bundle, name, error);
    return i >= 0 && extract(bundle, (guint)i, path, error);
}

gboolean stasis_bundle_extract_boot_files(StasisBundle *bundle, const char *dir, gboolean *ret_any,
                                          GError **error)
{
    gboolean any = FALSE;
    if (mkdir(dir, 0700) < 0)
        return stasis_set_errno(error, errno, "make %s", dir);
    for (guint n = 0; stasis_boot_files[n] != NULL; n++) {
        g_autofree char *name = g_strconcat(STASIS_BUNDLE_BOOT, stasis_boot_files[n], NULL);
        g_autofree char *path = g_build_filename(dir, stasis_boot_files[n], NULL);
        gint i = find(bundle, name, NULL);
        if (i >= 0 && !extract(bundle, (guint)i, path, error))
            return FALSE;
        any = any || i >= 0;
    }
    *ret_any = any;
    return TRUE;
}

/* ---- into a store ---- */

static gboolean take_file(StasisBundle *bundle, guint i, StasisImageIntake *intake, Task *task,
                          GError **error)
{
    const StasisBundleMember *member = bundle->info->members->pdata[i];
    char id[27], from_id[27];
    const char *file, *from_file;
    if (!stasis_bundle_split_name(member->name, id, &file))
        return TRUE; /* nothing of an image's */
    if (member->link != NULL) {
        if (!stasis_bundle_split_name(member->link, from_id, &from_file))
            return stasis_bundle_corrupt(error, "%s is a link to %.100s", member->name,
                                         member->link);
        return stasis_image_intake_link(intake, id, file, from_id, from_file, error);
    }
    stasis_autofd int fd = stasis_image_intake_create(intake, id, file, error);
    if (fd < 0 || !pass(bundle, i, fd, task, error))
        return FALSE;
    return fdatasync(fd) == 0 || stasis_set_errno(error, errno, "%s: sync", member->name);
}

char **stasis_bundle_import(StasisBundle *bundle, StasisStore *store, StasisProgressFunc progress,
                            gpointer user_data, GCancellable *cancellable, GError **error)
{
    Task task = { .func = progress,
                  .data = user_data,
                  .cancellable = cancellable,
                  .progress = { .phase = "import", .total_bytes = bundle->size } };
    g_autoptr(StasisImageIntake) intake = stasis_image_intake_new(store);
    for (guint i = 0; i < bundle->info->members->len; i++)
        if (!take_file(bundle, i, intake, &task, error))
            return NULL;
    return stasis_image_intake_commit(intake, cancellable, error);
}

StasisStore *stasis_bundle_extract(StasisBundle *bundle, const char *path,
                                   GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisStore) store = stasis_store_open(path, STASIS_STORE_CREATE, error);
    if (store == NULL)
        return NULL;
    g_auto(GStrv) ids = stasis_bundle_import(bundle, store, NULL, NULL, cancellable, error);
    return ids != NULL ? g_steal_pointer(&store) : NULL;
}
