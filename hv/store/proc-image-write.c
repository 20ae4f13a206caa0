/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing an image of processes: aside in a directory of work.c while it comes out of a guest,
 * which takes its time, and under the writer lock only to be given its ID and its place, in the
 * order of commit.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/tree.h"
#include "store/internal.h"
#include "store/proc-image-manifest.h"
#include "store/proc-image-pages.h"
#include "store/seal-manifest.h"

struct _StasisProcImageWriter {
    StasisStore *store;
    StasisWork work;
    GPtrArray *files;           /* of StasisProcImageFile */
    StasisSealer *sealer;       /* of an encrypted store, or NULL */
    StasisProcFileWriter *file; /* the last of them, or NULL */
    StasisProcPages *pages;     /* of an incremental image, or NULL */
    char *parent;
    gboolean in_pages; /* the last file is one of pages, and goes there */
    StasisHash *hash;  /* then, of its content */
};

/* All keys that the image needs in the end are looked for at its start. */
static gboolean set_keys(StasisProcImageWriter *writer, GError **error)
{
    StasisSeals seals;
    if (!stasis_seals_get(writer->store, writer->store->config.keys.encrypt, &seals, error))
        return FALSE;
    if (seals.mac != NULL)
        writer->sealer = stasis_sealer_new(writer->store->keys, seals.mac, error);
    return seals.mac == NULL || writer->sealer != NULL;
}

StasisProcImageWriter *stasis_proc_image_writer_new(StasisStore *store, GError **error)
{
    g_autoptr(StasisProcImageWriter) writer = g_new0(StasisProcImageWriter, 1);
    writer->store = stasis_store_ref(store);
    writer->work.tmp_fd = writer->work.dir_fd = -1;
    writer->files = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_proc_image_file_free);
    return set_keys(writer, error) && stasis_work_open(&writer->work, store, error)
               ? g_steal_pointer(&writer)
               : NULL;
}

void stasis_proc_image_writer_free(StasisProcImageWriter *writer)
{
    if (writer == NULL)
        return;
    g_clear_pointer(&writer->file, stasis_proc_file_writer_free);
    g_clear_pointer(&writer->pages, stasis_proc_pages_free);
    stasis_sealer_free(writer->sealer);
    g_free(writer->parent);
    stasis_work_close(&writer->work);
    stasis_hash_free(writer->hash);
    g_ptr_array_unref(writer->files);
    stasis_store_unref(writer->store);
    g_free(writer);
}

gboolean stasis_proc_image_writer_set_parent(StasisProcImageWriter *writer, const char *id,
                                             GError **error)
{
    g_autoptr(StasisProcImageReader) parent =
        stasis_proc_image_reader_open(writer->store, id, error);
    if (parent == NULL)
        return FALSE;
    const char *key = writer->sealer != NULL ? stasis_sealer_get_key(writer->sealer)->id : NULL;
    if (g_strcmp0(parent->info->encrypted_with, key) != 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_KEY,
                    "image %s is encrypted with another key than the store's is now; take one that "
                    "is not incremental",
                    id);
        return FALSE;
    }
    if (stasis_proc_pages_n_sources(parent) > stasis_proc_pages_max_sources())
        return TRUE;
    writer->pages = stasis_proc_pages_new(parent, writer->work.dir_fd, writer->sealer, error);
    if (writer->pages != NULL)
        writer->parent = g_strdup(id);
    else
        stasis_empty_dir(writer->work.dir_fd, 0); /* what was linked until then */
    return writer->pages != NULL;
}

static StasisProcImageFile *last_file(StasisProcImageWriter *writer)
{
    return g_ptr_array_index(writer->files, writer->files->len - 1);
}

gboolean stasis_proc_image_writer_begin(StasisProcImageWriter *writer, const char *name,
                                        GError **error)
{
    if (writer->file != NULL || writer->in_pages)
        return stasis_corrupt(error, "a file of the image begins within another");
    if (!stasis_proc_image_file_name_is_valid(name) ||
        g_str_has_suffix(name, STASIS_PROC_PAGES_SUFFIX) ||
        g_str_has_suffix(name, STASIS_PROC_MAP_SUFFIX))
        return stasis_corrupt(error, "a file of the image is called \"%.80s\"", name);
    if (writer->files->len >= STASIS_MAX_PROCESS_FILES)
        return stasis_corrupt(error, "an image of more than %u files", STASIS_MAX_PROCESS_FILES);
    for (guint i = 0; i < writer->files->len; i++)
        if (strcmp(((StasisProcImageFile *)g_ptr_array_index(writer->files, i))->name, name) == 0)
            return stasis_corrupt(error, "the image has two files %s", name);
    writer->in_pages = writer->pages != NULL && stasis_proc_pages_is_pages(name);
    if (writer->in_pages)
        stasis_proc_pages_begin(writer->pages, name);
    else
        writer->file = stasis_proc_file_create(writer->work.dir_fd, name, writer->sealer, error);
    if (!writer->in_pages && writer->file == NULL)
        return FALSE;
    StasisProcImageFile *file = g_new0(StasisProcImageFile, 1);
    file->name = g_strdup(name);
    g_ptr_array_add(writer->files, file);
    g_clear_pointer(&writer->hash, stasis_hash_free);
    writer->hash = stasis_hash_new();
    return TRUE;
}

gboolean stasis_proc_image_writer_add(StasisProcImageWriter *writer, const guint8 *bytes, gsize n,
                                      GError **error)
{
    if (writer->file == NULL && !writer->in_pages)
        return stasis_corrupt(error, "bytes of the image that are of no file");
    if (!writer->in_pages)
        return stasis_proc_file_append(writer->file, bytes, n, error);
    if (!stasis_proc_pages_add(writer->pages, bytes, n, error))
        return FALSE;
    stasis_hash_add(writer->hash, bytes, n);
    last_file(writer)->size += n;
    return TRUE;
}

/* The last file is an assembled one. */
static gboolean end_pages(StasisProcImageWriter *writer, guint8 ret_sha256[32], GError **error)
{
    StasisProcImageFile *file = last_file(writer);
    StasisDigest digest;
    char sha256[STASIS_DIGEST_HEX];
    writer->in_pages = FALSE;
    if (!stasis_hash_end(writer->hash, &digest, error))
        return FALSE;
    stasis_digest_to_hex(&digest, sha256);
    if (ret_sha256 != NULL)
        memcpy(ret_sha256, digest.bytes, sizeof(digest.bytes));
    if (writer->sealer == NULL)
        file->sha256 = g_strdup(sha256);
    else
        file->mac = stasis_proc_file_mac(stasis_sealer_get_key(writer->sealer), sha256, error);
    return (file->sha256 != NULL || file->mac != NULL) &&
           stasis_proc_pages_end(writer->pages, error);
}

gboolean stasis_proc_image_writer_end(StasisProcImageWriter *writer, guint8 ret_sha256[32],
                                      GError **error)
{
    if (writer->file == NULL && !writer->in_pages)
        return stasis_corrupt(error, "the end of a file of the image that has not begun");
    if (writer->in_pages)
        return end_pages(writer, ret_sha256, error);
    g_autoptr(StasisProcFileWriter) file = g_steal_pointer(&writer->file);
    return stasis_proc_file_end(file, last_file(writer), ret_sha256, error);
}

gboolean stasis_proc_image_writer_add_part(StasisProcImageWriter *writer, const char *name,
                                           GBytes *data, GError **error)
{
    gsize n;
    const guint8 *bytes = g_bytes_get_data(data, &n);
    return stasis_proc_image_writer_begin(writer, name, error) &&
           stasis_proc_image_writer_add(writer, bytes, n, error) &&
           stasis_proc_image_writer_end(writer, NULL, error);
}

/* ---- committing ---- */

/* Behind all that are there, of VMs and of processes. */
static char *make_id(StasisStore *store, GError **error)
{
    g_auto(GStrv) images = stasis_store_list_ids(store, error);
    g_auto(GStrv) processes = images != NULL ? stasis_store_list_process_ids(store, error) : NULL;
    if (processes == NULL)
        return NULL;
    guint n_images = g_strv_length(images), n_processes = g_strv_length(processes);
    const char *last = n_images > 0 ? images[n_images - 1] : NULL;
    if (n_processes > 0 && g_strcmp0(last, processes[n_processes - 1]) < 0)
        last = processes[n_processes - 1];
    return stasis_id_new(last, error);
}

static StasisProcessImageInfo *write_manifest(StasisProcImageWriter *writer,
                                              const StasisProcessImageInfo *info, const char *id,
                                              GError **error)
{
    StasisProcessImageInfo named = *info;
    named.id = (char *)id;
    named.parent = writer->parent;
    named.encrypted_with =
        writer->sealer != NULL ? (char *)stasis_sealer_get_key(writer->sealer)->id : NULL;
    StasisSeals seals;
    if (!stasis_seals_get(writer->store, named.encrypted_with != NULL ? named.encrypted_with : "",
                          &seals, error))
        return NULL;
    g_autofree char *text = stasis_proc_image_manifest_write(&named, writer->files, &seals, error);
    g_autoptr(GPtrArray) files = NULL;
    g_autoptr(StasisProcessImageInfo) listed =
        text != NULL ? stasis_proc_image_manifest_parse(text, strlen(text), &files, error) : NULL;
    if (listed == NULL ||
        !stasis_proc_image_manifest_check_seal(writer->store, listed, text, strlen(text), error))
        return NULL;
    const StasisWork *work = &writer->work;
    if (!stasis_store_write_new(work->dir_fd, "manifest.json", text, strlen(text), error))
        return NULL;
    if (fsync(work->dir_fd) < 0 || fsync(work->tmp_fd) < 0) {
        stasis_set_errno(error, errno, "tmp: sync");
        return NULL;
    }
    return g_steal_pointer(&listed);
}

static int open_place(StasisStore *store, GError **error)
{
    if (mkdirat(store->dir_fd, STASIS_PROCESS_DIR, 0700) < 0 && errno != EEXIST) {
        stasis_store_cant_write(store, errno, "make " STASIS_PROCESS_DIR "/", error);
        return -1;
    }
    stasis_autofd int fd = stasis_store_open_dir(store->dir_fd, STASIS_PROCESS_DIR);
    if (fd >= 0 && fsync(store->dir_fd) == 0)
        return stasis_steal_fd(&fd);
    stasis_set_errno(error, errno, "store %s: open " STASIS_PROCESS_DIR "/", store->path);
    return -1;
}

static gboolean give_place(StasisProcImageWriter *writer, const char *id, GError **error)
{
    const StasisWork *work = &writer->work;
    stasis_autofd int place_fd = open_place(writer->store, error);
    return place_fd >= 0 && stasis_fault(STASIS_FAULT_PROC_WRITTEN, error) &&
           stasis_store_move(work->tmp_fd, work->name, place_fd, id, RENAME_NOREPLACE,
                             STASIS_FAULT_PROC_RENAMED, STASIS_PROCESS_DIR, error);
}

StasisProcessImageInfo *stasis_proc_image_writer_commit(StasisProcImageWriter *writer,
                                                        const StasisProcessImageInfo *info,
                                                        GCancellable *cancellable, GError **error)
{
    if (writer->file != NULL || writer->in_pages) {
        stasis_corrupt(error, "the last file of the image does not end");
        return NULL;
    }
    if (writer->pages != NULL && !stasis_proc_pages_finish(writer->pages, writer->files, error))
        return NULL;
    stasis_autofd int tmp_fd = -1;
    int lock_fd =
        stasis_store_lock(writer->store, STASIS_STORE_LOCK_LONG_MS, cancellable, &tmp_fd, error);
    g_autofree char *id = lock_fd >= 0 ? make_id(writer->store, error) : NULL;
    g_autoptr(StasisProcessImageInfo) listed =
        id != NULL ? write_manifest(writer, info, id, error) : NULL;
    gboolean ok = listed != NULL && give_place(writer, id, error);
    if (lock_fd >= 0)
        stasis_store_unlock(&lock_fd);
    return ok ? g_steal_pointer(&listed) : NULL;
}
