/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each line is over all bytes before it: the MAC over what the manifest says, the signature over
 * that and the MAC, the digest over all three. All are of fixed lengths and looked for from the
 * end, so there is one way to read them.
 */
#include "store/seal-manifest.h"

#include <openssl/crypto.h>
#include <string.h>

#include "base/json.h"
#include "store/manifest-text.h"
#include "store/seal.h"

#define MAC_HEAD "  \"mac\" : \"hmac-sha256:"
#define SIGNATURE_HEAD "  \"signature\" : \"ed25519:"
#define LINE_TAIL "\",\n"
/* A signature may be of a manifest only. */
#define SIGNED_AS "stasis manifest 1\n"

/* ---- the member ---- */

void stasis_seal_set_member(JsonObject *root, guint format, guint sealed_format, const char *key)
{
    stasis_json_set_uint(root, "format", key[0] != '\0' ? sealed_format : format);
    if (key[0] == '\0')
        return;
    JsonObject *sealed = json_object_new();
    stasis_json_set_uint(sealed, "format", format);
    stasis_json_set_string(sealed, "cipher", STASIS_SEAL_CIPHER);
    stasis_json_set_string(sealed, "key", key);
    json_object_set_object_member(root, "sealed", sealed);
}

gboolean stasis_seal_parse_member(JsonObject *root, guint sealed_format, guint64 *ret_format,
                                  char ret_key[STASIS_KEY_ID], GError **error)
{
    JsonObject *sealed;
    const char *cipher, *key;
    ret_key[0] = '\0';
    if (!stasis_json_uint(root, "format", ret_format, error))
        return FALSE;
    if (*ret_format != sealed_format)
        return TRUE;
    if (!stasis_json_object(root, "sealed", &sealed, error) ||
        !stasis_json_uint(sealed, "format", ret_format, error) ||
        !stasis_json_string(sealed, "cipher", &cipher, error) ||
        !stasis_json_string(sealed, "key", &key, error))
        return FALSE;
    if (strcmp(cipher, STASIS_SEAL_CIPHER) != 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "encrypted with %.32s, this program knows " STASIS_SEAL_CIPHER " only", cipher);
        return FALSE;
    }
    if (*ret_format >= sealed_format || !stasis_key_id_is_valid(key))
        return stasis_corrupt(error, "sealed.format or sealed.key is malformed");
    g_strlcpy(ret_key, key, STASIS_KEY_ID);
    return TRUE;
}

/* ---- the lines ---- */

static const StasisKey *need_key(StasisStore *store, StasisKeyKind kind, const char *id,
                                 const char *what, GError **error)
{
    const StasisKey *key = stasis_keys_find(store->keys, kind, id);
    if (key != NULL)
        return key;
    g_autofree char *there = stasis_keys_describe(store->keys);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_KEY,
                "%s key %s, which is not there (there: %s); name its file with --key-file or "
                "$STASIS_KEY_FILE",
                what, id, there);
    return NULL;
}

gboolean stasis_seals_get(StasisStore *store, const char *key_id, StasisSeals *ret, GError **error)
{
    StasisSeals seals = { NULL, NULL };
    if (key_id[0] != '\0')
        seals.mac = need_key(store, STASIS_KEY_SEAL, key_id, "images are encrypted with", error);
    if (key_id[0] != '\0' && seals.mac == NULL)
        return FALSE;
    const char *signer = store->config.keys.sign;
    if (signer[0] != '\0')
        seals.sign = need_key(store, STASIS_KEY_SIGN, signer, "images are signed with", error);
    if (signer[0] != '\0' && seals.sign == NULL)
        return FALSE;
    *ret = seals;
    return TRUE;
}

/* The whole line of @n bytes by the key @id. */
static void add_line(GString *text, const char *head, const char *id, const guint8 *bytes, gsize n)
{
    char hex[2 * STASIS_SIGNATURE_BYTES + 1];
    stasis_to_hex(bytes, n, hex);
    g_string_append_printf(text, "%s%s:%s" LINE_TAIL, head, id, hex);
}

static gboolean add_mac(GString *text, const StasisKey *key, GError **error)
{
    guint8 mac[STASIS_MAC_BYTES];
    if (!stasis_key_mac(key, text->str, text->len, mac, error))
        return FALSE;
    add_line(text, MAC_HEAD, key->id, mac, sizeof(mac));
    return TRUE;
}

static char *signed_text(const char *text, gsize len, gsize *ret_len)
{
    const gsize head = strlen(SIGNED_AS);
    char *whole = g_malloc(head + len);
    memcpy(whole, SIGNED_AS, head);
    memcpy(whole + head, text, len);
    *ret_len = head + len;
    return whole;
}

static gboolean add_signature(GString *text, const StasisKey *key, GError **error)
{
    guint8 signature[STASIS_SIGNATURE_BYTES];
    gsize len;
    g_autofree char *whole = signed_text(text->str, text->len, &len);
    if (!stasis_key_sign(key, whole, len, signature, error))
        return FALSE;
    add_line(text, SIGNATURE_HEAD, key->id, signature, sizeof(signature));
    return TRUE;
}

char *stasis_seals_make_lines(const StasisSeals *seals, const char *body, GError **error)
{
    g_autoptr(GString) text = g_string_new(body);
    gsize body_len = text->len;
    if ((seals->mac != NULL && !add_mac(text, seals->mac, error)) ||
        (seals->sign != NULL && !add_signature(text, seals->sign, error)))
        return NULL;
    return g_strdup(text->str + body_len);
}

/* The line that ends at @end, if it is of @head and @n bytes: where it begins, else 0. */
static gsize find_line(const char *text, gsize end, const char *head, char ret_key[STASIS_KEY_ID],
                       guint8 *ret, gsize n)
{
    gsize head_len = strlen(head), id_len = STASIS_KEY_ID - 1;
    gsize len = head_len + id_len + 1 + 2 * n + strlen(LINE_TAIL);
    if (end <= len)
        return 0;
    const char *line = text + end - len, *id = line + head_len, *hex = id + id_len + 1;
    char key[STASIS_KEY_ID];
    memcpy(key, id, id_len);
    key[id_len] = '\0';
    if (line[-1] != '\n' || memcmp(line, head, head_len) != 0 || !stasis_key_id_is_valid(key) ||
        id[id_len] != ':' || !stasis_from_hex(hex, ret, n) ||
        memcmp(hex + 2 * n, LINE_TAIL, strlen(LINE_TAIL)) != 0)
        return 0;
    g_strlcpy(ret_key, key, STASIS_KEY_ID);
    return end - len;
}

void stasis_seal_find_lines(const char *text, gsize len, StasisSealLines *ret)
{
    memset(ret, 0, sizeof(*ret));
    gsize end = len > STASIS_DIGEST_TAIL_BYTES ? len - STASIS_DIGEST_TAIL_BYTES : 0;
    ret->signature_over = find_line(text, end, SIGNATURE_HEAD, ret->signature_key, ret->signature,
                                    sizeof(ret->signature));
    end = ret->signature_over > 0 ? ret->signature_over : end;
    ret->mac_over = find_line(text, end, MAC_HEAD, ret->mac_key, ret->mac, sizeof(ret->mac));
}

/* ---- checking ---- */

static gboolean demand(StasisStore *store, const StasisSealLines *lines, const char *key,
                       GError **error)
{
    if (store->config.keys.encrypt[0] != '\0' && key[0] == '\0')
        return stasis_corrupt(
            error,
            "it is not encrypted, as all of store %s is: it was put there by another program",
            store->path);
    if (store->config.keys.sign[0] != '\0' && lines->signature_over == 0)
        return stasis_corrupt(
            error, "it is not signed, as all of store %s is: it was put there by another program",
            store->path);
    if ((lines->mac_over > 0) != (key[0] != '\0') || strcmp(lines->mac_key, key) != 0)
        return stasis_corrupt(
            error,
            "it says that it is encrypted, and has no MAC of that key, or the other way round");
    return TRUE;
}

static gboolean check_mac(const StasisKey *key, const char *text, const StasisSealLines *lines,
                          GError **error)
{
    guint8 mac[STASIS_MAC_BYTES];
    if (!stasis_key_mac(key, text, lines->mac_over, mac, error))
        return FALSE;
    return CRYPTO_memcmp(mac, lines->mac, sizeof(mac)) == 0 ||
           stasis_corrupt(error,
                          "its MAC is not that of its contents: who changed it has not key %s; use "
                          "another image",
                          lines->mac_key);
}

static gboolean check_signature(const StasisKey *key, const char *text,
                                const StasisSealLines *lines, GError **error)
{
    gsize len;
    g_autofree char *whole = signed_text(text, lines->signature_over, &len);
    return stasis_key_verify(key, whole, len, lines->signature) ||
           stasis_corrupt(error,
                          "its signature is not that of its contents: who changed it has not key "
                          "%s; use another image",
                          lines->signature_key);
}

gboolean stasis_seal_check(StasisStore *store, const char *text, gsize len, const char *key,
                           StasisSealChecks *ret, GError **error)
{
    StasisSealLines lines;
    StasisSealChecks checks = { FALSE, FALSE };
    stasis_seal_find_lines(text, len, &lines);
    if (!demand(store, &lines, key, error))
        return FALSE;
    const StasisKey *seal = stasis_keys_find(store->keys, STASIS_KEY_SEAL, lines.mac_key);
    const StasisKey *verify = stasis_keys_find(store->keys, STASIS_KEY_VERIFY, lines.signature_key);
    if (lines.mac_over > 0 && seal != NULL) {
        if (!check_mac(seal, text, &lines, error))
            return FALSE;
        checks.mac = TRUE;
    }
    if (lines.signature_over > 0 && verify != NULL) {
        if (!check_signature(verify, text, &lines, error))
            return FALSE;
        checks.signature = TRUE;
    }
    *ret = checks;
    return TRUE;
}

gboolean stasis_seal_admit(StasisStore *store, const char *id, const char *key, const char *signer,
                           const StasisSealChecks *checks, GError **error)
{
    g_autofree char *there = NULL;
    gboolean decrypts = key[0] == '\0' || checks->mac;
    if (decrypts && (store->config.keys.sign[0] == '\0' || checks->signature))
        return TRUE;
    there = stasis_keys_describe(store->keys);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_KEY,
                "image %s is %s key %s, which is not there (there: %s); name its file with "
                "--key-file or $STASIS_KEY_FILE",
                id, decrypts ? "signed with" : "encrypted with", decrypts ? signer : key, there);
    return FALSE;
}
