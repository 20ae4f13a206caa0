/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/sha256.h"

#include <openssl/evp.h>

/* GLib's own is written in C, and several times slower. */
struct _StasisSha256 {
    EVP_MD_CTX *context;
};

StasisSha256 *stasis_sha256_new(void)
{
    StasisSha256 *sha = g_new0(StasisSha256, 1);
    sha->context = EVP_MD_CTX_new();
    if (sha->context == NULL || !EVP_DigestInit_ex(sha->context, EVP_sha256(), NULL))
        g_error("SHA-256: libcrypto has none");
    return sha;
}

void stasis_sha256_add(StasisSha256 *sha, const void *bytes, size_t n)
{
    EVP_DigestUpdate(sha->context, bytes, n);
}

void stasis_sha256_finish(StasisSha256 *sha, char ret[STASIS_SHA256_HEX])
{
    static const char digits[] = "0123456789abcdef";
    guint8 bytes[EVP_MAX_MD_SIZE] = { 0 };
    EVP_DigestFinal_ex(sha->context, bytes, NULL);
    for (guint i = 0; i < 32; i++) {
        ret[2 * i] = digits[bytes[i] >> 4];
        ret[2 * i + 1] = digits[bytes[i] & 15];
    }
    ret[STASIS_SHA256_HEX - 1] = '\0';
}

void stasis_sha256_free(StasisSha256 *sha)
{
    if (sha == NULL)
        return;
    EVP_MD_CTX_free(sha->context);
    g_free(sha);
}
