/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files that an image refers to, and whether they are as they were. */
#include <stasis/disk.h>
#include <stasis/error.h>

#include "disk/describe.h"
#include "engine/disks/vm-disks.h"

void stasis_disk_file_free(StasisDiskFile *file)
{
    if (file == NULL)
        return;
    g_free(file->disk);
    g_free(file->path);
    g_free(file->format);
    g_free(file->problem);
    g_free(file);
}

static void add_file(GPtrArray *files, const StasisDiskNote *note, guint depth)
{
    const StasisDiskLayer *layer = g_ptr_array_index(note->layers, depth);
    g_autoptr(GError) local = NULL;
    StasisDiskFile *file = g_new0(StasisDiskFile, 1);
    file->disk = g_strdup(note->name);
    file->path = g_strdup(layer->path);
    file->format = g_strdup(layer->format);
    file->depth = depth;
    file->size_bytes = note->size_bytes;
    if (!stasis_disk_layer_check(layer, &local))
        file->problem = g_strdup(local->message);
    g_ptr_array_add(files, file);
}

GPtrArray *stasis_image_get_disk_files(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisImageInfo) info = stasis_store_get_image(store, id, error);
    if (info == NULL)
        return NULL;
    if (!info->disks_refer)
        return g_ptr_array_new();
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, id, error);
    g_autoptr(GPtrArray) notes = reader != NULL ? stasis_vm_disks_read_notes(reader, error) : NULL;
    if (notes == NULL)
        return NULL;
    GPtrArray *files = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_disk_file_free);
    for (guint i = 0; i < notes->len; i++) {
        const StasisDiskNote *note = g_ptr_array_index(notes, i);
        for (guint j = 0; note->layers != NULL && j < note->layers->len; j++)
            add_file(files, note, j);
    }
    return files;
}

gboolean stasis_image_check_disk_files(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(GPtrArray) files = stasis_image_get_disk_files(store, id, error);
    for (guint i = 0; files != NULL && i < files->len; i++) {
        const StasisDiskFile *file = g_ptr_array_index(files, i);
        if (file->problem == NULL)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "disk %s: %s", file->disk,
                    file->problem);
        return FALSE;
    }
    return files != NULL;
}
