/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commit: from a directory aside to an image.
 *
 * The order is what makes an image that is listed whole, whenever the power fails: every file is
 * synced, then the directory that names them, and only then does one rename give it its place in
 * images/; that directory is synced last. Before the rename the image is a leftover in tmp/, which
 * readers never see and the next writer removes. After it, nothing is missing.
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

static gboolean check_ready(StasisImageWriter *writer, GError **error)
{
    static const char *const required[] = { "vmstate", "machine.json" };
    const StasisManifest *manifest = writer->manifest;
    const char *id = manifest->info->id;
    if (writer->committed || g_atomic_int_get(&writer->failed)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "image %s: not committed: %s; take another", id,
                    writer->committed ? "it was before" : "a page could not be written");
        return FALSE;
    }
    for (guint i = 0; i < G_N_ELEMENTS(required); i++) {
        if (stasis_manifest_find_part(manifest, required[i]) != NULL)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "image %s: not committed: no %s", id,
                    required[i]);
        return FALSE;
    }
    guint wanted = writer->parent != NULL ? writer->parent->blocks->len : 1;
    if (manifest->format == STASIS_FORMAT_DEVICES)
        wanted = 0;
    if (manifest->blocks->len < wanted) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "image %s: not committed: %u RAM blocks and disks where %u are needed", id,
                    manifest->blocks->len, wanted);
        return FALSE;
    }
    return TRUE;
}

static gboolean check_complete(const StasisManifest *manifest, GError **error)
{
    guint64 known = stasis_manifest_known_pages(manifest);
    if (manifest->info->parent != NULL || known == manifest->n_pages)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "image %s: not committed: a full image with %" G_GUINT64_FORMAT
                " of %" G_GUINT64_FORMAT " pages",
                manifest->info->id, known, manifest->n_pages);
    return FALSE;
}

static gboolean sync_fd(int fd, const char *name, GError **error)
{
    return fdatasync(fd) == 0 || stasis_set_errno(error, errno, "%s: sync", name);
}

static gboolean write_data_and_index(StasisImageWriter *writer, GError **error)
{
    StasisManifest *manifest = writer->manifest;
    g_autoptr(GArray) dead = NULL;
    g_autoptr(GArray) records = stasis_records_resolve(writer->records, manifest, &dead, error);
    manifest->data[0].size = __atomic_load_n(&writer->end, __ATOMIC_RELAXED);
    if (manifest->depth > STASIS_MAX_DEPTH)
        manifest->format = MAX(manifest->format, STASIS_FORMAT_REWRITTEN);
    if (records == NULL || !check_complete(manifest, error) ||
        !stasis_dead_clear(writer->pages_fd, dead, &manifest->data[0].hole_bytes, error) ||
        !sync_fd(writer->pages_fd, "pages", error) ||
        !stasis_fault(STASIS_FAULT_DATA_WRITTEN, error))
        return FALSE;
    manifest->data[0].dead_bytes += writer->dead_bytes;
    manifest->data[0].hole_bytes += writer->hole_bytes;
    stasis_autofd int fd = stasis_store_create_file(writer->dir_fd, "index", error);
    return fd >= 0 && stasis_index_write(fd, records, manifest, error) &&
           sync_fd(fd, "index", error) && stasis_fault(STASIS_FAULT_INDEX_WRITTEN, error);
}

static gboolean sync_parts(StasisImageWriter *writer, GError **error)
{
    for (guint i = 0; i < writer->manifest->parts->len; i++) {
        const StasisFileRef *part = g_ptr_array_index(writer->manifest->parts, i);
        stasis_autofd int fd = stasis_store_open_file(writer->dir_fd, part->name, NULL, error);
        if (fd < 0 || !sync_fd(fd, part->name, error))
            return FALSE;
    }
    return TRUE;
}

/* Returns the manifest as any reader will see it. */
static StasisManifest *write_manifest(StasisImageWriter *writer, GError **error)
{
    if (writer->manifest->info->created_us <= 0)
        writer->manifest->info->created_us = g_get_real_time();
    StasisSeals seals;
    if (!stasis_seals_get(writer->store, writer->manifest->seal_key, &seals, error))
        return NULL;
    g_autofree char *text = stasis_manifest_write(writer->manifest, &seals, error);
    if (text == NULL)
        return NULL;
    size_t len = strlen(text);
    g_autoptr(StasisManifest) listed = stasis_manifest_parse(text, len, error);
    if (listed == NULL || !stasis_manifest_check_seal(writer->store, listed, text, len, error))
        return NULL;
    if (!stasis_store_write_new(writer->dir_fd, "manifest.json", text, len, error) ||
        !sync_parts(writer, error))
        return NULL;
    return g_steal_pointer(&listed);
}

static gboolean give_place(StasisImageWriter *writer, GError **error)
{
    const char *id = writer->manifest->info->id;
    if (fsync(writer->dir_fd) < 0 || fsync(writer->tmp_fd) < 0)
        return stasis_set_errno(error, errno, "tmp: sync");
    /* What is not known to be durable is not listed; _free then removes it. */
    return stasis_fault(STASIS_FAULT_MANIFEST_WRITTEN, error) &&
           stasis_store_move(writer->tmp_fd, id, writer->store->images_fd, id, RENAME_NOREPLACE,
                             STASIS_FAULT_RENAMED, "images", error);
}

StasisImageInfo *stasis_image_writer_commit(StasisImageWriter *writer, GError **error)
{
    if (!check_ready(writer, error))
        return NULL;
    g_autoptr(StasisManifest) listed = NULL;
    gboolean ok = write_data_and_index(writer, error);
    if (ok) {
        listed = write_manifest(writer, error);
        ok = listed != NULL && give_place(writer, error);
    }
    if (!ok) {
        g_atomic_int_set(&writer->failed, 1);
        g_prefix_error(error, "image %s: ", writer->manifest->info->id);
        return NULL;
    }
    writer->committed = TRUE;
    stasis_store_unlock(&writer->lock_fd);
    return g_steal_pointer(&listed->info);
}
