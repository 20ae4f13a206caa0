/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk that the image refers to, as one file: qemu-img reads it through all the files that it
 * lies in. It takes QEMU's locks, so one that somebody writes to is refused.
 */
#include <stasis/error.h>
#include <string.h>

#include "base/io.h"
#include "engine/disks/vm-disks.h"
#include "engine/exchange/export-internal.h"

#define MAX_SAID 1000u

static const StasisDiskNote *find(const GPtrArray *notes, const char *name)
{
    for (guint i = 0; i < notes->len; i++) {
        const StasisDiskNote *note = g_ptr_array_index(notes, i);
        if (note->layers != NULL && strcmp(note->name, name) == 0)
            return note;
    }
    return NULL;
}

static gboolean fail(GBytes *said, GError **error)
{
    gsize len;
    const char *text = said != NULL ? g_bytes_get_data(said, &len) : NULL;
    g_autofree char *line =
        text != NULL ? g_utf8_make_valid(text, (gssize)MIN(len, MAX_SAID)) : g_strdup("it failed");
    g_strdelimit(g_strstrip(line), "\r\n", ' ');
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "qemu-img: %s", line);
    return FALSE;
}

static gboolean convert(StasisExport *export, const StasisDiskLayer *layer, const char *format,
                        GError **error)
{
    g_autofree char *program = g_find_program_in_path("qemu-img");
    if (program == NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                            "a disk that the image refers to is exported by qemu-img, which is not "
                            "installed (Debian: qemu-utils)");
        return FALSE;
    }
    g_autofree char *path = g_canonicalize_filename(export->file->aside, NULL);
    const char *argv[] = { program, "convert", "-f",        layer->format, "-O",
                           format,  "--",      layer->path, path,          NULL };
    g_autoptr(GSubprocess) process = g_subprocess_newv(argv, G_SUBPROCESS_FLAGS_STDERR_PIPE, error);
    g_autoptr(GBytes) said = NULL;
    if (process == NULL)
        return FALSE;
    if (!g_subprocess_communicate(process, NULL, export->cancellable, NULL, &said, NULL)) {
        g_subprocess_force_exit(process);
        g_subprocess_wait(process, NULL, NULL);
        return stasis_set_cancelled(error);
    }
    return g_subprocess_get_successful(process) || fail(said, error);
}

gboolean stasis_export_referred(StasisExport *export, const char *format, gboolean *ret_ok,
                                GError **error)
{
    *ret_ok = FALSE;
    if (!stasis_image_reader_get_info(export->reader)->disks_refer)
        return FALSE;
    g_autoptr(GPtrArray) notes = stasis_vm_disks_read_notes(export->reader, error);
    const StasisDiskNote *note = notes != NULL ? find(notes, export->options->disk) : NULL;
    if (notes != NULL && note == NULL) /* who says so best */
        stasis_export_find_disk(export, error);
    if (note == NULL || !stasis_disk_note_check(note, error))
        return TRUE;
    export->progress.total_bytes = note->size_bytes;
    *ret_ok = convert(export, g_ptr_array_index(note->layers, 0), format, error) &&
              stasis_export_file_commit(export->file, 0, error);
    if (*ret_ok)
        stasis_export_report(export, note->size_bytes);
    return TRUE;
}
