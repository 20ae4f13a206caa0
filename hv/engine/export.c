/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images for other tools: the guest-physical memory of an image in one file, flat or as an ELF
 * core. The file is written beside its place and renamed, so that it is whole or not there; pages
 * of zeros are holes in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <stasis/export.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "engine/export-internal.h"
#include "store/image.h"
#include "vmm/machine.h"

#define CHUNK_PAGES 256u
#define PROGRESS_US 50000

/* ---- the file aside ---- */

typedef struct {
    char *path; /* NULL once renamed */
    int fd;
} AsideFile;

static void aside_clear(AsideFile *aside)
{
    stasis_close_fdp(&aside->fd);
    if (aside->path != NULL)
        unlink(aside->path);
    g_free(aside->path);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(AsideFile, aside_clear)

static gboolean aside_open(AsideFile *aside, const char *path, GError **error)
{
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        /* Renaming over a device node or a pipe would do away with it. */
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s is no regular file; name a file to export to", path);
        return FALSE;
    }
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *name = g_path_get_basename(path);
    g_autofree char *template = g_strdup_printf("%s/.%.200s.XXXXXX", dir, name);
    aside->fd = mkostemp(template, O_CLOEXEC);
    if (aside->fd < 0)
        return stasis_set_errno(error, errno, "cannot make a file in %s", dir);
    aside->path = g_steal_pointer(&template);
    return TRUE;
}

static gboolean aside_commit(AsideFile *aside, const char *path, guint64 size, GError **error)
{
    if (size > G_MAXINT64 || ftruncate(aside->fd, (off_t)size) != 0)
        return stasis_set_errno(error, size > G_MAXINT64 ? EFBIG : errno, "cannot size %s", path);
    if (fsync(aside->fd) != 0)
        return stasis_set_errno(error, errno, "cannot write %s", path);
    if (rename(aside->path, path) != 0)
        return stasis_set_errno(error, errno, "cannot rename to %s", path);
    g_clear_pointer(&aside->path, g_free);
    return TRUE;
}

/* ---- pages ---- */

typedef struct {
    StasisImageReader *reader;
    GArray *pieces; /* of StasisExportPiece */
    int fd;
    const char *path; /* for messages */
    guint8 *buffer;   /* CHUNK_PAGES */
    StasisProgress progress;
    StasisProgressFunc func;
    gpointer user_data;
    guint64 reported_us;
    GCancellable *cancellable;
} Export;

static void report(Export *export, gboolean now)
{
    if (export->func == NULL)
        return;
    guint64 us = stasis_now_us();
    if (!now && us - export->reported_us < PROGRESS_US)
        return;
    export->reported_us = us;
    export->func(&export->progress, export->user_data);
}

static gboolean is_zero(const guint8 *p, gsize len)
{
    return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

/* Bytes from @at on that are all zeros, or all not, by pages of the file. */
static gsize same_run(const guint8 *data, gsize at, gsize len, gboolean *ret_zero)
{
    gsize n = 0;
    while (at + n < len) {
        gsize step = MIN(STASIS_PAGE_BYTES, len - at - n);
        gboolean zero = is_zero(data + at + n, step);
        if (n == 0)
            *ret_zero = zero;
        else if (zero != *ret_zero)
            break;
        n += step;
    }
    return n;
}

static gboolean write_sparse(Export *export, const guint8 *data, gsize len, guint64 offset,
                             GError **error)
{
    for (gsize at = 0; at < len;) {
        gboolean zero = FALSE;
        gsize n = same_run(data, at, len, &zero);
        int rc = zero ? 0 : stasis_pwrite_all(export->fd, data + at, n, (off_t)(offset + at));
        if (rc < 0)
            return stasis_set_errno(error, -rc, "cannot write %s", export->path);
        at += n;
    }
    return TRUE;
}

/* Copy what one look at the image gives from @done bytes into @piece on; adds to *done. */
static gboolean copy_some(Export *export, const StasisExportPiece *piece, guint64 *done,
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
    n_pages = MIN(wanted, CHUNK_PAGES);
    gsize len = (gsize)MIN(left, n_pages * STASIS_PAGE_BYTES - skip);
    if (!stasis_image_reader_read_pages(export->reader, piece->block, page, n_pages, export->buffer,
                                        error) ||
        !write_sparse(export, export->buffer + skip, len, piece->file_offset + *done, error))
        return FALSE;
    *done += len;
    return TRUE;
}

static gboolean copy_piece(Export *export, const StasisExportPiece *piece, GError **error)
{
    guint64 before = export->progress.done_bytes;
    for (guint64 done = 0; done < piece->range->size_bytes;) {
        if (g_cancellable_set_error_if_cancelled(export->cancellable, error) ||
            !copy_some(export, piece, &done, error))
            return FALSE;
        export->progress.done_bytes = before + done;
        report(export, FALSE);
    }
    return TRUE;
}

static gboolean copy_all(Export *export, GError **error)
{
    for (guint i = 0; i < export->pieces->len; i++)
        if (!copy_piece(export, &g_array_index(export->pieces, StasisExportPiece, i), error))
            return FALSE;
    report(export, TRUE);
    return TRUE;
}

/* ---- formats ---- */

static GByteArray *prepare_raw(GArray *pieces, StasisImageReader *reader, GError **error)
{
    for (guint i = 0; i < pieces->len; i++) {
        StasisExportPiece *piece = &g_array_index(pieces, StasisExportPiece, i);
        piece->file_offset = piece->range->gpa;
    }
    return g_byte_array_new();
}

static GByteArray *prepare_core(GArray *pieces, StasisImageReader *reader, GError **error)
{
    g_autoptr(GBytes) stream = stasis_image_reader_get_part(reader, "vmstate", error);
    g_autoptr(StasisVmstate) vmstate = stream != NULL ? stasis_vmstate_parse(stream, error) : NULL;
    return vmstate != NULL ? stasis_export_core_header(pieces, vmstate, error) : NULL;
}

static const struct {
    const char *name;
    /* Place @pieces in the file; what the file begins with. */
    GByteArray *(*prepare)(GArray *pieces, StasisImageReader *reader, GError **error);
} formats[] = {
    [STASIS_EXPORT_RAW_MEMORY] = { "raw-memory", prepare_raw },
    [STASIS_EXPORT_ELF_CORE] = { "elf-core", prepare_core },
};

int stasis_export_format_from_string(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(formats); i++)
        if (strcmp(name, formats[i].name) == 0)
            return (int)i;
    return -1;
}

/* ---- composition ---- */

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

static StasisMachine *read_machine(StasisImageReader *reader, GError **error)
{
    g_autoptr(GBytes) json = stasis_image_reader_get_part(reader, "machine.json", error);
    return json != NULL ? stasis_machine_from_json(json, error) : NULL;
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

/* Write @header and the memory of @export to its path. */
static gboolean write_file(Export *export, const GByteArray *header, GError **error)
{
    g_auto(AsideFile) aside = { .path = NULL, .fd = -1 };
    if (!aside_open(&aside, export->path, error))
        return FALSE;
    export->fd = aside.fd;
    int rc = header->len > 0 ? stasis_pwrite_all(aside.fd, header->data, header->len, 0) : 0;
    if (rc < 0)
        return stasis_set_errno(error, -rc, "cannot write %s", export->path);
    return copy_all(export, error) &&
           aside_commit(&aside, export->path, file_size(export->pieces), error);
}

gboolean stasis_export(StasisStore *store, const char *id, StasisExportFormat format,
                       const char *path, StasisProgressFunc progress, gpointer user_data,
                       GCancellable *cancellable, GError **error)
{
    if ((guint)format >= G_N_ELEMENTS(formats)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "unknown export format %d",
                    (int)format);
        return FALSE;
    }
    g_autofree char *full_id = stasis_store_resolve(store, id, error);
    if (full_id == NULL)
        return FALSE;
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, full_id, error);
    if (reader == NULL)
        return FALSE;
    g_autoptr(StasisMachine) machine = read_machine(reader, error);
    g_autoptr(GArray) pieces = machine != NULL ? make_pieces(reader, machine, error) : NULL;
    if (pieces == NULL)
        return FALSE;
    g_autoptr(GByteArray) header = formats[format].prepare(pieces, reader, error);
    if (header == NULL)
        return FALSE;
    g_autofree guint8 *buffer = g_malloc((gsize)CHUNK_PAGES * STASIS_PAGE_BYTES);
    Export export = { .reader = reader,
                      .pieces = pieces,
                      .path = path,
                      .buffer = buffer,
                      .progress = { .phase = "export", .total_bytes = memory_size(pieces) },
                      .func = progress,
                      .user_data = user_data,
                      .cancellable = cancellable };
    return write_file(&export, header, error);
}
