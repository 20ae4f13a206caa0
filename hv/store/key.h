/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keys of sealed images: key files and what they hold, in memory that is locked and wiped. A key
 * file is text (docs/format.md, "Key files"): a line for each key, with its kind, its ID, by which
 * images and stores name it, and the key. For hv/store alone; what is public is <stasis/seal.h>.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/seal.h>

G_BEGIN_DECLS

#define STASIS_KEY_BYTES 32u
#define STASIS_KEY_ID 17u /* 16 hexadecimal digits, and a NUL */
#define STASIS_MAX_KEYS 64u
#define STASIS_MAX_KEY_FILE_BYTES (64u << 10)
#define STASIS_SIGNATURE_BYTES 64u
#define STASIS_MAC_BYTES 32u

typedef enum {
    STASIS_KEY_SEAL,   /* encrypts, and authenticates manifests: secret */
    STASIS_KEY_SIGN,   /* signs: secret; verifies, too */
    STASIS_KEY_VERIFY, /* verifies signatures: public */
} StasisKeyKind;

typedef struct {
    StasisKeyKind kind;
    char id[STASIS_KEY_ID];
    guint64 serial; /* no other key of this process ever had it */
    /* In the ring's locked page. Of SEAL: what encrypts, and what makes MACs, both derived from the
     * file's; of SIGN the seed; of VERIFY the public key. */
    const guint8 *secret, *mac;
    guint8 public_key[STASIS_KEY_BYTES]; /* of SIGN and VERIFY */
} StasisKey;

typedef struct _StasisKeys StasisKeys;

/* Those in the files that $STASIS_KEY_FILE names, separated by colons. NULL without @error when it
 * names none. A file with secrets that others than its owner may read is refused. */
StasisKeys *stasis_keys_load(GError **error);
/* Those in the text of a key file; *ret_secret: is one of them secret? Untrusted. */
StasisKeys *stasis_keys_parse(const char *text, gsize len, gboolean *ret_secret, GError **error);
/* Those in the file @path. */
StasisKeys *stasis_key_file_read(const char *path, GError **error);
/* The ID of a key as its file has it, and of SIGN and VERIFY the public key. */
gboolean stasis_key_describe(StasisKeyKind kind, const guint8 key[STASIS_KEY_BYTES],
                             char ret_id[STASIS_KEY_ID], guint8 ret_public[STASIS_KEY_BYTES],
                             GError **error);
StasisKeys *stasis_keys_ref(StasisKeys *keys);
void stasis_keys_unref(StasisKeys *keys); /* the last one wipes it; may be NULL */
/* One of @kind (for VERIFY a SIGN key will do); of SIGN never one that verifies only. NULL when
 * there is none, or @keys is NULL. */
const StasisKey *stasis_keys_find(const StasisKeys *keys, StasisKeyKind kind, const char *id);
/* The first of @kind itself, or NULL. */
const StasisKey *stasis_keys_first(const StasisKeys *keys, StasisKeyKind kind);
/* Is there one of @kind at all? */
gboolean stasis_keys_has_kind(const StasisKeys *keys, StasisKeyKind kind);
/* "seal ID, sign ID", or "none": for messages. */
char *stasis_keys_describe(const StasisKeys *keys);
gboolean stasis_key_id_is_valid(const char *id);

/* HMAC-SHA256 of @bytes by a SEAL key. */
gboolean stasis_key_mac(const StasisKey *key, const void *bytes, gsize len,
                        guint8 ret[STASIS_MAC_BYTES], GError **error);
/* Ed25519 (RFC 8032) of @bytes. */
gboolean stasis_key_sign(const StasisKey *key, const void *bytes, gsize len,
                         guint8 ret[STASIS_SIGNATURE_BYTES], GError **error);
gboolean stasis_key_verify(const StasisKey *key, const void *bytes, gsize len,
                           const guint8 signature[STASIS_SIGNATURE_BYTES]);

/* Exactly 2 * @n lower-case digits at @hex. */
gboolean stasis_from_hex(const char *hex, guint8 *ret, gsize n);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisKeys, stasis_keys_unref)

G_END_DECLS
