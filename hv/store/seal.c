/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The cipher. What a nonce's first half makes of the key is kept for each thread, since all that
 * one sealer made has the same: an image's extents cost one key schedule, not one each. The layout
 * of associated data is part of the format (docs/format.md).
 */
#include "store/seal.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/random.h>

#include "base/io.h"
#include "store/internal.h"

#define BLOCK 16u
#define GCM_NONCE_BYTES 12u

struct _StasisSealer {
    StasisKeys *keys;
    const StasisKey *key;
    guint8 salt[STASIS_SEAL_SALT_BYTES];
    guint64 counter; /* atomic */
};

/* ---- places ---- */

static void put(StasisSealPlace *place, const void *bytes, gsize n)
{
    g_assert(n <= sizeof(place->bytes) - place->len);
    memcpy(place->bytes + place->len, bytes, n);
    place->len += n;
}

static void put_uint(StasisSealPlace *place, guint64 value)
{
    value = GUINT64_TO_LE(value);
    put(place, &value, sizeof(value));
}

void stasis_seal_place_extent(StasisSealPlace *ret, guint block, guint64 first_page, guint n_pages,
                              guint stored_as)
{
    ret->len = 0;
    put(ret, "extent", 6);
    put_uint(ret, block);
    put_uint(ret, first_page);
    put_uint(ret, n_pages);
    put_uint(ret, stored_as);
}

void stasis_seal_place_part(StasisSealPlace *ret, const char *id, const char *name)
{
    ret->len = 0;
    put(ret, "part", 4);
    put(ret, id, STASIS_ID_CHARS);
    put(ret, name, MIN(strlen(name), 64));
}

void stasis_seal_place_piece(StasisSealPlace *ret, const guint8 file[STASIS_SEAL_NONCE_BYTES],
                             guint64 piece, gboolean last)
{
    ret->len = 0;
    put(ret, "piece", 5);
    put(ret, file, STASIS_SEAL_NONCE_BYTES);
    put_uint(ret, piece);
    put_uint(ret, last != FALSE);
}

/* ---- the key that a nonce's first half picks ---- */

/* @n (whole blocks) of @in, each by itself. */
static gboolean aes_blocks(const guint8 key[STASIS_KEY_BYTES], const guint8 *in, int n, guint8 *out)
{
    EVP_CIPHER_CTX *aes = EVP_CIPHER_CTX_new();
    int len;
    gboolean ok = aes != NULL && EVP_EncryptInit_ex(aes, EVP_aes_256_ecb(), NULL, key, NULL) > 0 &&
                  EVP_CIPHER_CTX_set_padding(aes, 0) > 0 &&
                  EVP_EncryptUpdate(aes, out, &len, in, n) > 0 && len == n;
    EVP_CIPHER_CTX_free(aes);
    return ok;
}

/* NIST SP 800-108 in counter mode with CMAC, as XAES-256-GCM has it: two blocks, label "X". */
static gboolean derive(const guint8 key[STASIS_KEY_BYTES],
                       const guint8 salt[STASIS_SEAL_SALT_BYTES], guint8 ret[STASIS_KEY_BYTES])
{
    guint8 k1[BLOCK] = { 0 }, m[2 * BLOCK] = { 0, 1, 'X', 0, [BLOCK] = 0, 2, 'X', 0 };
    if (!aes_blocks(key, k1, BLOCK, k1))
        return FALSE;
    guint8 top = k1[0] >> 7;
    for (guint i = 0; i < BLOCK; i++)
        k1[i] = (guint8)(k1[i] << 1 | (i + 1 < BLOCK ? k1[i + 1] >> 7 : 0));
    k1[BLOCK - 1] ^= top ? 0x87 : 0;
    for (guint i = 0; i < 2; i++) {
        memcpy(m + i * BLOCK + 4, salt, STASIS_SEAL_SALT_BYTES);
        for (guint j = 0; j < BLOCK; j++)
            m[i * BLOCK + j] ^= k1[j];
    }
    gboolean ok = aes_blocks(key, m, sizeof(m), ret);
    OPENSSL_cleanse(k1, sizeof(k1));
    OPENSSL_cleanse(m, sizeof(m));
    return ok;
}

/* A thread's cipher, ready for one key and salt. */
typedef struct {
    EVP_CIPHER_CTX *context;
    guint64 serial; /* 0: for none */
    guint8 salt[STASIS_SEAL_SALT_BYTES];
} Cipher;

static void cipher_free(gpointer data)
{
    Cipher *cipher = data;
    EVP_CIPHER_CTX_free(cipher->context); /* wipes it */
    g_free(cipher);
}

static GPrivate sealing = G_PRIVATE_INIT(cipher_free);
static GPrivate opening = G_PRIVATE_INIT(cipher_free);

static EVP_CIPHER_CTX *get_cipher(gboolean seal, const StasisKey *key, const guint8 *salt)
{
    GPrivate *place = seal ? &sealing : &opening;
    Cipher *cipher = g_private_get(place);
    guint8 derived[STASIS_KEY_BYTES];
    if (cipher == NULL) {
        cipher = g_new0(Cipher, 1);
        cipher->context = EVP_CIPHER_CTX_new();
        g_private_set(place, cipher);
    }
    if (cipher->serial == key->serial && memcmp(cipher->salt, salt, sizeof(cipher->salt)) == 0)
        return cipher->context;
    cipher->serial = 0;
    gboolean ok =
        cipher->context != NULL && derive(key->secret, salt, derived) &&
        EVP_CipherInit_ex(cipher->context, EVP_aes_256_gcm(), NULL, derived, NULL, seal) > 0;
    OPENSSL_cleanse(derived, sizeof(derived));
    if (!ok)
        return NULL;
    cipher->serial = key->serial;
    memcpy(cipher->salt, salt, sizeof(cipher->salt));
    return cipher->context;
}

/* ---- sealing ---- */

StasisSealer *stasis_sealer_new(StasisKeys *keys, const StasisKey *key, GError **error)
{
    g_autoptr(StasisSealer) sealer = g_new0(StasisSealer, 1);
    sealer->keys = stasis_keys_ref(keys);
    sealer->key = key;
    if (getrandom(sealer->salt, sizeof(sealer->salt), 0) != (ssize_t)sizeof(sealer->salt)) {
        stasis_set_errno(error, errno, "random numbers for nonces");
        return NULL;
    }
    return g_steal_pointer(&sealer);
}

void stasis_sealer_free(StasisSealer *sealer)
{
    if (sealer == NULL)
        return;
    stasis_keys_unref(sealer->keys);
    g_free(sealer);
}

const StasisKey *stasis_sealer_get_key(const StasisSealer *sealer)
{
    return sealer->key;
}

void stasis_sealer_next(StasisSealer *sealer, guint8 ret[STASIS_SEAL_NONCE_BYTES])
{
    guint64 count = GUINT64_TO_LE(__atomic_fetch_add(&sealer->counter, 1, __ATOMIC_RELAXED));
    memset(ret, 0, STASIS_SEAL_NONCE_BYTES);
    memcpy(ret, sealer->salt, sizeof(sealer->salt));
    memcpy(ret + STASIS_SEAL_SALT_BYTES, &count, sizeof(count));
}

gboolean stasis_seal_with_nonce(const StasisKey *key, const guint8 nonce[STASIS_SEAL_NONCE_BYTES],
                                const StasisSealPlace *place, const void *plain, gsize n,
                                guint8 *dst, GError **error)
{
    EVP_CIPHER_CTX *context = get_cipher(TRUE, key, nonce);
    guint8 *text = dst + STASIS_SEAL_NONCE_BYTES;
    int len;
    memcpy(dst, nonce, STASIS_SEAL_NONCE_BYTES);
    if (context != NULL && n <= G_MAXINT &&
        EVP_EncryptInit_ex(context, NULL, NULL, NULL, nonce + STASIS_SEAL_SALT_BYTES) > 0 &&
        EVP_EncryptUpdate(context, NULL, &len, place->bytes, (int)place->len) > 0 &&
        EVP_EncryptUpdate(context, text, &len, plain, (int)n) > 0 &&
        EVP_EncryptFinal_ex(context, text + n, &len) > 0 &&
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, STASIS_SEAL_TAG_BYTES, text + n) > 0)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "AES-256-GCM: OpenSSL can't do that; check the host's libcrypto");
    return FALSE;
}

gboolean stasis_sealer_seal(StasisSealer *sealer, const StasisSealPlace *place, const void *plain,
                            gsize n, guint8 *dst, GError **error)
{
    guint8 nonce[STASIS_SEAL_NONCE_BYTES];
    stasis_sealer_next(sealer, nonce);
    return stasis_seal_with_nonce(sealer->key, nonce, place, plain, n, dst, error);
}

gboolean stasis_unseal(const StasisKey *key, const StasisSealPlace *place, const guint8 *sealed,
                       gsize n, guint8 *dst)
{
    if (n < STASIS_SEAL_BYTES || n > G_MAXINT)
        return FALSE;
    EVP_CIPHER_CTX *context = get_cipher(FALSE, key, sealed);
    guint8 nonce[GCM_NONCE_BYTES], tag[STASIS_SEAL_TAG_BYTES];
    const guint8 *text = sealed + STASIS_SEAL_NONCE_BYTES;
    int len, plain_len = (int)(n - STASIS_SEAL_BYTES);
    memcpy(nonce, sealed + STASIS_SEAL_SALT_BYTES, sizeof(nonce));
    memcpy(tag, text + plain_len, sizeof(tag));
    if (dst == sealed) { /* the cipher works in place, or on what does not overlap */
        memmove(dst, text, (gsize)plain_len);
        text = dst;
    }
    return context != NULL && EVP_DecryptInit_ex(context, NULL, NULL, NULL, nonce) > 0 &&
           EVP_DecryptUpdate(context, NULL, &len, place->bytes, (int)place->len) > 0 &&
           EVP_DecryptUpdate(context, dst, &len, text, plain_len) > 0 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag) > 0 &&
           EVP_DecryptFinal_ex(context, dst + plain_len, &len) > 0;
}
