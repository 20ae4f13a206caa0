/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing a bundle's file. All sizes are known before a member is written, so every member has its
 * place, and several are copied and hashed at once. Whole blocks go past the page cache: through it
 * the sync at the end waits for all of them, and they would take the memory that the guest works
 * with. What is left at the ends of members, and small ones, goes through it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/fd.h"
#include "base/io.h"
#include "engine/guards/bundle-work.h"

#define MAX_THREADS 4
#define END_BLOCKS 2u

/* ---- where it goes ---- */

static guint64 room_for(guint64 size)
{
    return STASIS_TAR_BLOCK + size + stasis_tar_padding(size);
}

/* The file has all its blocks before they are written: several threads may write them at once. */
static gboolean make_room(int fd, guint64 size, GError **error)
{
    if (fallocate(fd, 0, 0, (off_t)size) == 0)
        return TRUE;
    if (errno != EOPNOTSUPP || ftruncate(fd, (off_t)size) < 0)
        return stasis_set_errno(error, errno, "make room for the bundle");
    return TRUE;
}

static gboolean lay_out(StasisBundleWork *work, GError **error)
{
    if (work->end == 0) {
        g_autofree char *json = work->room == 0 ? stasis_bundle_info_to_json(work->info) : NULL;
        if (json != NULL)
            work->room = strlen(json);
        work->end = room_for(work->room);
    }
    for (guint i = work->n_written; i < work->sources->len; i++) {
        StasisBundleSource *source = work->sources->pdata[i];
        source->offset = work->end;
        work->end += room_for(source->member->size_bytes);
    }
    return make_room(work->fd, work->end + END_BLOCKS * STASIS_TAR_BLOCK, error);
}

static gboolean write_head(StasisBundleWork *work, const char *name, guint64 size, const char *link,
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

static gboolean may_go_on(StasisBundleWork *work, GError **error)
{
    g_mutex_lock(&work->mutex);
    gboolean others_failed = work->failed != NULL;
    g_mutex_unlock(&work->mutex);
    if (work->cancellable != NULL && g_cancellable_is_cancelled(work->cancellable))
        return stasis_set_cancelled(error);
    return !others_failed;
}

static gboolean copy_bytes(StasisBundleWork *work, StasisBundleSource *source, StasisHash *sha,
                           guint64 at, GError **error)
{
    gsize n;
    const void *bytes = g_bytes_get_data(source->bytes, &n);
    stasis_hash_add(sha, bytes, n);
    int r = n > 0 ? stasis_pwrite_all(work->fd, bytes, n, (off_t)at) : 0;
    return r == 0 || stasis_set_errno(error, -r, "write %s", source->member->name);
}

/* Up to the next whole block, then whole blocks, then what is left. */
static gsize piece_at(guint64 to, guint64 left, gsize block)
{
    gsize over = to % block;
    if (over != 0)
        return (gsize)MIN(block - over, left);
    gsize n = (gsize)MIN(STASIS_BUNDLE_PIECE, left);
    return n >= block ? n - n % block : n;
}

/* A disk that has larger blocks than ours gets them through the page cache. */
static int write_piece(StasisBundleWork *work, const guint8 *piece, gsize n, guint64 to,
                       gsize block)
{
    int r = -EINVAL;
    if (work->direct_fd >= 0 && to % block == 0 && n % block == 0)
        r = stasis_pwrite_all(work->direct_fd, piece, n, (off_t)to);
    return r == -EINVAL ? stasis_pwrite_all(work->fd, piece, n, (off_t)to) : r;
}

static void free_piece(guint8 **piece)
{
    free(*piece);
}

static gboolean copy_file(StasisBundleWork *work, StasisBundleSource *source, StasisHash *sha,
                          guint64 at, GError **error)
{
    const char *name = source->member->name;
    stasis_autofd int fd = openat(source->dir_fd, source->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return stasis_set_errno(error, errno, "%s", name);
    if (st.st_ino != source->ino || (guint64)st.st_size != source->member->size_bytes)
        return stasis_set_errno(error, ENOENT, "%s: it is another file now", name);
    /* Never a part of a page past the page cache: the rest may be in it. */
    gsize block = (gsize)sysconf(_SC_PAGESIZE), n;
    __attribute__((cleanup(free_piece))) guint8 *piece = aligned_alloc(block, STASIS_BUNDLE_PIECE);
    if (piece == NULL)
        return stasis_set_errno(error, ENOMEM, "copy %s", name);
    for (guint64 done = 0; done < source->member->size_bytes; done += n) {
        n = piece_at(at + done, source->member->size_bytes - done, block);
        int r = stasis_pread_all(fd, piece, n, (off_t)done);
        if (r == 0) {
            stasis_hash_add(sha, piece, n);
            r = write_piece(work, piece, n, at + done, block);
        }
        if (r < 0)
            return stasis_set_errno(error, -r, "copy %s", name);
        if (!may_go_on(work, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean put(StasisBundleWork *work, StasisBundleSource *source, GError **error)
{
    StasisBundleMember *member = source->member;
    if (!write_head(work, member->name, member->size_bytes, member->link, source->offset, error))
        return FALSE;
    if (member->link != NULL)
        return TRUE;
    g_autoptr(StasisHash) sha = stasis_hash_new();
    guint64 at = source->offset + STASIS_TAR_BLOCK;
    gboolean ok = source->bytes != NULL ? copy_bytes(work, source, sha, at, error)
                                        : copy_file(work, source, sha, at, error);
    member->sha256 = g_malloc0(STASIS_DIGEST_HEX);
    return ok && stasis_hash_end_hex(sha, member->sha256, error);
}

static void put_one(gpointer data, gpointer user_data)
{
    StasisBundleWork *work = user_data;
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
    guint64 x = ((const StasisBundleSource *)a)->member->size_bytes,
            y = ((const StasisBundleSource *)b)->member->size_bytes;
    return x < y ? 1 : x > y ? -1 : 0;
}

gboolean stasis_bundle_write(StasisBundleWork *work, GError **error)
{
    if (!lay_out(work, error))
        return FALSE;
    GThreadPool *pool =
        g_thread_pool_new(put_one, work, (gint)MIN(g_get_num_processors(), MAX_THREADS),
                          /* exclusive= */ FALSE, error);
    if (pool == NULL)
        return FALSE;
    g_thread_pool_set_sort_function(pool, largest_first, NULL);
    for (guint i = work->n_written; i < work->sources->len; i++)
        g_thread_pool_push(pool, work->sources->pdata[i], NULL);
    g_thread_pool_free(pool, /* immediate= */ FALSE, /* wait_= */ TRUE);
    work->n_written = work->sources->len;
    if (work->failed == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&work->failed));
    return FALSE;
}

gboolean stasis_bundle_write_json(StasisBundleWork *work, GError **error)
{
    g_autofree char *json = stasis_bundle_info_to_json(work->info);
    gsize n = strlen(json);
    if (n > work->room) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    STASIS_BUNDLE_HEAD " is longer than its room");
        return FALSE;
    }
    g_autofree char *padded = g_malloc(work->room);
    memcpy(padded, json, n);
    memset(padded + n, '\n', work->room - n);
    if (!write_head(work, STASIS_BUNDLE_HEAD, work->room, NULL, 0, error))
        return FALSE;
    int r = stasis_pwrite_all(work->fd, padded, work->room, STASIS_TAR_BLOCK);
    return r == 0 || stasis_set_errno(error, -r, "write " STASIS_BUNDLE_HEAD);
}
