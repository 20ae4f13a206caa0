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

#define PIECE_BYTES STASIS_PROC_PIECE_BYTES

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
    reader->store = stasis_store_ref(store);
    if (text != NULL)
        reader->info = stasis_proc_image_manifest_parse(text, len, &reader->files, error);
    if (reader->info == NULL)
        return NULL;
    if (strcmp(reader->info->id, id) != 0) {
        stasis_corrupt(error, "it is the manifest of image %s", reader->info->id);
        return NULL;
    }
    const StasisProcessImageInfo *info = reader->info;
    if (!stasis_proc_image_manifest_check_seal(store, reader->info, text, len, error))
        return NULL;
    StasisSealChecks checks = { info->encryption_checked, info->signature_checked };
    stasis_seal_admit(store, id, info->encrypted_with != NULL ? info->encrypted_with : "",
                      info->signed_by, &checks, &reader->why_not);
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
    stasis_store_unref(reader->store);
    g_clear_error(&reader->why_not);
    g_free(reader);
}

StasisProcessImageInfo *stasis_store_get_process(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisProcImageReader) reader = stasis_proc_image_reader_open(store, id, error);
    return reader != NULL ? g_steal_pointer(&reader->info) : NULL;
}

/* The key that the image is encrypted with; NULL: it is not, or the key is not there. */
static const StasisKey *key_of(const StasisProcImageReader *reader)
{
    const char *id = reader->info->encrypted_with;
    return id != NULL ? stasis_keys_find(reader->store->keys, STASIS_KEY_SEAL, id) : NULL;
}

/* Where a file's bytes come from: one that is stored, or several. */
typedef struct {
    StasisProcFileReader *stored;
    StasisProcAssembled *assembled;
    StasisHash *sum; /* of what is stored; of an assembled one, of its content */
} Origin;

static void origin_clear(Origin *origin)
{
    g_clear_pointer(&origin->stored, stasis_proc_file_reader_free);
    g_clear_pointer(&origin->assembled, stasis_proc_assembled_free);
    g_clear_pointer(&origin->sum, stasis_hash_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Origin, origin_clear)

static gboolean origin_open(Origin *origin, const StasisProcImageReader *reader,
                            const StasisProcImageFile *file, const StasisKey *key, GError **error)
{
    origin->sum = stasis_hash_new();
    if (file->map != NULL)
        origin->assembled =
            stasis_proc_assembled_open(reader->dir_fd, reader->files, file, key, error);
    else
        origin->stored = stasis_proc_file_open(reader->dir_fd, file, key, origin->sum, error);
    return origin->stored != NULL || origin->assembled != NULL;
}

static gboolean origin_read(Origin *origin, guint8 *piece, gsize n, guint64 offset, GError **error)
{
    if (origin->stored != NULL)
        return stasis_proc_file_read(origin->stored, offset, piece, n, error);
    if (!stasis_proc_assembled_read(origin->assembled, piece, n, error))
        return FALSE;
    stasis_hash_add(origin->sum, piece, n);
    return TRUE;
}

static gboolean origin_check(const Origin *origin, const StasisProcImageFile *file,
                             const StasisKey *key, GError **error)
{
    char sha256[STASIS_DIGEST_HEX];
    if (!stasis_hash_end_hex(origin->sum, sha256, error))
        return FALSE;
    if (file->mac == NULL)
        return strcmp(sha256, file->sha256) == 0 ||
               stasis_corrupt(error, "%s: its SHA-256 is not what the manifest says", file->name);
    g_autofree char *mac = stasis_proc_file_mac(key, sha256, error);
    return mac != NULL &&
           (strcmp(mac, file->mac) == 0 ||
            stasis_corrupt(error, "%s: its MAC is not what the manifest says", file->name));
}

static gboolean read_pieces(Origin *origin, const StasisProcImageFile *file,
                            StasisProcImageTake take, gpointer user_data, GError **error)
{
    g_autofree guint8 *piece = g_malloc(PIECE_BYTES);
    guint64 offset = 0;
    do {
        gsize n = (gsize)MIN(PIECE_BYTES, file->size - offset);
        if (!origin_read(origin, piece, n, offset, error) ||
            !take(file, offset, piece, n, user_data, error))
            return FALSE;
        offset += n;
    } while (offset < file->size);
    return TRUE;
}

static gboolean read_file(const StasisProcImageReader *reader, const StasisProcImageFile *file,
                          const StasisKey *key, StasisProcImageTake take, gpointer user_data,
                          GError **error)
{
    g_auto(Origin) origin = { NULL };
    if (origin_open(&origin, reader, file, key, error) &&
        read_pieces(&origin, file, take, user_data, error) &&
        origin_check(&origin, file, key, error))
        return TRUE;
    g_prefix_error(error, "image %s: ", reader->info->id);
    return FALSE;
}

gboolean stasis_proc_image_reader_read(StasisProcImageReader *reader, guint i,
                                       StasisProcImageTake take, gpointer user_data, GError **error)
{
    if (reader->why_not != NULL) {
        g_propagate_error(error, g_error_copy(reader->why_not));
        return FALSE;
    }
    return read_file(reader, g_ptr_array_index(reader->files, i), key_of(reader), take, user_data,
                     error);
}

/* ---- verifying ---- */

/* As anybody sees it; of an assembled one nobody sees anything. */
static gboolean as_stored(const StasisProcImageReader *reader, guint i, StasisProcImageFile *ret)
{
    *ret = *(const StasisProcImageFile *)g_ptr_array_index(reader->files, i);
    ret->size = stasis_proc_file_stored_bytes(ret->size, reader->info->encrypted_with != NULL);
    return ret->map == NULL;
}

gboolean stasis_proc_image_reader_check_sizes(StasisProcImageReader *reader, GError **error)
{
    StasisProcImageFile stored;
    for (guint i = 0; i < reader->files->len; i++) {
        if (!as_stored(reader, i, &stored))
            continue;
        g_autoptr(StasisProcFileReader) file =
            stasis_proc_file_open(reader->dir_fd, &stored, NULL, NULL, error);
        if (file == NULL) {
            g_prefix_error(error, "image %s: ", reader->info->id);
            return FALSE;
        }
    }
    return TRUE;
}

/* Without its key an encrypted file can be compared with its digest, and no further. */
static gboolean verify_file(const StasisProcImageReader *reader, guint i, StasisProcImageTake take,
                            StasisTask *task, GError **error)
{
    const StasisKey *key = key_of(reader);
    StasisProcImageFile stored;
    if (reader->info->encrypted_with == NULL || key != NULL)
        return read_file(reader, g_ptr_array_index(reader->files, i), key, take, task, error);
    return !as_stored(reader, i, &stored) || read_file(reader, &stored, NULL, take, task, error);
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
        if (!verify_file(reader, i, pass_by, &task, error))
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
    /* What is not known to be durable keeps its files, and so its name. */
    gboolean ok = stasis_store_move(place_fd, id, tmp_fd, id, /* flags= */ 0,
                                    STASIS_FAULT_STORE_UNLISTED, STASIS_PROCESS_DIR, error);
    if (ok)
        stasis_store_remove_dir(tmp_fd, id);
    else
        g_prefix_error(error, "image %s: delete: ", id);
    stasis_store_unlock(&lock_fd);
    return ok;
}
