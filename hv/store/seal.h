/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sealing bytes: XAES-256-GCM (c2sp.org/XAES-256-GCM), an AEAD made of NIST's with nonces of 24
 * bytes. The first half of a nonce picks, by CMAC, a key of its own for AES-256-GCM, the second is
 * that one's nonce. A sealer draws the first half at random, once, and counts in the second: so no
 * two messages under one key can have the same, and how many there are is no matter.
 *
 *     sealed bytes = nonce (24) · ciphertext (as long as the plain bytes) · tag (16)
 *
 * What the bytes are and where they belong goes in as associated data: bytes in another place, or
 * of another kind, don't open.
 */
#pragma once

#include "store/key.h"

G_BEGIN_DECLS

#define STASIS_SEAL_SALT_BYTES 12u
#define STASIS_SEAL_NONCE_BYTES 24u
#define STASIS_SEAL_TAG_BYTES 16u
#define STASIS_SEAL_BYTES (STASIS_SEAL_NONCE_BYTES + STASIS_SEAL_TAG_BYTES) /* what it adds */
#define STASIS_SEAL_CIPHER "xaes-256-gcm"

/* Where sealed bytes belong. */
typedef struct {
    guint8 bytes[128];
    gsize len;
} StasisSealPlace;

/* A stored extent: all of it is known from any record of it, wherever it was moved since. */
void stasis_seal_place_extent(StasisSealPlace *ret, guint block, guint64 first_page, guint n_pages,
                              guint stored_as);
/* The part @name of image @id. */
void stasis_seal_place_part(StasisSealPlace *ret, const char *id, const char *name);
/* Piece number @piece of a file, whose first piece has the nonce @file. */
void stasis_seal_place_piece(StasisSealPlace *ret, const guint8 file[STASIS_SEAL_NONCE_BYTES],
                             guint64 piece, gboolean last);

typedef struct _StasisSealer StasisSealer;

/* Seals with @key, one of @keys, which it holds on to. */
StasisSealer *stasis_sealer_new(StasisKeys *keys, const StasisKey *key, GError **error);
void stasis_sealer_free(StasisSealer *sealer); /* may be NULL */
const StasisKey *stasis_sealer_get_key(const StasisSealer *sealer);
/* The next nonce. */
void stasis_sealer_next(StasisSealer *sealer, guint8 ret[STASIS_SEAL_NONCE_BYTES]);
/* @n bytes into @dst, @n + STASIS_SEAL_BYTES of them; the two must not overlap. Any number of
 * threads. */
gboolean stasis_sealer_seal(StasisSealer *sealer, const StasisSealPlace *place, const void *plain,
                            gsize n, guint8 *dst, GError **error);
gboolean stasis_seal_with_nonce(const StasisKey *key, const guint8 nonce[STASIS_SEAL_NONCE_BYTES],
                                const StasisSealPlace *place, const void *plain, gsize n,
                                guint8 *dst, GError **error);

/* @n sealed bytes into @dst, @n − STASIS_SEAL_BYTES of them; @dst may be @sealed itself. FALSE:
 * they are not what was sealed with this key for this place, and what is in @dst must not be used.
 */
gboolean stasis_unseal(const StasisKey *key, const StasisSealPlace *place, const guint8 *sealed,
                       gsize n, guint8 *dst);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisSealer, stasis_sealer_free)

G_END_DECLS
