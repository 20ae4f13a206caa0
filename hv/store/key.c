/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rings of keys. Whatever is secret lies in one page, which is locked (mlock(2), as far as
 * RLIMIT_MEMLOCK goes), left out of core dumps and wiped in the end. Of a key that encrypts what
 * its file says is used for nothing but to derive others (HKDF, RFC 5869), one for each purpose:
 * the cipher's, the MAC's and the ID.
 */
#include "store/key.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>
#include <sys/mman.h>

#include "store/internal.h"

#define FIRST_LINE "stasis-keys 1"
#define ID_BYTES 8u
#define SLOT_BYTES (2 * STASIS_KEY_BYTES)
#define PAGE_BYTES (STASIS_MAX_KEYS * SLOT_BYTES)

static const char *const kinds[] = { "seal", "sign", "verify" };

struct _StasisKeys {
    gatomicrefcount ref;
    guint n;
    StasisKey keys[STASIS_MAX_KEYS];
    guint8 *page;
};

/* ---- hexadecimal ---- */

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

gboolean stasis_from_hex(const char *hex, guint8 *ret, gsize n)
{
    for (gsize i = 0; i < n; i++) {
        int high = digit(hex[2 * i]), low = high < 0 ? -1 : digit(hex[2 * i + 1]);
        if (low < 0)
            return FALSE;
        ret[i] = (guint8)(high << 4 | low);
    }
    return TRUE;
}

gboolean stasis_key_id_is_valid(const char *id)
{
    guint8 bytes[ID_BYTES];
    return strlen(id) == STASIS_KEY_ID - 1 && stasis_from_hex(id, bytes, ID_BYTES);
}

/* ---- deriving ---- */

static gboolean no_crypto(GError **error, const char *what)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "%s: OpenSSL can't do that; check the host's libcrypto", what);
    return FALSE;
}

/* HKDF-SHA256 of @key without salt, for the purpose @info. */
static gboolean derive(const guint8 key[STASIS_KEY_BYTES], const char *info, guint8 *ret, gsize n,
                       GError **error)
{
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *context = kdf != NULL ? EVP_KDF_CTX_new(kdf) : NULL;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)key, STASIS_KEY_BYTES),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)info, strlen(info)),
        OSSL_PARAM_construct_end(),
    };
    gboolean ok = context != NULL && EVP_KDF_derive(context, ret, n, params) > 0;
    EVP_KDF_CTX_free(context);
    EVP_KDF_free(kdf);
    return ok || no_crypto(error, "HKDF");
}

static gboolean public_of(const guint8 seed[STASIS_KEY_BYTES], guint8 ret[STASIS_KEY_BYTES],
                          GError **error)
{
    EVP_PKEY *pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, STASIS_KEY_BYTES);
    size_t n = STASIS_KEY_BYTES;
    gboolean ok = pkey != NULL && EVP_PKEY_get_raw_public_key(pkey, ret, &n) > 0;
    EVP_PKEY_free(pkey);
    return ok || no_crypto(error, "Ed25519");
}

/* Of a public key: the beginning of its SHA-256. */
static gboolean id_of_public(const guint8 key[STASIS_KEY_BYTES], char ret[STASIS_KEY_ID],
                             GError **error)
{
    StasisDigest digest;
    if (!stasis_digest_of(&digest, key, STASIS_KEY_BYTES, NULL, 0, error))
        return FALSE;
    stasis_to_hex(digest.bytes, ID_BYTES, ret);
    return TRUE;
}

/* Fill in @key, whose slot is @slot, from what its file says; wipes @bytes. */
static gboolean make_key(StasisKey *key, guint8 *slot, StasisKeyKind kind,
                         guint8 bytes[STASIS_KEY_BYTES], GError **error)
{
    static guint64 serials;
    guint8 id[ID_BYTES];
    gboolean ok;
    key->kind = kind;
    key->serial = __atomic_add_fetch(&serials, 1, __ATOMIC_RELAXED);
    key->secret = slot;
    key->mac = slot + STASIS_KEY_BYTES;
    if (kind == STASIS_KEY_SEAL) {
        ok = derive(bytes, "stasis seal: cipher", slot, STASIS_KEY_BYTES, error) &&
             derive(bytes, "stasis seal: mac", slot + STASIS_KEY_BYTES, STASIS_KEY_BYTES, error) &&
             derive(bytes, "stasis seal: id", id, sizeof(id), error);
        if (ok)
            stasis_to_hex(id, ID_BYTES, key->id);
    } else {
        memcpy(slot, bytes, STASIS_KEY_BYTES);
        if (kind == STASIS_KEY_VERIFY)
            memcpy(key->public_key, bytes, STASIS_KEY_BYTES);
        ok = (kind == STASIS_KEY_VERIFY || public_of(bytes, key->public_key, error)) &&
             id_of_public(key->public_key, key->id, error);
    }
    OPENSSL_cleanse(bytes, STASIS_KEY_BYTES);
    return ok;
}

gboolean stasis_key_describe(StasisKeyKind kind, const guint8 key[STASIS_KEY_BYTES],
                             char ret_id[STASIS_KEY_ID], guint8 ret_public[STASIS_KEY_BYTES],
                             GError **error)
{
    StasisKey made = { 0 };
    guint8 slot[SLOT_BYTES], bytes[STASIS_KEY_BYTES];
    memcpy(bytes, key, sizeof(bytes));
    gboolean ok = make_key(&made, slot, kind, bytes, error);
    OPENSSL_cleanse(slot, sizeof(slot));
    memcpy(ret_id, made.id, STASIS_KEY_ID);
    memcpy(ret_public, made.public_key, STASIS_KEY_BYTES);
    return ok;
}

/* ---- rings ---- */

static StasisKeys *keys_new(void)
{
    StasisKeys *keys = g_new0(StasisKeys, 1);
    g_atomic_ref_count_init(&keys->ref);
    keys->page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (keys->page == MAP_FAILED)
        g_error("no memory for keys");
    /* Where that is not allowed keys can be swapped out; docs/format.md says so. */
    mlock(keys->page, PAGE_BYTES);
    madvise(keys->page, PAGE_BYTES, MADV_DONTDUMP);
    return keys;
}

StasisKeys *stasis_keys_ref(StasisKeys *keys)
{
    if (keys != NULL)
        g_atomic_ref_count_inc(&keys->ref);
    return keys;
}

void stasis_keys_unref(StasisKeys *keys)
{
    if (keys == NULL || !g_atomic_ref_count_dec(&keys->ref))
        return;
    OPENSSL_cleanse(keys->page, PAGE_BYTES);
    munmap(keys->page, PAGE_BYTES);
    g_free(keys);
}

static gboolean can_serve(const StasisKey *key, StasisKeyKind kind)
{
    return key->kind == kind || (kind == STASIS_KEY_VERIFY && key->kind == STASIS_KEY_SIGN);
}

const StasisKey *stasis_keys_find(const StasisKeys *keys, StasisKeyKind kind, const char *id)
{
    for (guint i = 0; keys != NULL && i < keys->n; i++)
        if (can_serve(&keys->keys[i], kind) && strcmp(keys->keys[i].id, id) == 0)
            return &keys->keys[i];
    return NULL;
}

const StasisKey *stasis_keys_first(const StasisKeys *keys, StasisKeyKind kind)
{
    for (guint i = 0; keys != NULL && i < keys->n; i++)
        if (keys->keys[i].kind == kind)
            return &keys->keys[i];
    return NULL;
}

gboolean stasis_keys_has_kind(const StasisKeys *keys, StasisKeyKind kind)
{
    for (guint i = 0; keys != NULL && i < keys->n; i++)
        if (can_serve(&keys->keys[i], kind))
            return TRUE;
    return FALSE;
}

char *stasis_keys_describe(const StasisKeys *keys)
{
    g_autoptr(GString) text = g_string_new(NULL);
    for (guint i = 0; keys != NULL && i < keys->n; i++)
        g_string_append_printf(text, "%s%s %s", i > 0 ? ", " : "", kinds[keys->keys[i].kind],
                               keys->keys[i].id);
    return text->len > 0 ? g_string_free(g_steal_pointer(&text), FALSE) : g_strdup("none");
}

/* ---- key files ---- */

/* "KIND ID KEY". */
static gboolean parse_line(StasisKeys *keys, const char *line, guint number, GError **error)
{
    guint8 bytes[STASIS_KEY_BYTES];
    guint kind = 0;
    while (kind < G_N_ELEMENTS(kinds) &&
           !(g_str_has_prefix(line, kinds[kind]) && line[strlen(kinds[kind])] == ' '))
        kind++;
    const char *id = kind < G_N_ELEMENTS(kinds) ? line + strlen(kinds[kind]) + 1 : "";
    const gsize key_at = STASIS_KEY_ID; /* a blank where the NUL is else */
    if (strlen(id) != key_at + 2 * STASIS_KEY_BYTES || id[key_at - 1] != ' ' ||
        !stasis_from_hex(id + key_at, bytes, sizeof(bytes)))
        return stasis_corrupt(error, "line %u is not \"seal|sign|verify ID KEY\"", number);
    if (keys->n == STASIS_MAX_KEYS)
        return stasis_corrupt(error, "more than %u keys", STASIS_MAX_KEYS);
    StasisKey *key = &keys->keys[keys->n];
    if (!make_key(key, keys->page + keys->n * SLOT_BYTES, (StasisKeyKind)kind, bytes, error))
        return FALSE;
    if (strncmp(id, key->id, STASIS_KEY_ID - 1) != 0)
        return stasis_corrupt(
            error, "line %u: the key is not that of its ID; it was mistyped, or damaged", number);
    keys->n++;
    return TRUE;
}

static gboolean parse_into(StasisKeys *keys, char *text, gboolean *ret_secret, GError **error)
{
    guint number = 0;
    for (char *line = text, *next; line != NULL; line = next) {
        next = strchr(line, '\n');
        if (next != NULL)
            *next++ = '\0';
        number++;
        if (number == 1 && strcmp(line, FIRST_LINE) != 0)
            return stasis_corrupt(error, "its first line is not \"" FIRST_LINE
                                         "\": no key file, or one of a later version");
        if (number == 1 || line[0] == '\0' || line[0] == '#')
            continue;
        if (!parse_line(keys, line, number, error))
            return FALSE;
        *ret_secret |= keys->keys[keys->n - 1].kind != STASIS_KEY_VERIFY;
    }
    return TRUE;
}

StasisKeys *stasis_keys_parse(const char *text, gsize len, gboolean *ret_secret, GError **error)
{
    g_autoptr(StasisKeys) keys = keys_new();
    if (memchr(text, '\0', len) != NULL) {
        stasis_corrupt(error, "a key file is text");
        return NULL;
    }
    *ret_secret = FALSE;
    char *copy = g_strndup(text, len);
    gboolean ok = parse_into(keys, copy, ret_secret, error);
    OPENSSL_cleanse(copy, len);
    g_free(copy);
    return ok ? g_steal_pointer(&keys) : NULL;
}

static gboolean add_all(StasisKeys *to, const StasisKeys *from, GError **error)
{
    for (guint i = 0; i < from->n; i++) {
        if (to->n == STASIS_MAX_KEYS)
            return stasis_corrupt(error, "more than %u keys", STASIS_MAX_KEYS);
        guint8 *slot = to->page + to->n * SLOT_BYTES;
        memcpy(slot, from->keys[i].secret, SLOT_BYTES);
        to->keys[to->n] = from->keys[i];
        to->keys[to->n].secret = slot;
        to->keys[to->n].mac = slot + STASIS_KEY_BYTES;
        to->n++;
    }
    return TRUE;
}

StasisKeys *stasis_keys_load(GError **error)
{
    const char *names = g_getenv(STASIS_KEY_FILE_VARIABLE);
    if (names == NULL || *names == '\0')
        return NULL;
    g_autoptr(StasisKeys) keys = keys_new();
    g_auto(GStrv) paths = g_strsplit(names, ":", -1);
    for (guint i = 0; paths[i] != NULL; i++) {
        g_autoptr(StasisKeys) some =
            *paths[i] != '\0' ? stasis_key_file_read(paths[i], error) : NULL;
        if (*paths[i] != '\0' && (some == NULL || !add_all(keys, some, error)))
            return NULL;
    }
    return g_steal_pointer(&keys);
}

/* ---- using them ---- */

gboolean stasis_key_mac(const StasisKey *key, const void *bytes, gsize len,
                        guint8 ret[STASIS_MAC_BYTES], GError **error)
{
    guint n = STASIS_MAC_BYTES;
    return HMAC(EVP_sha256(), key->mac, STASIS_KEY_BYTES, bytes, len, ret, &n) != NULL ||
           no_crypto(error, "HMAC-SHA256");
}

gboolean stasis_key_sign(const StasisKey *key, const void *bytes, gsize len,
                         guint8 ret[STASIS_SIGNATURE_BYTES], GError **error)
{
    EVP_PKEY *pkey =
        EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, key->secret, STASIS_KEY_BYTES);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    size_t n = STASIS_SIGNATURE_BYTES;
    gboolean ok = pkey != NULL && context != NULL &&
                  EVP_DigestSignInit(context, NULL, NULL, NULL, pkey) > 0 &&
                  EVP_DigestSign(context, ret, &n, bytes, len) > 0;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(pkey);
    return ok || no_crypto(error, "Ed25519");
}

gboolean stasis_key_verify(const StasisKey *key, const void *bytes, gsize len,
                           const guint8 signature[STASIS_SIGNATURE_BYTES])
{
    EVP_PKEY *pkey =
        EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key->public_key, STASIS_KEY_BYTES);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    gboolean ok = pkey != NULL && context != NULL &&
                  EVP_DigestVerifyInit(context, NULL, NULL, NULL, pkey) > 0 &&
                  EVP_DigestVerify(context, signature, STASIS_SIGNATURE_BYTES, bytes, len) > 0;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(pkey);
    return ok;
}
