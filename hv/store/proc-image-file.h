/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files of an image of processes as they are stored, so that nobody above needs to know if that
 * is as they are or, in an encrypted store, sealed (docs/format.md, "Sealed images"): in pieces of
 * so many bytes, each by itself, so that pages can be read wherever they lie. What binds a piece to
 * its file is the first piece's nonce, not a name or an ID: a file can be linked into a later image
 * under another name.
 */
#pragma once

#include "store/internal.h"
#include "store/proc-image.h"

G_BEGIN_DECLS

#define STASIS_PROC_PIECE_BYTES 32768u

/* What @size bytes take in a file. */
guint64 stasis_proc_file_stored_bytes(guint64 size, gboolean sealed);

/* ---- writing ---- */

typedef struct _StasisProcFileWriter StasisProcFileWriter;

/* @sealer, which is borrowed, or NULL: as it is. */
StasisProcFileWriter *stasis_proc_file_create(int dir_fd, const char *name, StasisSealer *sealer,
                                              GError **error);
gboolean stasis_proc_file_append(StasisProcFileWriter *writer, const guint8 *bytes, gsize n,
                                 GError **error);
/* Its end, synced. Fills in size and sha256 (of what is stored) of @ret; *ret_content, 32 bytes or
 * NULL, is the digest of what was appended. */
gboolean stasis_proc_file_end(StasisProcFileWriter *writer, StasisProcImageFile *ret,
                              guint8 *ret_content, GError **error);
void stasis_proc_file_writer_free(StasisProcFileWriter *writer);

/* ---- reading ---- */

typedef struct _StasisProcFileReader StasisProcFileReader;

/* @file as its manifest has it, which says how long it must be; sealed with @key, or NULL: as it
 * is. @stored, borrowed, or NULL: takes in what is read of the file. */
StasisProcFileReader *stasis_proc_file_open(int dir_fd, const StasisProcImageFile *file,
                                            const StasisKey *key, StasisHash *stored,
                                            GError **error);
/* @n bytes at @offset; 0 of an empty file look at it, too. A piece that was not sealed there is
 * STASIS_ERROR_CORRUPT. */
gboolean stasis_proc_file_read(StasisProcFileReader *reader, guint64 offset, guint8 *bytes, gsize n,
                               GError **error);
void stasis_proc_file_reader_free(StasisProcFileReader *reader);

/* ---- files that are assembled from others ---- */

/* In place of a digest, which tells whether a guess at the content is right, what only who has @key
 * can make of it: hexadecimal, of the SHA-256 @content. Free with g_free(). */
char *stasis_proc_file_mac(const StasisKey *key, const char *content, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisProcFileWriter, stasis_proc_file_writer_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisProcFileReader, stasis_proc_file_reader_free)

G_END_DECLS
