/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images of processes that are in a store: listing, reading, verifying, deleting. None needs
 * another. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"
#include "store/listing.h"
#include "store/proc-image-manifest.h"
#include "store/proc-image-pages.h"
#include "store/seal-manifest.h"

#define PIECE_BYTES 32768u

/* -1 without an error when there is none: then there are no such images. */
static int open_place(StasisStore *store)
{
    return stasis_store_open_dir(store->dir_fd, STASIS_PROCESS_DIR);
}

char **stasis_store_list_process_ids(StasisStore *store, GError **error)
{
    stasis_autofd int fd = open_place(store);
    if (fd < 0 && errno == ENOENT)
        return g_new0(char *, 1);
    g_auto(GStrv) names = fd >= 0 ? stasis_store_list_names(fd) : NULL;
    if (names == NULL) {
        stasis_set_errno(error, errno, "store %s: list " STASIS_PROCESS_DIR "/", store->path);
        return NULL;
    }
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    for (guint i = 0; names[i] != NULL; i++)
        if (stasis_id_is_valid(names[i]))
            g_ptr_array_add(ids, g_strdup(names[i]));
    g_ptr_array_add(ids, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&ids), FALSE);
}

GPtrArray *stasis_store_list_processes(StasisStore *store, GError **error)
{
    return stasis_listing_once(&stasis_listing_processes, store, error);
}

char *stasis_store_resolve_process(StasisStore *store, const char *id_or_prefix, GError **error)
{
    g_auto(GStrv) ids = stasis_store_list_process_ids(store, error);
    if (ids == NULL)
        return NULL;
    return stasis_store_pick(store, ids, id_or_prefix, error);
}

/* ---- reading ---- */

static StasisProcImageReader *load(StasisStore *store, int dir_fd, const char *id, GError **error)
{
    gsize len;
    g_autofree char *text =
        stasis_store_read_text(dir_fd, "manifest.json", STASIS_MAX_MANIFEST_BYTES, &len, error);
    g_autoptr(StasisProcImageReader) reader = g_new0(StasisProcImageReader, 1);
    reader->dir_fd = -1;
    if (text != NULL)
        reader->info = stasis_proc_image_manifest_parse(text, len, &reader->files, error);
    if (reader->info == NULL)
        return NULL;
    if (strcmp(reader->info->id, id) != 0) {
        stasis_corrupt(error, "it is the manifest of image %s", reader->info->id);
        return NULL;
    }
    StasisSealLines lines;
    StasisSealChecks checks;
    if (!stasis_seal_check(store, text, len, "", &checks, error))
        return NULL;
    stasis_seal_find_lines(text, len, &lines);
    stasis_seal_admit(store, id, "", lines.signature_key, &checks, &reader->why_not);
    return g_steal_pointer(&reader);
}

StasisProcImageReader *stasis_proc_image_reader_open(StasisStore *store, const char *id,
                                                     GError **error)
{
    stasis_autofd int place_fd = open_place(store);
    stasis_autofd int dir_fd =
        place_fd >= 0 && stasis_id_is_valid(id) ? stasis_store_open_dir(place_fd, id) : -1;
    if (dir_fd < 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "no image of processes \"%.64s\" in store %s; checkpoint-list shows what is "
                    "there",
                    id, store->path);
        return NULL;
    }
    g_autoptr(StasisProcImageReader) reader = load(store, dir_fd, id, error);
    if (reader == NULL) {
        g_prefix_error(error, "image %s: manifest.json: ", id);
        return NULL;
    }
    reader->dir_fd = stasis_steal_fd(&dir_fd);
    return g_steal_pointer(&reader);
}

void stasis_proc_image_reader_free(StasisProcImageReader *reader)
{
    if (reader == NULL)
        return;
    stasis_clear_fd(&reader->dir_fd);
    g_clear_pointer(&reader->files, g_ptr_array_unref);
    stasis_process_image_info_free(reader->info);
    g_clear_error(&reader->why_not);
    g_free(reader);
}

StasisProcessImageInfo *stasis_store_get_process(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisProcImageReader) reader = stasis_proc_image_reader_open(store, id, error);
    return reader != NULL ? g_steal_pointer(&reader->info) : NULL;
}

static gboolean read_piece(int fd, StasisProcAssembled *assembled, guint8 *piece, gsize n,
                           guint64 offset, GError **error)
{
    if (assembled != NULL)
        return stasis_proc_assembled_read(assembled, piece, n, error);
    int r = stasis_pread_all(fd, piece, n, (off_t)offset);
    return r == 0 || stasis_set_errno(error, -r, "read");
}

/* Of the file @fd, or assembled from others. */
static gboolean read_pieces(int fd, StasisProcAssembled *assembled, const StasisProcImageFile *file,
                            GChecksum *checksum, StasisProcImageTake take, gpointer user_data,
                            GError **error)
{
    g_autofree guint8 *piece = g_malloc(PIECE_BYTES);
    guint64 offset = 0;
    do {
        gsize n = (gsize)MIN(PIECE_BYTES, file->size - offset);
        if (!read_piece(fd, assembled, piece, n, offset, error))
            return FALSE;
        g_checksum_update(checksum, piece, (gssize)n);
        if (!take(file, offset, piece, n, user_data, error))
            return FALSE;
        offset += n;
    } while (offset < file->size);
    return TRUE;
}

gboolean stasis_proc_image_reader_read(StasisProcImageReader *reader, guint i,
                                       StasisProcImageTake take, gpointer user_data, GError **error)
{
    const StasisProcImageFile *file = g_ptr_array_index(reader->files, i);
    if (reader->why_not != NULL) {
        g_propagate_error(error, g_error_copy(reader->why_not));
        return FALSE;
    }
    g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autoptr(StasisProcAssembled) assembled = NULL;
    guint64 size = file->size;
    stasis_autofd int fd = -1;
    if (file->map != NULL)
        assembled = stasis_proc_assembled_open(reader->dir_fd, reader->files, file, error);
    else
        fd = stasis_store_open_file(reader->dir_fd, file->name, &size, error);
    gboolean ok = fd >= 0 || assembled != NULL;
    if (ok && size != file->size)
        ok = stasis_corrupt(error,
                            "%s: %" G_GUINT64_FORMAT " bytes, the manifest says %" G_GUINT64_FORMAT,
                            file->name, size, file->size);
    ok = ok && read_pieces(fd, assembled, file, checksum, take, user_data, error);
    if (ok && strcmp(g_checksum_get_string(checksum), file->sha256) != 0)
        ok = stasis_corrupt(error, "%s: its SHA-256 is not what the manifest says", file->name);
    if (!ok)
        g_prefix_error(error, "image %s: ", reader->info->id);
    return ok;
}

static gboolean pass_by(const StasisProcImageFile *file, guint64 offset, const guint8 *bytes,
                        gsize n, gpointer user_data, GError **error)
{
    return stasis_task_advance(user_data, n, error);
}

gboolean stasis_store_verify_process(StasisStore *store, const char *id,
                                     StasisProgressFunc progress, gpointer user_data,
                                     GCancellable *cancellable, GError **error)
{
    StasisTask task = { .func = progress, .data = user_data, .cancellable = cancellable };
    g_autoptr(StasisProcImageReader) reader = stasis_proc_image_reader_open(store, id, error);
    if (reader == NULL)
        return FALSE;
    task.progress.phase = "verify";
    task.progress.total_bytes = reader->info->stored_bytes;
    for (guint i = 0; i < reader->files->len; i++)
        if (!stasis_proc_image_reader_read(reader, i, pass_by, &task, error))
            return FALSE;
    return TRUE;
}

/* ---- deleting ---- */

gboolean stasis_store_delete_process(StasisStore *store, const char *id, GError **error)
{
    stasis_autofd int place_fd = open_place(store);
    if (place_fd < 0 || !stasis_id_is_valid(id) ||
        faccessat(place_fd, id, F_OK, AT_SYMLINK_NOFOLLOW) < 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "no image of processes \"%.64s\" in store %s", id, store->path);
        return FALSE;
    }
    stasis_autofd int tmp_fd = -1;
    int lock_fd = stasis_store_lock(store, STASIS_STORE_LOCK_WAIT_MS, NULL, &tmp_fd, error);
    if (lock_fd < 0)
        return FALSE;
    gboolean ok = renameat(place_fd, id, tmp_fd, id) == 0 ||
                  stasis_set_errno(error, errno, "image %s: delete", id);
    ok = ok && stasis_fault(STASIS_FAULT_STORE_UNLISTED, error);
    if (ok && (fsync(place_fd) < 0 || fsync(tmp_fd) < 0))
        ok = stasis_set_errno(error, errno, STASIS_PROCESS_DIR ": sync");
    if (ok)
        stasis_store_remove_dir(tmp_fd, id);
    else /* not known to be durable: the files must stay, and so the name */
        renameat(tmp_fd, id, place_fd, id);
    stasis_store_unlock(&lock_fd);
    return ok;
}
