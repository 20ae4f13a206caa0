/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images of processes in a store (docs/format.md, "processes"): a directory of CRIU's files, flat,
 * and a manifest with the digest of each; in an encrypted store each is sealed. For the engine;
 * what is public is in <stasis/process-image.h>.
 */
#pragma once

#include <stasis/process-image.h>

#include "store/image.h"

G_BEGIN_DECLS

/* The one file that is not CRIU's: what the processes had open on tmpfs, to be unpacked below "/".
 */
#define STASIS_PROC_IMAGE_TMPFS "tmpfs.tar"

/* One of CRIU's files. */
typedef struct {
    char *name;
    guint64 size;
    char *sha256; /* of what is stored, hexadecimal */
    char *map;    /* NULL, or the file that tells where its pages are: then it is none itself */
    char *mac;    /* then, of an encrypted image, in place of sha256; hexadecimal */
} StasisProcImageFile;

/* Is it CRIU's, or what goes with it to where it is restored? Else it is our own. */
gboolean stasis_proc_image_file_is_criu(const StasisProcImageFile *file);

/* May a file of an image have this name? 1 to 64 of letters, digits, ".", "_" and "-", the first no
 * dot; and it is none of ours. */
gboolean stasis_proc_image_file_name_is_valid(const char *name);

void stasis_image_process_free(StasisImageProcess *process);

/* ---- writing ---- */

typedef struct _StasisProcImageWriter StasisProcImageWriter;

/* A new image aside. The store's lock is taken by the commit only. */
StasisProcImageWriter *stasis_proc_image_writer_new(StasisStore *store, GError **error);
/* Before the first file: of files of pages only those pages are stored that image @id has not. With
 * a parent whose pages lie in too many files already, of which each is to be opened to restore it,
 * there is none: all pages are stored, and a chain begins anew. On failure the writer is as before,
 * and may go on without a parent. */
gboolean stasis_proc_image_writer_set_parent(StasisProcImageWriter *writer, const char *id,
                                             GError **error);
/* One file after the other: begin, add, end. @name is untrusted; *ret_sha256 is the digest of what
 * was added, 32 bytes. */
gboolean stasis_proc_image_writer_begin(StasisProcImageWriter *writer, const char *name,
                                        GError **error);
gboolean stasis_proc_image_writer_add(StasisProcImageWriter *writer, const guint8 *bytes, gsize n,
                                      GError **error);
gboolean stasis_proc_image_writer_end(StasisProcImageWriter *writer, guint8 ret_sha256[32],
                                      GError **error);
/* A small part of our own: "boundary.json". */
gboolean stasis_proc_image_writer_add_part(StasisProcImageWriter *writer, const char *name,
                                           GBytes *data, GError **error);
/* Take the lock, when all who write to the store are done, sync, rename, sync. Of @info id, parent,
 * digest, files and sizes are ignored. On failure nothing is listed. */
StasisProcessImageInfo *stasis_proc_image_writer_commit(StasisProcImageWriter *writer,
                                                        const StasisProcessImageInfo *info,
                                                        GCancellable *cancellable, GError **error);
/* Removes what was not committed. */
void stasis_proc_image_writer_free(StasisProcImageWriter *writer);

/* ---- reading ---- */

typedef struct {
    StasisStore *store;
    StasisProcessImageInfo *info;
    GPtrArray *files; /* of StasisProcImageFile, by name (strcmp) */
    int dir_fd;
    GError *why_not; /* it may not be used, as a key is not there; else NULL */
} StasisProcImageReader;

/* The manifest is checked, each file when it is read. Without a key that is needed it can be
 * opened, and nothing of it be read. */
StasisProcImageReader *stasis_proc_image_reader_open(StasisStore *store, const char *id,
                                                     GError **error);
void stasis_proc_image_reader_free(StasisProcImageReader *reader);

/* Takes a piece of a file, at @offset; FALSE with @error ends the reading. */
typedef gboolean (*StasisProcImageTake)(const StasisProcImageFile *file, guint64 offset,
                                        const guint8 *bytes, gsize n, gpointer user_data,
                                        GError **error);
/* Read file @i in pieces of at most 32 KiB (one of 0 bytes, when it is empty), and check it against
 * size and digest: what was taken is right only if that went well. STASIS_ERROR_KEY when a key is
 * missing to open it, or to check who made it. */
gboolean stasis_proc_image_reader_read(StasisProcImageReader *reader, guint i,
                                       StasisProcImageTake take, gpointer user_data,
                                       GError **error);
/* Are all files there, and as long as they must be? */
gboolean stasis_proc_image_reader_check_sizes(StasisProcImageReader *reader, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisImageProcess, stasis_image_process_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisProcImageWriter, stasis_proc_image_writer_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisProcImageReader, stasis_proc_image_reader_free)

G_END_DECLS
