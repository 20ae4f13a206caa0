/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images for other tools: finds the image, the file and the format, and leaves the rest to that. */
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/options.h"
#include "engine/exchange/export-internal.h"

#define PROGRESS_US 50000

static const struct {
    const char *name;
    gboolean stream;
    StasisExportFunc write;
} formats[] = {
    [STASIS_EXPORT_RAW_MEMORY] = { "raw-memory", FALSE, stasis_export_raw_memory },
    [STASIS_EXPORT_ELF_CORE] = { "elf-core", FALSE, stasis_export_elf_core },
    [STASIS_EXPORT_QEMU] = { "qemu", TRUE, stasis_export_qemu },
    [STASIS_EXPORT_VIRSH_SAVE] = { "virsh-save", TRUE, stasis_export_virsh_save },
    [STASIS_EXPORT_DISK] = { "raw", FALSE, stasis_export_disk },
    [STASIS_EXPORT_QCOW2] = { "qcow2", FALSE, stasis_export_qcow2 },
};

int stasis_export_format_from_string(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(formats); i++)
        if (strcmp(name, formats[i].name) == 0)
            return (int)i;
    return -1;
}

gboolean stasis_export_format_is_stream(StasisExportFormat format)
{
    return (guint)format < G_N_ELEMENTS(formats) && formats[format].stream;
}

void stasis_export_report(StasisExport *export, guint64 done_bytes)
{
    export->progress.done_bytes = done_bytes;
    if (export->options->progress == NULL)
        return;
    guint64 us = stasis_now_us();
    if (done_bytes < export->progress.total_bytes && us - export->reported_us < PROGRESS_US)
        return;
    export->reported_us = us;
    export->options->progress(&export->progress, export->options->progress_data);
}

StasisMachine *stasis_export_machine(StasisExport *export, GError **error)
{
    g_autoptr(GBytes) json = stasis_image_reader_get_part(export->reader, "machine.json", error);
    return json != NULL ? stasis_machine_from_json(json, error) : NULL;
}

static gboolean is_of_disk(StasisExportFormat format)
{
    return format == STASIS_EXPORT_DISK || format == STASIS_EXPORT_QCOW2;
}

static gboolean check_options(const StasisExportOptions *options, GError **error)
{
    if ((guint)options->format >= G_N_ELEMENTS(formats))
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "unknown export format %d",
                    (int)options->format);
    else if (options->path == NULL && !formats[options->format].stream)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s is no stream: it needs a file, not a pipe", formats[options->format].name);
    else if (is_of_disk(options->format) != (options->disk != NULL))
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "raw and qcow2 are formats of a disk, and which one has to be said "
                            "(--disk; checkpoint-info lists them)");
    else
        return TRUE;
    return FALSE;
}

gboolean stasis_export(StasisStore *store, const char *id, const StasisExportOptions *given,
                       GCancellable *cancellable, GError **error)
{
    StasisExportOptions own = STASIS_EXPORT_OPTIONS_INIT;
    const StasisExportOptions *options = stasis_own_options(&own, given, sizeof own);
    if (!check_options(options, error))
        return FALSE;
    g_autofree char *full_id = stasis_store_resolve(store, id, error);
    g_autoptr(StasisImageReader) reader =
        full_id != NULL ? stasis_image_reader_open(store, full_id, error) : NULL;
    if (reader == NULL || !stasis_image_reader_check_memory(reader, error))
        return FALSE;
    g_auto(StasisExportFile) file = { .fd = -1 };
    if (!stasis_export_file_open(&file, options, error))
        return FALSE;
    g_autofree guint8 *buffer = g_malloc((gsize)STASIS_EXPORT_CHUNK_PAGES * STASIS_PAGE_BYTES);
    StasisExport export = { .options = options,
                            .reader = reader,
                            .file = &file,
                            .buffer = buffer,
                            .progress = { .phase = "export" },
                            .cancellable = cancellable };
    return formats[options->format].write(&export, error);
}
