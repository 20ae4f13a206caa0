/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One hash for extents, files, manifests and bundles, because with the CPU's SHA instructions it
 * runs at disk speed, and so the checksum of an extent need not be weaker than the digest above it.
 * (GLib's own is written in C, and several times slower.) The algorithm is fetched once and the
 * context kept for each thread: both cost more than hashing one page.
 */
#include "base/digest.h"

#include <openssl/evp.h>
#include <stasis/error.h>

static void free_context(gpointer context)
{
    EVP_MD_CTX_free(context);
}

static GPrivate context_key = G_PRIVATE_INIT(free_context);

static gpointer fetch_sha256(gpointer unused)
{
    return EVP_MD_fetch(NULL, "SHA256", NULL);
}

static const EVP_MD *get_sha256(void)
{
    static GOnce once = G_ONCE_INIT;
    return g_once(&once, fetch_sha256, NULL);
}

static gboolean cant(GError **error)
{
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "SHA-256: OpenSSL can't compute it; check the host's libcrypto");
    return FALSE;
}

gboolean stasis_digest_of(StasisDigest *ret, const void *a, size_t a_len, const void *b,
                          size_t b_len, GError **error)
{
    const EVP_MD *md = get_sha256();
    EVP_MD_CTX *context = g_private_get(&context_key);
    if (context == NULL) {
        context = EVP_MD_CTX_new();
        g_private_set(&context_key, context);
    }
    if (md == NULL || context == NULL || !EVP_DigestInit_ex2(context, md, NULL) ||
        !EVP_DigestUpdate(context, a, a_len) || !EVP_DigestUpdate(context, b, b_len) ||
        !EVP_DigestFinal_ex(context, ret->bytes, NULL))
        return cant(error);
    return TRUE;
}

struct _StasisHash {
    EVP_MD_CTX *context;
    gboolean ok;
};

StasisHash *stasis_hash_new(void)
{
    StasisHash *hash = g_new0(StasisHash, 1);
    const EVP_MD *md = get_sha256();
    hash->context = EVP_MD_CTX_new();
    hash->ok =
        md != NULL && hash->context != NULL && EVP_DigestInit_ex2(hash->context, md, NULL) > 0;
    return hash;
}

void stasis_hash_add(StasisHash *hash, const void *bytes, gsize n)
{
    hash->ok = hash->ok && EVP_DigestUpdate(hash->context, bytes, n) > 0;
}

gboolean stasis_hash_end(StasisHash *hash, StasisDigest *ret, GError **error)
{
    gboolean ok = hash->ok && EVP_DigestFinal_ex(hash->context, ret->bytes, NULL) > 0;
    hash->ok = FALSE;
    return ok || cant(error);
}

gboolean stasis_hash_end_hex(StasisHash *hash, char ret[STASIS_DIGEST_HEX], GError **error)
{
    StasisDigest digest;
    if (!stasis_hash_end(hash, &digest, error))
        return FALSE;
    stasis_digest_to_hex(&digest, ret);
    return TRUE;
}

void stasis_hash_free(StasisHash *hash)
{
    if (hash == NULL)
        return;
    EVP_MD_CTX_free(hash->context);
    g_free(hash);
}

void stasis_digest_to_hex(const StasisDigest *digest, char ret[STASIS_DIGEST_HEX])
{
    stasis_to_hex(digest->bytes, sizeof(digest->bytes), ret);
}

void stasis_to_hex(const guint8 *bytes, gsize n, char *ret)
{
    static const char digits[] = "0123456789abcdef";
    for (gsize i = 0; i < n; i++) {
        ret[2 * i] = digits[bytes[i] >> 4];
        ret[2 * i + 1] = digits[bytes[i] & 15];
    }
    ret[2 * n] = '\0';
}

gboolean stasis_digest_hex_is_valid(const char *hex)
{
    guint n = 0;
    while ((hex[n] >= '0' && hex[n] <= '9') || (hex[n] >= 'a' && hex[n] <= 'f'))
        n++;
    return hex[n] == '\0' && n == STASIS_DIGEST_HEX - 1;
}
