/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SHA-256, at the speed of the CPU's own instructions. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct {
    guint8 bytes[32];
} StasisDigest;
#define STASIS_DIGEST_HEX 65 /* with its NUL */

/* Of @a and then @b (either may be empty). Thread-safe; allocates once a thread. */
gboolean stasis_digest_of(StasisDigest *ret, const void *a, size_t a_len, const void *b,
                          size_t b_len, GError **error);

/* The same of bytes that come piece by piece. What went wrong is told at the end, once. */
typedef struct _StasisHash StasisHash;
StasisHash *stasis_hash_new(void);
void stasis_hash_add(StasisHash *hash, const void *bytes, gsize n);
gboolean stasis_hash_end(StasisHash *hash, StasisDigest *ret, GError **error);
gboolean stasis_hash_end_hex(StasisHash *hash, char ret[STASIS_DIGEST_HEX], GError **error);
void stasis_hash_free(StasisHash *hash); /* may be NULL */

void stasis_digest_to_hex(const StasisDigest *digest, char ret[STASIS_DIGEST_HEX]);
/* 64 lower-case hexadecimal digits? */
gboolean stasis_digest_hex_is_valid(const char *hex);
/* 2 * @n lower-case digits and a NUL. */
void stasis_to_hex(const guint8 *bytes, gsize n, char *ret);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisHash, stasis_hash_free)

G_END_DECLS
