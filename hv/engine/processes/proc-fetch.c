/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/processes/proc-fetch.h"

#include <stasis/error.h>
#include <string.h>
#include <xxhash.h>

#include "agent/file-read.h"
#include "base/fault.h"

#define MAX_RUNS (STASIS_AGENT_PIECE_BYTES / 4096u) /* a page each at least */

/* ---- what the guest has told ---- */

static void piece_clear(StasisProcPiece *piece)
{
    g_free(piece->runs);
}

StasisProcPlaced *stasis_proc_placed_new(const char *name, guint64 size)
{
    StasisProcPlaced *file = g_new0(StasisProcPlaced, 1);
    file->name = g_strdup(name);
    file->size = size;
    file->pieces = g_array_new(FALSE, FALSE, sizeof(StasisProcPiece));
    g_array_set_clear_func(file->pieces, (GDestroyNotify)piece_clear);
    return file;
}

void stasis_proc_placed_free(StasisProcPlaced *file)
{
    g_array_unref(file->pieces);
    g_free(file->name);
    g_free(file);
}

/* Bytes behind the pieces that are there. */
static guint64 left_of(const StasisProcPlaced *file)
{
    guint64 before = (guint64)file->pieces->len * STASIS_AGENT_PIECE_BYTES;
    return file->size > before ? file->size - before : 0;
}

gboolean stasis_proc_placed_is_whole(const StasisProcPlaced *file)
{
    return left_of(file) == 0;
}

gboolean stasis_proc_placed_add(StasisProcPlaced *file, const guint8 *fields, guint32 length)
{
    StasisProcPiece piece = { 0 };
    StasisField runs;
    guint64 bytes = stasis_field_number(fields, length, STASIS_AGENT_TAG_SIZE, 0), sum = 0;
    if (bytes == 0 || bytes != MIN(left_of(file), STASIS_AGENT_PIECE_BYTES) ||
        !stasis_field_find(fields, length, STASIS_AGENT_TAG_RUNS, &runs) ||
        runs.length % sizeof *piece.runs != 0)
        return FALSE;
    piece.bytes = (guint32)bytes;
    piece.checksum = stasis_field_number(fields, length, STASIS_AGENT_TAG_CHECKSUM, 0);
    piece.n_runs = runs.length / (guint32)sizeof *piece.runs;
    if (piece.n_runs > MAX_RUNS)
        return FALSE;
    g_autofree StasisAgentRun *copy = g_memdup2(runs.value, runs.length);
    for (guint i = 0; i < piece.n_runs; i++) {
        copy[i].address = GUINT64_FROM_LE(copy[i].address);
        copy[i].bytes = GUINT64_FROM_LE(copy[i].bytes);
        if (copy[i].bytes == 0 || copy[i].bytes > bytes - sum)
            return FALSE;
        sum += copy[i].bytes;
    }
    if (piece.n_runs > 0 && sum != bytes)
        return FALSE;
    piece.runs = g_steal_pointer(&copy);
    g_array_append_val(file->pieces, piece);
    return TRUE;
}

/* ---- a piece ---- */

static gboolean is_right(const StasisProcPiece *piece, const guint8 *bytes)
{
    return XXH64(bytes, piece->bytes, 0) == piece->checksum;
}

static gboolean read_memory(const StasisProcFetch *from, const StasisProcPiece *piece,
                            guint8 *bytes)
{
    guint64 at = 0;
    for (guint i = 0; i < piece->n_runs; i++) {
        if (!stasis_guest_memory_read(from->memory, piece->runs[i].address, bytes + at,
                                      piece->runs[i].bytes))
            return FALSE;
        at += piece->runs[i].bytes;
    }
    return piece->n_runs > 0 && is_right(piece, bytes) &&
           stasis_fault(STASIS_FAULT_PROC_PLACED, NULL);
}

static gboolean add_bytes(const guint8 *bytes, guint32 n, gpointer user_data, GError **error)
{
    guint8 **end = user_data;
    memcpy(*end, bytes, n);
    *end += n;
    return TRUE;
}

static gboolean ask_for(const StasisProcFetch *from, const char *name, guint64 offset,
                        const StasisProcPiece *piece, guint8 *bytes, GError **error)
{
    guint8 *end = bytes;
    guint32 n;
    g_autofree char *path = g_build_filename(from->dir != NULL ? from->dir : "/", name, NULL);
    if (!stasis_agent_file_read(from->agent, path, offset, piece->bytes, add_bytes, &end, &n,
                                from->wait, error))
        return FALSE;
    if (n == piece->bytes && is_right(piece, bytes))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "agent: the image of the processes is not whole: %s is not what it said", name);
    return FALSE;
}

/* ---- all of them ---- */

static gboolean fetch_file(const StasisProcFetch *from, const StasisProcPlaced *file, guint64 *done,
                           guint8 *bytes, StasisProcImageWriter *writer, GError **error)
{
    guint8 sha256[32];
    guint64 offset = 0;
    if (!stasis_proc_image_writer_begin(writer, file->name, error))
        return FALSE;
    for (guint i = 0; i < file->pieces->len; i++) {
        const StasisProcPiece *piece = &g_array_index(file->pieces, StasisProcPiece, i);
        if ((!read_memory(from, piece, bytes) &&
             !ask_for(from, file->name, offset, piece, bytes, error)) ||
            g_cancellable_set_error_if_cancelled(from->wait->cancellable, error) ||
            !stasis_proc_image_writer_add(writer, bytes, piece->bytes, error))
            return FALSE;
        offset += piece->bytes;
        StasisProgress progress = { "receive", *done += piece->bytes, 0 };
        if (from->progress != NULL)
            from->progress(&progress, from->progress_data);
    }
    return stasis_proc_image_writer_end(writer, sha256, error) &&
           stasis_fault(STASIS_FAULT_PROC_RECEIVING, error);
}

gboolean stasis_proc_fetch(const StasisProcFetch *from, const GPtrArray *files, guint64 done,
                           StasisProcImageWriter *writer, GError **error)
{
    g_autofree guint8 *bytes = g_malloc(STASIS_AGENT_PIECE_BYTES);
    for (guint i = 0; i < files->len; i++)
        if (!fetch_file(from, g_ptr_array_index(files, i), &done, bytes, writer, error))
            return FALSE;
    return TRUE;
}
