/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image as a migration stream: what a stock QEMU of the same machine loads with -incoming. All
 * RAM blocks with the sizes that they had (a resizeable one grows to its own there), their pages,
 * then the devices as they were saved. A page of zeros is 9 bytes, as QEMU has it: a fresh machine
 * may have something else there, in its ACPI tables or in a file that its RAM is mapped from.
 */
#include <stasis/error.h>
#include <string.h>

#include "engine/exchange/export-internal.h"

#define PENDING_BYTES (1u << 20)

static gboolean write_pending(StasisExport *export, StasisVmstateRam *ram, gsize at_least,
                              GError **error)
{
    if (stasis_vmstate_ram_get_pending(ram) < at_least)
        return TRUE;
    gsize len;
    g_autoptr(GBytes) pages = stasis_vmstate_ram_take_pages(ram);
    const void *data = g_bytes_get_data(pages, &len);
    return stasis_export_file_append(export->file, data, len, export->cancellable, error);
}

static gboolean is_zero_page(const guint8 *page)
{
    return page[0] == 0 && memcmp(page, page + 1, STASIS_PAGE_BYTES - 1) == 0;
}

/* At most STASIS_EXPORT_CHUNK_PAGES pages from @first of the block; @zero: all of them are. */
static gboolean write_pages(StasisExport *export, StasisVmstateRam *ram, guint block, guint64 first,
                            guint64 n_pages, gboolean zero, GError **error)
{
    const char *name = stasis_image_reader_get_block(export->reader, block)->name;
    if (!zero && !stasis_image_reader_read_pages(export->reader, block, first, n_pages,
                                                 export->buffer, error))
        return FALSE;
    for (guint64 i = 0; i < n_pages; i++) {
        const guint8 *page = export->buffer + i * STASIS_PAGE_BYTES;
        stasis_vmstate_ram_add_page(ram, block, name, (first + i) * STASIS_PAGE_BYTES,
                                    zero || is_zero_page(page) ? NULL : page);
    }
    return write_pending(export, ram, PENDING_BYTES, error);
}

static gboolean write_block(StasisExport *export, StasisVmstateRam *ram, guint block,
                            GError **error)
{
    guint64 n_pages = stasis_image_reader_get_block(export->reader, block)->n_pages;
    guint64 before = export->progress.done_bytes;
    for (guint64 page = 0, n; page < n_pages; page += n) {
        gboolean zero;
        if (g_cancellable_set_error_if_cancelled(export->cancellable, error) ||
            !stasis_image_reader_locate(export->reader, block, page, &n, &zero, error))
            return FALSE;
        n = MIN(zero ? MIN(n, STASIS_EXPORT_CHUNK_PAGES) : STASIS_EXPORT_CHUNK_PAGES,
                n_pages - page);
        if (!write_pages(export, ram, block, page, n, zero, error))
            return FALSE;
        stasis_export_report(export, before + (page + n) * STASIS_PAGE_BYTES);
    }
    return TRUE;
}

/* The devices, as QEMU loads them: with machine type, description, and in the state of then. */
static GBytes *read_devices(StasisExport *export, GError **error)
{
    g_autoptr(StasisMachine) machine = stasis_export_machine(export, error);
    g_autoptr(GBytes) saved =
        machine != NULL ? stasis_image_reader_get_part(export->reader, "vmstate", error) : NULL;
    g_autoptr(GBytes) stream =
        saved != NULL ? stasis_vmstate_with_machine(saved, machine->machine, error) : NULL;
    g_autoptr(StasisVmstate) vmstate = stream != NULL ? stasis_vmstate_parse(stream, error) : NULL;
    gboolean running = !stasis_image_reader_get_info(export->reader)->paused;
    g_autoptr(GBytes) set =
        vmstate != NULL ? stasis_vmstate_with_running(vmstate, running, error) : NULL;
    return set != NULL ? stasis_vmstate_with_description(set, error) : NULL;
}

gboolean stasis_export_qemu(StasisExport *export, GError **error)
{
    g_autoptr(StasisVmstateRam) ram = stasis_vmstate_ram_new();
    g_autoptr(GBytes) head = NULL, tail = NULL, devices = read_devices(export, error);
    if (devices == NULL)
        return FALSE;
    guint n_blocks = stasis_image_reader_get_n_blocks(export->reader);
    for (guint i = 0; i < n_blocks; i++) {
        const StasisImageBlock *block = stasis_image_reader_get_block(export->reader, i);
        stasis_vmstate_ram_add_block(ram, block->name, block->size_bytes);
        export->progress.total_bytes += block->n_pages * STASIS_PAGE_BYTES;
    }
    gsize head_len, tail_len;
    if (!stasis_vmstate_ram_frame(ram, devices, &head, &tail, error))
        return FALSE;
    const void *head_data = g_bytes_get_data(head, &head_len);
    const void *tail_data = g_bytes_get_data(tail, &tail_len);
    if (!stasis_export_file_append(export->file, head_data, head_len, export->cancellable, error))
        return FALSE;
    for (guint i = 0; i < n_blocks; i++)
        if (!write_block(export, ram, i, error))
            return FALSE;
    return write_pending(export, ram, 1, error) &&
           stasis_export_file_append(export->file, tail_data, tail_len, export->cancellable,
                                     error) &&
           stasis_export_file_commit(export->file, 0, error);
}
