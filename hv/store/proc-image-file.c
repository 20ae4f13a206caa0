/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A piece of a sealed file says where it belongs (its file, its number, whether it is the last), so
 * one that is cut off, doubled, moved or of another file does not open. Writing keeps a piece until
 * it is known if another follows it.
 */
#include "store/proc-image-file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"

#define PIECE STASIS_PROC_PIECE_BYTES
#define SEALED_PIECE (PIECE + STASIS_SEAL_BYTES)
/* What is authenticated so is no manifest. */
#define CONTENT_AS "stasis content 1\n"

/* An empty file has a piece, too: else anybody could make it one. */
static guint64 count_pieces(guint64 size)
{
    return size == 0 ? 1 : (size - 1) / PIECE + 1;
}

guint64 stasis_proc_file_stored_bytes(guint64 size, gboolean sealed)
{
    return sealed ? size + count_pieces(size) * STASIS_SEAL_BYTES : size;
}

/* ---- writing ---- */

struct _StasisProcFileWriter {
    int fd;
    char *name;
    StasisSealer *sealer;
    StasisHash *content;
    StasisHash *stored; /* sealed: of that; else NULL, for it is the same */
    guint64 size;       /* appended */
    guint64 n_pieces;   /* written */
    guint8 file[STASIS_SEAL_NONCE_BYTES];
    guint8 *piece; /* under way */
    gsize n;       /* bytes of it */
    guint8 *sealed;
};

StasisProcFileWriter *stasis_proc_file_create(int dir_fd, const char *name, StasisSealer *sealer,
                                              GError **error)
{
    g_autoptr(StasisProcFileWriter) w = g_new0(StasisProcFileWriter, 1);
    w->fd = stasis_store_create_file(dir_fd, name, error);
    if (w->fd < 0)
        return NULL;
    w->name = g_strdup(name);
    w->sealer = sealer;
    w->content = stasis_hash_new();
    if (sealer != NULL) {
        w->stored = stasis_hash_new();
        w->piece = g_malloc(PIECE);
        w->sealed = g_malloc(SEALED_PIECE);
    }
    return g_steal_pointer(&w);
}

void stasis_proc_file_writer_free(StasisProcFileWriter *w)
{
    if (w == NULL)
        return;
    stasis_clear_fd(&w->fd);
    stasis_hash_free(w->content);
    stasis_hash_free(w->stored);
    g_free(w->name);
    g_free(w->piece);
    g_free(w->sealed);
    g_free(w);
}

static gboolean write_at(StasisProcFileWriter *w, const guint8 *bytes, gsize n, guint64 offset,
                         GError **error)
{
    int r = stasis_pwrite_all(w->fd, bytes, n, (off_t)offset);
    return r == 0 || stasis_set_errno(error, -r, "%s: write", w->name);
}

static gboolean write_piece(StasisProcFileWriter *w, gboolean last, GError **error)
{
    StasisSealPlace place;
    guint8 nonce[STASIS_SEAL_NONCE_BYTES];
    guint64 number = w->n_pieces++;
    gsize n = w->n + STASIS_SEAL_BYTES;
    stasis_sealer_next(w->sealer, nonce);
    if (number == 0)
        memcpy(w->file, nonce, sizeof(nonce));
    stasis_seal_place_piece(&place, w->file, number, last);
    if (!stasis_seal_with_nonce(stasis_sealer_get_key(w->sealer), nonce, &place, w->piece, w->n,
                                w->sealed, error))
        return FALSE;
    stasis_hash_add(w->stored, w->sealed, n);
    w->n = 0;
    return write_at(w, w->sealed, n, number * SEALED_PIECE, error);
}

gboolean stasis_proc_file_append(StasisProcFileWriter *w, const guint8 *bytes, gsize n,
                                 GError **error)
{
    stasis_hash_add(w->content, bytes, n);
    guint64 at = w->size;
    w->size += n;
    if (w->sealer == NULL)
        return write_at(w, bytes, n, at, error);
    while (n > 0) {
        if (w->n == PIECE && !write_piece(w, /* last= */ FALSE, error))
            return FALSE;
        gsize take = MIN(n, PIECE - w->n);
        memcpy(w->piece + w->n, bytes, take);
        w->n += take;
        bytes += take;
        n -= take;
    }
    return TRUE;
}

gboolean stasis_proc_file_end(StasisProcFileWriter *w, StasisProcImageFile *ret,
                              guint8 *ret_content, GError **error)
{
    if (w->sealer != NULL && !write_piece(w, /* last= */ TRUE, error))
        return FALSE;
    if (fdatasync(w->fd) < 0)
        return stasis_set_errno(error, errno, "%s: sync", w->name);
    StasisDigest content, stored;
    if (!stasis_hash_end(w->content, &content, error) ||
        (w->stored != NULL && !stasis_hash_end(w->stored, &stored, error)))
        return FALSE;
    ret->size = w->size;
    g_free(ret->sha256);
    ret->sha256 = g_malloc(STASIS_DIGEST_HEX);
    stasis_digest_to_hex(w->stored != NULL ? &stored : &content, ret->sha256);
    if (ret_content != NULL)
        memcpy(ret_content, content.bytes, sizeof(content.bytes));
    return TRUE;
}

/* ---- reading ---- */

struct _StasisProcFileReader {
    int fd;
    char *name;
    guint64 size;
    const StasisKey *key;
    StasisHash *stored;
    guint8 file[STASIS_SEAL_NONCE_BYTES];
    guint8 *piece;  /* the one that was opened last */
    guint64 number; /* its number, and 1; 0: none */
    guint8 *sealed;
};

static gboolean read_at(StasisProcFileReader *r, guint8 *bytes, gsize n, guint64 offset,
                        GError **error)
{
    int e = stasis_pread_all(r->fd, bytes, n, (off_t)offset);
    if (e == -ENODATA)
        return stasis_corrupt(error, "%s: it became shorter while it was read", r->name);
    return e == 0 || stasis_set_errno(error, -e, "%s: read", r->name);
}

StasisProcFileReader *stasis_proc_file_open(int dir_fd, const StasisProcImageFile *file,
                                            const StasisKey *key, StasisHash *stored,
                                            GError **error)
{
    g_autoptr(StasisProcFileReader) r = g_new0(StasisProcFileReader, 1);
    guint64 there, wanted = stasis_proc_file_stored_bytes(file->size, key != NULL);
    r->fd = stasis_store_open_file(dir_fd, file->name, &there, error);
    if (r->fd < 0)
        return NULL;
    r->name = g_strdup(file->name);
    r->size = file->size;
    r->key = key;
    r->stored = stored;
    if (there != wanted) {
        stasis_corrupt(error,
                       "%s: %" G_GUINT64_FORMAT " bytes, it has %" G_GUINT64_FORMAT
                       " as the manifest says",
                       r->name, there, wanted);
        return NULL;
    }
    if (key != NULL) {
        r->piece = g_malloc(PIECE);
        r->sealed = g_malloc(SEALED_PIECE);
    }
    return key == NULL || read_at(r, r->file, sizeof(r->file), 0, error) ? g_steal_pointer(&r)
                                                                         : NULL;
}

void stasis_proc_file_reader_free(StasisProcFileReader *r)
{
    if (r == NULL)
        return;
    stasis_clear_fd(&r->fd);
    g_free(r->name);
    g_free(r->piece);
    g_free(r->sealed);
    g_free(r);
}

static gboolean open_piece(StasisProcFileReader *r, guint64 number, GError **error)
{
    StasisSealPlace place;
    gsize n = (gsize)MIN(PIECE, r->size - number * PIECE) + STASIS_SEAL_BYTES;
    gboolean last = number + 1 == count_pieces(r->size);
    if (r->number == number + 1)
        return TRUE;
    r->number = 0;
    if (!read_at(r, r->sealed, n, number * SEALED_PIECE, error))
        return FALSE;
    if (r->stored != NULL)
        stasis_hash_add(r->stored, r->sealed, n);
    stasis_seal_place_piece(&place, r->file, number, last);
    if (!stasis_unseal(r->key, &place, r->sealed, n, r->piece))
        return stasis_corrupt(error,
                              "%s: piece %" G_GUINT64_FORMAT
                              " is not what was sealed there; use another image",
                              r->name, number);
    r->number = number + 1;
    return TRUE;
}

gboolean stasis_proc_file_read(StasisProcFileReader *r, guint64 offset, guint8 *bytes, gsize n,
                               GError **error)
{
    if (offset > r->size || n > r->size - offset)
        return stasis_corrupt(error, "%s: it is not as long as that", r->name);
    if (r->key == NULL) {
        if (!read_at(r, bytes, n, offset, error))
            return FALSE;
        if (r->stored != NULL)
            stasis_hash_add(r->stored, bytes, n);
        return TRUE;
    }
    do {
        gsize within = (gsize)(offset % PIECE), take = MIN(n, PIECE - within);
        if (!open_piece(r, offset / PIECE, error))
            return FALSE;
        memcpy(bytes, r->piece + within, take);
        bytes += take;
        offset += take;
        n -= take;
    } while (n > 0);
    return TRUE;
}

/* ---- files that are assembled from others ---- */

char *stasis_proc_file_mac(const StasisKey *key, const char *content, GError **error)
{
    guint8 mac[STASIS_MAC_BYTES];
    g_autofree char *text = g_strconcat(CONTENT_AS, content, NULL);
    char *hex = g_malloc(2 * sizeof(mac) + 1);
    if (!stasis_key_mac(key, text, strlen(text), mac, error)) {
        g_free(hex);
        return NULL;
    }
    stasis_to_hex(mac, sizeof(mac), hex);
    return hex;
}
