/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rebasing: one image gets another of its ancestors as its parent, or none, and takes over what lay
 * between. Its ID, its content and its identity (what its children know it by) stay; so its
 * children are right as they are, and each rebase is a step from one whole store to another.
 * Deleting and folding are made of such steps.
 *
 * The new directory is prepared in tmp/, without the writer lock, from files that are linked into
 * it before they are looked into: so they can't vanish, whatever others delete meanwhile. And
 * because what an image holds never changes, it does not matter what became of the images between;
 * only the image and its new parent must still be there at the end. There, under the lock, the
 * manifest is written, everything is synced, and one renameat2(RENAME_EXCHANGE) puts the new
 * directory in the place of the old. A reader that has the old files open keeps them; one that was
 * just opening them looks again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"
#include "store/seal-manifest.h"

#define COPY_BYTES ((size_t)4 << 20)

typedef struct {
    StasisStore *store;
    const char *id, *base;
    const StasisGraph *going;
    StasisTask *task;
    StasisWork work;
    StasisMerge *merge;
    GArray *fds; /* of sources that could not be linked; else -1 */
} Rebase;

static void rebase_clear(Rebase *rebase)
{
    stasis_work_close(&rebase->work);
    stasis_merge_free(rebase->merge);
    for (guint i = 0; i < rebase->fds->len; i++)
        stasis_close_fdp(&g_array_index(rebase->fds, int, i));
    g_array_unref(rebase->fds);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Rebase, rebase_clear)

/* ---- taking files over ---- */

static void source_name(guint number, char ret[24])
{
    snprintf(ret, 24, "source.%u", number);
}

static gboolean can_do_without_link(int errnum)
{
    return errnum == EMLINK || errnum == EPERM || errnum == EOPNOTSUPP || errnum == ENOSYS ||
           errnum == EXDEV;
}

/* [@offset, +@len) of @from to @to_offset of @to, by the kernel alone where it can. */
static int copy_range(int from, guint64 offset, int to, guint64 to_offset, size_t len)
{
    off_t in = (off_t)offset, out = (off_t)to_offset;
    while (len > 0) {
        ssize_t n = copy_file_range(from, &in, to, &out, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EXDEV && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
            return -errno;
        if (n <= 0)
            break;
        len -= (size_t)n;
    }
    if (len == 0)
        return 0;
    g_autofree guint8 *buffer = g_malloc(len);
    int r = stasis_pread_all(from, buffer, len, in);
    return r < 0 ? r : stasis_pwrite_all(to, buffer, len, out);
}

static gboolean take_part(Rebase *rebase, const StasisLayer *layer, const StasisFileRef *part,
                          GError **error)
{
    if (linkat(layer->dir_fd, part->name, rebase->work.dir_fd, part->name, 0) == 0)
        return TRUE;
    if (!can_do_without_link(errno))
        return stasis_set_errno(error, errno, "%s: link", part->name);
    stasis_autofd int from = stasis_store_open_file(layer->dir_fd, part->name, NULL, error);
    stasis_autofd int to =
        from < 0 ? -1 : stasis_store_create_file(rebase->work.dir_fd, part->name, error);
    if (to < 0)
        return FALSE;
    int r = copy_range(from, 0, to, 0, part->size);
    if (r == 0 && fdatasync(to) < 0)
        r = -errno;
    return r == 0 || stasis_set_errno(error, -r, "%s: copy", part->name);
}

/* The sources from @first on are @layer's: hold on to each. */
static gboolean take_sources(Rebase *rebase, const StasisLayer *layer, guint first,
                             const guint numbers[STASIS_MAX_DATA_FILES], GError **error)
{
    for (guint i = 0; i < layer->manifest->n_data; i++) {
        if (numbers[i] < first || numbers[i] != rebase->fds->len)
            continue;
        char name[24];
        int fd = -1;
        source_name(numbers[i], name);
        const char *old = stasis_data_file_name(i);
        if (linkat(layer->dir_fd, old, rebase->work.dir_fd, name, 0) < 0) {
            if (!can_do_without_link(errno))
                return stasis_set_errno(error, errno, "%s: link", old);
            fd = fcntl(layer->data_fds[i], F_DUPFD_CLOEXEC, 0);
            if (fd < 0)
                return stasis_set_errno(error, errno, "%s: hold on to it", old);
            stasis_merge_must_copy(rebase->merge, numbers[i]);
        }
        g_array_append_val(rebase->fds, fd);
    }
    return TRUE;
}

static gboolean take_layer(Rebase *rebase, const StasisLayer *layer, gboolean newest,
                           GError **error)
{
    const StasisNode *node =
        rebase->going != NULL ? stasis_graph_find(rebase->going, layer->manifest->info->id) : NULL;
    guint first = rebase->merge->sources->len, numbers[STASIS_MAX_DATA_FILES];
    gboolean goes = newest || (node != NULL && node->going);
    if (!stasis_merge_add(rebase->merge, layer, goes, numbers, error) ||
        !take_sources(rebase, layer, first, numbers, error))
        return FALSE;
    for (guint i = 0; newest && i < layer->manifest->parts->len; i++)
        if (!take_part(rebase, layer, g_ptr_array_index(layer->manifest->parts, i), error))
            return FALSE;
    return TRUE;
}

/* One walk from the image down to its new parent; *ret_moved when it failed because an image of
 * the way was rewritten or deleted meanwhile. */
static gboolean walk(Rebase *rebase, gboolean *ret_moved, GError **error)
{
    g_autoptr(StasisLayer) layer = stasis_layer_open(rebase->store, rebase->id, error);
    if (layer == NULL)
        return FALSE;
    StasisSeals seals; /* those that the end needs, looked for before anything is done */
    if (!stasis_layer_admit(rebase->store, layer, error) ||
        !stasis_seals_get(rebase->store, layer->manifest->seal_key, &seals, error))
        return FALSE;
    rebase->merge = stasis_merge_new(layer->manifest);
    for (guint n = 0;; n++) {
        const StasisManifest *manifest = layer->manifest;
        g_autoptr(StasisLayer) parent = NULL;
        gboolean ok = take_layer(rebase, layer, n == 0, error);
        if (ok && g_strcmp0(manifest->info->parent, rebase->base) == 0)
            return TRUE;
        if (ok && manifest->info->parent == NULL) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "%s is no ancestor of it",
                        rebase->base);
            return FALSE;
        }
        if (ok)
            parent = stasis_layer_open_parent(rebase->store, layer, error);
        if (parent != NULL && !stasis_layer_admit(rebase->store, parent, error))
            return FALSE;
        if (parent == NULL) {
            *ret_moved = !stasis_store_is_current(rebase->store, manifest->info->id, layer->dir_fd);
            return FALSE;
        }
        stasis_layer_free(layer);
        layer = g_steal_pointer(&parent);
        if (!stasis_task_advance(rebase->task, 0, error))
            return FALSE;
    }
}

static gpointer take_files(StasisStore *store, const char *id, gpointer data, gboolean *ret_moved,
                           GError **error)
{
    Rebase *rebase = data;
    rebase_clear(rebase); /* of the look before */
    rebase->merge = NULL;
    rebase->fds = g_array_new(FALSE, FALSE, sizeof(int));
    gboolean ok = stasis_work_open(&rebase->work, store, error) &&
                  stasis_fault(STASIS_FAULT_STORE_OPENED, error) && walk(rebase, ret_moved, error);
    return ok ? rebase : NULL;
}

/* ---- making the new files ---- */

static int open_source(const Rebase *rebase, guint number, GError **error)
{
    int held = g_array_index(rebase->fds, int, number);
    if (held >= 0)
        return fcntl(held, F_DUPFD_CLOEXEC, 0);
    char name[24];
    source_name(number, name);
    return stasis_store_open_file(rebase->work.dir_fd, name, NULL, error);
}

/* Moves from @first on that lie side by side in one source, as one range of at most COPY_BYTES. */
static guint join_moves(const GArray *moves, guint first, size_t *ret_len)
{
    const StasisMove *last = &g_array_index(moves, StasisMove, first);
    size_t len = last->len;
    guint i = first + 1;
    for (; i < moves->len; i++) {
        const StasisMove *move = &g_array_index(moves, StasisMove, i);
        if (move->source != last->source || move->offset != last->offset + last->len ||
            len + move->len > COPY_BYTES)
            break;
        len += move->len;
        last = move;
    }
    *ret_len = len;
    return i;
}

static gboolean copy_extents(Rebase *rebase, GError **error)
{
    const StasisMerge *merge = rebase->merge;
    const GArray *moves = merge->moves;
    const char *name = stasis_data_file_name(merge->manifest->n_data - 1);
    stasis_autofd int to = stasis_store_create_file(rebase->work.dir_fd, name, error);
    stasis_autofd int from = -1;
    if (to < 0)
        return FALSE;
    guint source = G_MAXUINT;
    for (guint i = 0, next; i < moves->len; i = next) {
        const StasisMove *move = &g_array_index(moves, StasisMove, i);
        size_t len;
        next = join_moves(moves, i, &len);
        if (move->source != source) {
            source = move->source;
            stasis_clear_fd(&from);
            from = open_source(rebase, source, error);
            if (from < 0)
                return FALSE;
        }
        int r = copy_range(from, move->offset, to, move->to, len);
        if (r < 0)
            return stasis_set_errno(error, -r, "%s: copy %zu bytes", name, len);
        if (!stasis_task_advance(rebase->task, len, error))
            return FALSE;
    }
    return fdatasync(to) == 0 || stasis_set_errno(error, errno, "%s: sync", name);
}

static gboolean place_sources(Rebase *rebase, GError **error)
{
    int dir_fd = rebase->work.dir_fd;
    for (guint i = 0; i < rebase->merge->sources->len; i++) {
        const StasisSource *source = &g_array_index(rebase->merge->sources, StasisSource, i);
        char name[24];
        source_name(i, name);
        if (source->fate != STASIS_FATE_LINK)
            unlinkat(dir_fd, name, 0);
        else if (renameat(dir_fd, name, dir_fd, stasis_data_file_name(source->number)) < 0)
            return stasis_set_errno(error, errno, "%s: name it", name);
    }
    return TRUE;
}

static gboolean make_files(Rebase *rebase, GError **error)
{
    StasisMerge *merge = rebase->merge;
    if (!stasis_merge_decide(merge, rebase->base == NULL, error))
        return FALSE;
    rebase->task->progress.total_bytes += merge->copied_bytes;
    if ((merge->has_new_file && !copy_extents(rebase, error)) || !place_sources(rebase, error))
        return FALSE;
    stasis_autofd int fd = stasis_store_create_file(rebase->work.dir_fd, "index", error);
    if (fd < 0 || !stasis_index_write(fd, merge->records, merge->manifest, error))
        return FALSE;
    if (fdatasync(fd) < 0)
        return stasis_set_errno(error, errno, "index: sync");
    return stasis_fault(STASIS_FAULT_STORE_COPIED, error);
}

/* ---- the commit, under the writer lock ---- */

/* The manifest as it is now, with what the rebase changes. */
static StasisManifest *make_manifest(Rebase *rebase, GError **error)
{
    g_autoptr(StasisManifest) manifest =
        stasis_manifest_load(rebase->store, rebase->id, NULL, error);
    g_autoptr(StasisManifest) base = NULL;
    if (manifest == NULL)
        return NULL;
    if (rebase->base != NULL) {
        base = stasis_manifest_load(rebase->store, rebase->base, NULL, error);
        if (base == NULL)
            return NULL;
    }
    const StasisManifest *merged = rebase->merge->manifest;
    if (manifest->origin == NULL)
        manifest->origin = g_strdup(manifest->info->digest);
    g_free(manifest->info->parent);
    g_free(manifest->parent_digest);
    manifest->info->parent = g_strdup(rebase->base);
    manifest->parent_digest = base != NULL ? g_strdup(stasis_manifest_identity(base)) : NULL;
    manifest->depth = base != NULL ? base->depth + 1 : 0;
    manifest->format = MAX(manifest->format, STASIS_FORMAT_REWRITTEN);
    manifest->n_data = merged->n_data;
    memcpy(manifest->data, merged->data, sizeof(manifest->data));
    stasis_manifest_copy_counts(manifest, merged);
    manifest->index.size = merged->index.size;
    memcpy(manifest->index.sha256, merged->index.sha256, sizeof(manifest->index.sha256));
    if (base != NULL && !stasis_manifest_check_parent(manifest, base, error))
        return NULL;
    return g_steal_pointer(&manifest);
}

static gboolean write_manifest(Rebase *rebase, GError **error)
{
    g_autoptr(StasisManifest) manifest = make_manifest(rebase, error);
    StasisSeals seals;
    if (manifest == NULL || !stasis_seals_get(rebase->store, manifest->seal_key, &seals, error))
        return FALSE;
    g_autofree char *text = stasis_manifest_write(manifest, &seals, error);
    size_t len = text != NULL ? strlen(text) : 0;
    /* What can't be read back must not take the place of what can. */
    g_autoptr(StasisManifest) parsed =
        text != NULL ? stasis_manifest_parse(text, len, error) : NULL;
    return parsed != NULL &&
           stasis_store_write_new(rebase->work.dir_fd, "manifest.json", text, len, error);
}

/* Nobody else should have been at it; but the other is about to be removed. */
static gboolean is_whole(const Rebase *rebase, GError **error)
{
    const StasisManifest *merged = rebase->merge->manifest;
    for (guint i = 0; i < merged->n_data; i++) {
        struct stat st;
        const char *name = stasis_data_file_name(i);
        if (fstatat(rebase->work.dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return stasis_set_errno(error, errno, "%s: look at it", name);
        if ((guint64)st.st_size != merged->data[i].size)
            return stasis_corrupt(error, "%s: another size than was written", name);
    }
    return TRUE;
}

static gboolean give_place(Rebase *rebase, GError **error)
{
    if (!write_manifest(rebase, error) || !is_whole(rebase, error))
        return FALSE;
    const StasisWork *work = &rebase->work;
    if (fsync(work->dir_fd) < 0 || fsync(work->tmp_fd) < 0)
        return stasis_set_errno(error, errno, "tmp: sync");
    /* Not known to be durable: then rather the old one, whose files are still there. */
    return stasis_fault(STASIS_FAULT_STORE_WRITTEN, error) &&
           stasis_store_move(work->tmp_fd, work->name, rebase->store->images_fd, rebase->id,
                             RENAME_EXCHANGE, STASIS_FAULT_STORE_SWAPPED, "images", error);
}

static gboolean commit(Rebase *rebase, GError **error)
{
    stasis_autofd int tmp_fd = -1;
    int lock_fd = -1;
    if (!rebase->task->lock_held) {
        lock_fd = stasis_store_lock(rebase->store, STASIS_STORE_LOCK_LONG_MS,
                                    rebase->task->cancellable, &tmp_fd, error);
        if (lock_fd < 0)
            return FALSE;
    }
    gboolean ok = give_place(rebase, error);
    stasis_store_unlock(&lock_fd);
    return ok && stasis_fault(STASIS_FAULT_STORE_REPLACED, error);
}

gboolean stasis_rebase(StasisStore *store, const char *id, const char *base,
                       const StasisGraph *going, StasisTask *task, GError **error)
{
    g_auto(Rebase) rebase = { .store = store,
                              .id = id,
                              .base = base,
                              .going = going,
                              .task = task,
                              .work = { .tmp_fd = -1, .dir_fd = -1 },
                              .fds = g_array_new(FALSE, FALSE, sizeof(int)) };
    g_autoptr(GError) local = NULL;
    if (stasis_store_look(store, id, take_files, &rebase, &local) != NULL &&
        make_files(&rebase, &local) && commit(&rebase, &local))
        return TRUE;
    if (!g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED) &&
        strstr(local->message, id) == NULL)
        g_prefix_error(&local, "image %s: ", id);
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}
