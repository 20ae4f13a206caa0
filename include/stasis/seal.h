/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sealed stores: what lies in them is encrypted, signed, or both. What that protects from, what it
 * does not, and how it is laid out: docs/format.md, "Sealed images".
 *
 * Keys lie in files, which the environment variable STASIS_KEY_FILE names (several are separated by
 * colons); it is read whenever a store is opened, and programs that the library starts inherit it.
 */
#pragma once

#include <stasis/store.h>

G_BEGIN_DECLS

#define STASIS_KEY_FILE_VARIABLE "STASIS_KEY_FILE"

typedef enum {
    STASIS_SEAL_ENCRYPT = 1 << 0,
    STASIS_SEAL_SIGN = 1 << 1,
} StasisSealFlags;

/* IDs of keys, 16 hexadecimal digits; "" when there is none. They are no secret. */
typedef struct {
    char encrypt[17];
    char sign[17];
} StasisKeyIds;

/* Make the key file @path, mode 0600, which must not be there yet, with a key for each of @what.
 * With one that signs, also PATH.pub, which has the public key only: it is enough to check
 * signatures. STASIS_ERROR_KEY, or what went wrong. */
STASIS_API gboolean stasis_key_generate(const char *path, StasisSealFlags what, StasisKeyIds *ret,
                                        GError **error);

/* Make a store at @path (NULL: as for stasis_store_open()) whose images are sealed with the keys
 * that STASIS_KEY_FILE names: the first that encrypts, the first that signs. What is a store
 * already, or is no empty directory, is refused; dying half-way leaves no store. */
STASIS_API StasisStore *stasis_store_init(const char *path, StasisSealFlags what, GError **error);

/* From now on new images are sealed with the first keys that STASIS_KEY_FILE names (of the kinds
 * that the store has), older ones remain readable with the keys that they have. The next image of
 * each VM must be a full one. */
STASIS_API gboolean stasis_store_rekey(StasisStore *store, StasisKeyIds *ret, GError **error);

/* With which keys new images of @store are sealed. */
STASIS_API StasisKeyIds stasis_store_get_keys(StasisStore *store);

G_END_DECLS
