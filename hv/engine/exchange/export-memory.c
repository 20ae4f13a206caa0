/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest-physical memory of an image in one file, flat or as an ELF core. Pages of zeros are
 * holes in it.
 */
#include <stasis/error.h>
#include <string.h>

#include "base/io.h"
#include "engine/exchange/export-internal.h"

/* ---- which range goes where ---- */

static gboolean find_block(StasisImageReader *reader, const char *name, guint *ret_block)
{
    for (guint i = 0; i < stasis_image_reader_get_n_blocks(reader); i++)
        if (strcmp(stasis_image_reader_get_block(reader, i)->name, name) == 0) {
            *ret_block = i;
            return TRUE;
        }
    return FALSE;
}

/* The ranges of the machine's layout, each within a RAM block that the image has. */
static GArray *make_pieces(StasisImageReader *reader, const StasisMachine *machine, GError **error)
{
    const char *id = stasis_image_reader_get_info(reader)->id;
    if (machine->layout == NULL || machine->layout->len == 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "image %s does not say where its RAM blocks are in guest-physical memory", id);
        return NULL;
    }
    g_autoptr(GArray) pieces = g_array_new(FALSE, TRUE, sizeof(StasisExportPiece));
    for (guint i = 0; i < machine->layout->len; i++) {
        const StasisGpaRange *range = g_ptr_array_index(machine->layout, i);
        StasisExportPiece piece = { .range = range };
        guint64 block_bytes = 0;
        if (find_block(reader, range->block, &piece.block))
            block_bytes =
                stasis_image_reader_get_block(reader, piece.block)->n_pages * STASIS_PAGE_BYTES;
        if (range->offset > block_bytes || range->size_bytes > block_bytes - range->offset ||
            range->gpa > G_MAXINT64 || range->size_bytes > G_MAXINT64 - range->gpa) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                        "image %s: machine.json maps memory at 0x%" G_GINT64_MODIFIER
                        "x to a place that RAM block \"%s\" does not have",
                        id, range->gpa, range->block);
            return NULL;
        }
        g_array_append_val(pieces, piece);
    }
    return g_steal_pointer(&pieces);
}

/* Where the file ends: behind the memory that lies last in it. */
static guint64 file_size(const GArray *pieces)
{
    guint64 size = 0;
    for (guint i = 0; i < pieces->len; i++) {
        const StasisExportPiece *piece = &g_array_index(pieces, StasisExportPiece, i);
        size = MAX(size, piece->file_offset + piece->range->size_bytes);
    }
    return size;
}

static guint64 memory_size(const GArray *pieces)
{
    guint64 size = 0;
    for (guint i = 0; i < pieces->len; i++)
        size += g_array_index(pieces, StasisExportPiece, i).range->size_bytes;
    return size;
}

/* ---- pages ---- */

/* Copy what one look at the image gives from @done bytes into @piece on; adds to *done. */
static gboolean copy_some(StasisExport *export, const StasisExportPiece *piece, guint64 *done,
                          GError **error)
{
    guint64 offset = piece->range->offset + *done;
    guint64 page = offset / STASIS_PAGE_BYTES, skip = offset % STASIS_PAGE_BYTES;
    guint64 left = piece->range->size_bytes - *done;
    guint64 n_pages;
    gboolean zero;
    if (!stasis_image_reader_locate(export->reader, piece->block, page, &n_pages, &zero, error))
        return FALSE;
    if (zero) {
        *done += n_pages > G_MAXINT64 / STASIS_PAGE_BYTES
                     ? left
                     : MIN(left, n_pages * STASIS_PAGE_BYTES - skip);
        return TRUE;
    }
    guint64 wanted = (skip + left + STASIS_PAGE_BYTES - 1) / STASIS_PAGE_BYTES;
    n_pages = MIN(wanted, STASIS_EXPORT_CHUNK_PAGES);
    gsize len = (gsize)MIN(left, n_pages * STASIS_PAGE_BYTES - skip);
    if (!stasis_image_reader_read_pages(export->reader, piece->block, page, n_pages, export->buffer,
                                        error) ||
        !stasis_export_file_place(export->file, export->buffer + skip, len,
                                  piece->file_offset + *done, error))
        return FALSE;
    *done += len;
    return TRUE;
}

static gboolean copy_piece(StasisExport *export, const StasisExportPiece *piece, GError **error)
{
    guint64 before = export->progress.done_bytes;
    for (guint64 done = 0; done < piece->range->size_bytes;) {
        if (g_cancellable_set_error_if_cancelled(export->cancellable, error) ||
            !copy_some(export, piece, &done, error))
            return FALSE;
        stasis_export_report(export, before + done);
    }
    return TRUE;
}

/* @header, and the memory of @pieces where they say. */
static gboolean write_file(StasisExport *export, const GByteArray *header, GArray *pieces,
                           GError **error)
{
    export->progress.total_bytes = memory_size(pieces);
    if (!stasis_export_file_place(export->file, header->data, header->len, 0, error))
        return FALSE;
    for (guint i = 0; i < pieces->len; i++)
        if (!copy_piece(export, &g_array_index(pieces, StasisExportPiece, i), error))
            return FALSE;
    return stasis_export_file_commit(export->file, file_size(pieces), error);
}

/* ---- formats ---- */

gboolean stasis_export_raw_memory(StasisExport *export, GError **error)
{
    g_autoptr(StasisMachine) machine = stasis_export_machine(export, error);
    g_autoptr(GArray) pieces = machine != NULL ? make_pieces(export->reader, machine, error) : NULL;
    if (pieces == NULL)
        return FALSE;
    for (guint i = 0; i < pieces->len; i++) {
        StasisExportPiece *piece = &g_array_index(pieces, StasisExportPiece, i);
        piece->file_offset = piece->range->gpa;
    }
    g_autoptr(GByteArray) header = g_byte_array_new();
    return write_file(export, header, pieces, error);
}

gboolean stasis_export_elf_core(StasisExport *export, GError **error)
{
    g_autoptr(StasisMachine) machine = stasis_export_machine(export, error);
    g_autoptr(GArray) pieces = machine != NULL ? make_pieces(export->reader, machine, error) : NULL;
    g_autoptr(GBytes) stream =
        pieces != NULL ? stasis_image_reader_get_part(export->reader, "vmstate", error) : NULL;
    g_autoptr(StasisVmstate) vmstate = stream != NULL ? stasis_vmstate_parse(stream, error) : NULL;
    g_autoptr(GByteArray) header =
        vmstate != NULL ? stasis_export_core_header(pieces, vmstate, error) : NULL;
    return header != NULL && write_file(export, header, pieces, error);
}

int stasis_export_find_disk(StasisExport *export, GError **error)
{
    const char *disk = export->options->disk;
    int block = stasis_image_reader_find_disk(export->reader, disk);
    if (block < 0)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "image %s has no disk \"%.200s\"; checkpoint-info lists those it has",
                    stasis_image_reader_get_info(export->reader)->id, disk);
    return block;
}

gboolean stasis_export_disk(StasisExport *export, GError **error)
{
    gboolean ok;
    if (stasis_export_referred(export, "raw", &ok, error))
        return ok;
    int block = stasis_export_find_disk(export, error);
    if (block < 0)
        return FALSE;
    StasisGpaRange range = {
        .size_bytes = stasis_image_reader_get_block(export->reader, (guint)block)->size_bytes
    };
    StasisExportPiece piece = { .range = &range, .block = (guint)block };
    g_autoptr(GArray) pieces = g_array_new(FALSE, TRUE, sizeof(StasisExportPiece));
    g_array_append_val(pieces, piece);
    g_autoptr(GByteArray) header = g_byte_array_new();
    return write_file(export, header, pieces, error);
}
