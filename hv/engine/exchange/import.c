/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images from other tools' files: a migration stream, bare or behind libvirt's head. Memory goes
 * into the image as it is read; the devices, which come last, and what is to be started for them
 * become its parts. Nothing is listed before all of that is there.
 */
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/options.h"
#include "engine/exchange/import-internal.h"

#define PROGRESS_US 50000

typedef struct {
    const StasisImportOptions *options;
    StasisImportSource *source;
    StasisImageWriter *writer;
    StasisImportRam *ram;
    guint64 begun_us, reported_us;
    guint64 ram_bytes;
    GCancellable *cancellable;
} Import;

static void report(Import *import)
{
    if (import->options->progress == NULL)
        return;
    guint64 us = stasis_now_us();
    if (us - import->reported_us < PROGRESS_US)
        return;
    import->reported_us = us;
    StasisProgress progress = { "import", stasis_import_source_get_done(import->source),
                                stasis_import_source_get_size(import->source) };
    import->options->progress(&progress, import->options->progress_data);
}

static gssize read_stream(void *buf, gsize len, gpointer user_data, GError **error)
{
    Import *import = user_data;
    if (g_cancellable_set_error_if_cancelled(import->cancellable, error))
        return -1;
    report(import);
    return stasis_import_source_read(import->source, buf, len, error);
}

static gboolean take_block(guint block, const char *name, guint64 size_bytes, gpointer user_data,
                           GError **error)
{
    Import *import = user_data;
    import->ram_bytes += size_bytes;
    return stasis_import_ram_block(block, name, size_bytes, import->ram, error);
}

static gboolean take_page(guint block, guint64 offset, const guint8 *page, gpointer user_data,
                          GError **error)
{
    return stasis_import_ram_page(block, offset, page, ((Import *)user_data)->ram, error);
}

/* All memory; what is left are the devices. */
static StasisVmstate *read_all(Import *import, GError **error)
{
    StasisStreamOps ops = { read_stream, take_block, take_page, import };
    g_autoptr(GBytes) devices = stasis_stream_read(&ops, error);
    return devices != NULL && stasis_import_ram_finish(import->ram, error)
               ? stasis_vmstate_parse(devices, error)
               : NULL;
}

static gboolean add_text(Import *import, const char *name, const char *text, GError **error)
{
    if (text == NULL)
        return TRUE;
    g_autoptr(GBytes) bytes = g_bytes_new(text, strlen(text));
    return stasis_image_writer_add_part(import->writer, name, bytes, error);
}

static gboolean add_parts(Import *import, const StasisMachine *machine, StasisVmstate *devices,
                          GError **error)
{
    const StasisSaveHead *head = stasis_import_source_get_head(import->source);
    g_autoptr(GBytes) json = stasis_machine_to_json(machine);
    return stasis_image_writer_add_part(import->writer, "vmstate",
                                        stasis_vmstate_get_stream(devices), error) &&
           stasis_image_writer_add_part(import->writer, "machine.json", json, error) &&
           (head == NULL || (add_text(import, STASIS_PART_DOMAIN_XML, head->xml, error) &&
                             add_text(import, STASIS_PART_DOMAIN_COOKIE, head->cookie, error)));
}

static StasisImageInfo *commit(Import *import, StasisVmstate *devices, GError **error)
{
    const StasisSaveHead *head = stasis_import_source_get_head(import->source);
    g_autoptr(StasisMachine) machine = stasis_import_machine(import->options, head, devices, error);
    if (machine == NULL || !add_parts(import, machine, devices, error))
        return NULL;
    StasisImageInfo info = {
        .vm = machine->name,
        .note = (char *)import->options->note,
        .mode = (char *)STASIS_MODE_IMPORT,
        .machine = machine->machine,
        .accel = machine->accel,
        .qemu_version = machine->qemu_version,
        .created_us = g_get_real_time(),
        .ram_bytes = import->ram_bytes,
        .n_vcpus = machine->n_vcpus,
        /* libvirt stops a domain before it saves it, and remembers what it was. */
        .paused = head != NULL ? !head->was_running : !stasis_vmstate_is_running(devices),
        .cost = { .total_us = stasis_now_us() - import->begun_us },
    };
    stasis_image_writer_set_info(import->writer, &info);
    return stasis_image_writer_commit(import->writer, error);
}

static StasisImageInfo *import_source(Import *import, StasisStore *store, GError **error)
{
    const StasisSaveHead *head = stasis_import_source_get_head(import->source);
    if (!stasis_import_machine_check(import->options, head, error))
        return NULL;
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, error);
    if (writer == NULL)
        return NULL;
    g_autoptr(StasisImportRam) ram = stasis_import_ram_new(writer, import->options->codec);
    import->writer = writer;
    import->ram = ram;
    g_autoptr(StasisVmstate) devices = read_all(import, error);
    return devices != NULL ? commit(import, devices, error) : NULL;
}

StasisImageInfo *stasis_import(StasisStore *store, const StasisImportOptions *given,
                               GCancellable *cancellable, GError **error)
{
    StasisImportOptions options = STASIS_IMPORT_OPTIONS_INIT;
    stasis_own_options(&options, given, sizeof options);
    g_autoptr(StasisImportSource) source = stasis_import_source_open(&options, cancellable, error);
    Import import = { .options = &options,
                      .source = source,
                      .begun_us = stasis_now_us(),
                      .cancellable = cancellable };
    StasisImageInfo *info = source != NULL ? import_source(&import, store, error) : NULL;
    if (info == NULL)
        g_prefix_error(error, "%s: ", options.path != NULL ? options.path : "the descriptor given");
    return info;
}
