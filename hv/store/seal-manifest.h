/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a manifest is sealed, of VMs and of processes: the member "sealed" of an encrypted image's,
 * and the lines that authenticate it, before the digest that ends it (docs/format.md).
 */
#pragma once

#include <json-glib/json-glib.h>

#include "store/internal.h"
#include "store/key.h"

G_BEGIN_DECLS

/* ---- the member ---- */

/* @format is what the image would be of if it were not encrypted; @key "": it is not. */
void stasis_seal_set_member(JsonObject *root, guint format, guint sealed_format, const char *key);
/* The same backwards. */
gboolean stasis_seal_parse_member(JsonObject *root, guint sealed_format, guint64 *ret_format,
                                  char ret_key[STASIS_KEY_ID], GError **error);

/* ---- the lines ---- */

/* What a manifest is to be authenticated with; NULL: not. */
struct _StasisSeals {
    const StasisKey *mac;
    const StasisKey *sign;
};

/* Those for an image that is encrypted with key @key_id ("": is not) in @store.
 * STASIS_ERROR_KEY when a key is not there. */
gboolean stasis_seals_get(StasisStore *store, const char *key_id, StasisSeals *ret, GError **error);
/* The lines behind @body, or "". */
char *stasis_seals_make_lines(const StasisSeals *seals, const char *body, GError **error);

/* The lines of a manifest, found but not believed. */
typedef struct {
    gsize mac_over, signature_over; /* they are over so many of the text's first bytes; 0: none */
    char mac_key[STASIS_KEY_ID], signature_key[STASIS_KEY_ID];
    guint8 mac[STASIS_MAC_BYTES];
    guint8 signature[STASIS_SIGNATURE_BYTES];
} StasisSealLines;

void stasis_seal_find_lines(const char *text, gsize len, StasisSealLines *ret);

/* ---- checking ---- */

/* What could be checked, with the keys that are there. */
typedef struct {
    gboolean mac, signature;
} StasisSealChecks;

/* Is a manifest sealed as @store demands, with no line that a key which is there finds wrong? Else
 * STASIS_ERROR_CORRUPT. @key: with which the image says it is encrypted, or "". */
gboolean stasis_seal_check(StasisStore *store, const char *text, gsize len, const char *key,
                           StasisSealChecks *ret, GError **error);
/* May what the image holds be used? Only if all that seals it was checked: STASIS_ERROR_KEY says
 * which key is missing. */
gboolean stasis_seal_admit(StasisStore *store, const char *id, const char *key, const char *signer,
                           const StasisSealChecks *checks, GError **error);

G_END_DECLS
