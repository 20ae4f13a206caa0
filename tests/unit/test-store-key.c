/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: the cipher, signature and MAC of sealed stores are those of their standards; key files
 * and a store's own file are read as they were written, and nothing else is taken for one. */
#include "base/io.h"
#include "store/config.h"
#include "store/internal.h"
#include "store/seal-manifest.h"
#include "test-store-util.h"

/* ---- the cipher ---- */

static void from_hex(const char *hex, guint8 *ret)
{
    g_assert_true(stasis_from_hex(hex, ret, strlen(hex) / 2));
}

/* A key whose cipher key is @byte, 32 times; not from a file, as vectors have none. */
static StasisKey plain_key(guint8 *bytes, guint8 byte, guint64 serial)
{
    memset(bytes, byte, STASIS_KEY_BYTES);
    return (StasisKey){ .kind = STASIS_KEY_SEAL, .secret = bytes, .mac = bytes, .serial = serial };
}

/* c2sp.org/XAES-256-GCM, "Test Vectors"; the second has the top bit of L set. */
static void test_cipher_vectors(void)
{
    static const struct {
        guint8 key;
        const char *data, *expected;
    } vectors[] = {
        { 1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271" },
        { 3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d" },
    };
    static const char nonce[] = "ABCDEFGHIJKLMNOPQRSTUVWX", plain[] = "XAES-256-GCM";
    for (guint i = 0; i < G_N_ELEMENTS(vectors); i++) {
        guint8 bytes[STASIS_KEY_BYTES], sealed[12 + STASIS_SEAL_BYTES], expected[28], opened[12];
        g_autoptr(GError) error = NULL;
        StasisKey key = plain_key(bytes, vectors[i].key, 1000 + i);
        StasisSealPlace place = { .len = strlen(vectors[i].data) };
        memcpy(place.bytes, vectors[i].data, place.len);
        from_hex(vectors[i].expected, expected);
        stasis_seal_with_nonce(&key, (const guint8 *)nonce, &place, plain, 12, sealed, &error);
        g_assert_no_error(error);
        g_assert_cmpmem(sealed, 24, nonce, 24);
        g_assert_cmpmem(sealed + 24, 28, expected, 28);
        g_assert_true(stasis_unseal(&key, &place, sealed, sizeof(sealed), opened));
        g_assert_cmpmem(opened, 12, plain, 12);
        for (guint bit = 0; bit < 8 * sizeof(sealed); bit++) {
            sealed[bit / 8] ^= (guint8)(1 << bit % 8);
            g_assert_false(stasis_unseal(&key, &place, sealed, sizeof(sealed), opened));
            sealed[bit / 8] ^= (guint8)(1 << bit % 8);
        }
        for (guint len = 0; len < sizeof(sealed); len++)
            g_assert_false(stasis_unseal(&key, &place, sealed, len, opened));
        place.bytes[place.len++] = 'x';
        g_assert_false(stasis_unseal(&key, &place, sealed, sizeof(sealed), opened));
    }
}

/* RFC 8032, 7.1, TEST 2. */
static void test_signature_vectors(void)
{
    static const char text[] =
        "stasis-keys 1\n"
        "sign 8b1ac4c1f0f2c2c1 4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb\n";
    static const char *const expected =
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";
    guint8 seed[STASIS_KEY_BYTES], public_key[STASIS_KEY_BYTES], right[64], made[64];
    char id[STASIS_KEY_ID], hex[2 * STASIS_KEY_BYTES + 1];
    g_autoptr(GError) error = NULL;
    gboolean secret;
    from_hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", seed);
    stasis_key_describe(STASIS_KEY_SIGN, seed, id, public_key, &error);
    g_assert_no_error(error);
    stasis_to_hex(public_key, sizeof(public_key), hex);
    g_assert_cmpstr(hex, ==, "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
    g_autofree char *line = g_strdup_printf(
        "stasis-keys 1\nsign %s 4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        id);
    g_autoptr(StasisKeys) keys = stasis_keys_parse(line, strlen(line), &secret, &error);
    g_assert_no_error(error);
    g_assert_true(secret);
    const StasisKey *key = stasis_keys_find(keys, STASIS_KEY_SIGN, id);
    from_hex(expected, right);
    stasis_key_sign(key, "\x72", 1, made, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(made, 64, right, 64);
    g_assert_true(stasis_key_verify(key, "\x72", 1, made));
    g_assert_false(stasis_key_verify(key, "\x73", 1, made));
    made[63] ^= 0x10;
    g_assert_false(stasis_key_verify(key, "\x72", 1, made));
    /* The ID is not that key's: found at once. */
    g_assert_null(stasis_keys_parse(text, strlen(text), &secret, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

/* Beside GLib's own. */
static void test_mac(void)
{
    guint8 bytes[STASIS_KEY_BYTES], made[STASIS_MAC_BYTES];
    char hex[2 * STASIS_MAC_BYTES + 1];
    g_autoptr(GError) error = NULL;
    StasisKey key = plain_key(bytes, 0x0b, 1);
    stasis_key_mac(&key, "Hi There", 8, made, &error);
    g_assert_no_error(error);
    stasis_to_hex(made, sizeof(made), hex);
    g_autofree char *other = g_compute_hmac_for_data(G_CHECKSUM_SHA256, bytes, sizeof(bytes),
                                                     (const guint8 *)"Hi There", 8);
    g_assert_cmpstr(hex, ==, other);
}

/* ---- key files ---- */

static void test_key_files(void)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        { "", "first line" },
        { "stasis-keys 2\n", "first line" },
        { "stasis-keys 1\nseal 00\n", "line 2" },
        { "stasis-keys 1\nopen 0123456789abcdef "
          "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb\n",
          "line 2" },
        { "stasis-keys 1\n\n# x\nseal 0123456789abcdef "
          "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb\n",
          "line 4: the key is not that of its ID" },
        { "stasis-keys 1\nseal 0123456789ABCDEF "
          "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb\n",
          "line 2" },
    };
    gboolean secret;
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(stasis_keys_parse(bad[i].text, strlen(bad[i].text), &secret, &error));
        g_assert_nonnull(strstr(error->message, bad[i].says));
        test_assert_no_key(error->message);
    }
    g_autofree char *dir = test_make_dir();
    g_autofree char *path = g_build_filename(dir, "k", NULL);
    g_autofree char *public_path = g_build_filename(dir, "k.pub", NULL);
    g_autoptr(GError) error = NULL;
    StasisKeyIds ids;
    struct stat st;
    stasis_key_generate(path, STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN, &ids, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0600);
    g_autoptr(StasisKeys) keys = stasis_key_file_read(path, &error);
    g_assert_no_error(error);
    g_assert_nonnull(stasis_keys_find(keys, STASIS_KEY_SEAL, ids.encrypt));
    g_assert_nonnull(stasis_keys_find(keys, STASIS_KEY_SIGN, ids.sign));
    g_assert_nonnull(stasis_keys_find(keys, STASIS_KEY_VERIFY, ids.sign));
    g_autofree char *described = stasis_keys_describe(keys);
    test_assert_no_key(described);
    /* Never over a key that is there. */
    g_assert_false(stasis_key_generate(path, STASIS_SEAL_SIGN, &ids, NULL));
    /* What anyone may read is for checking only. */
    g_autoptr(StasisKeys) open = stasis_key_file_read(public_path, &error);
    g_assert_no_error(error);
    g_assert_null(stasis_keys_first(open, STASIS_KEY_SEAL));
    g_assert_null(stasis_keys_find(open, STASIS_KEY_SIGN, ids.sign));
    g_assert_nonnull(stasis_keys_find(open, STASIS_KEY_VERIFY, ids.sign));
    static const mode_t wrong[] = { 0640, 0604, 0660, 0601 };
    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GError) local = NULL;
        g_assert_cmpint(chmod(path, wrong[i]), ==, 0);
        g_assert_null(stasis_key_file_read(path, &local));
        g_assert_error(local, STASIS_ERROR, STASIS_ERROR_KEY);
        g_assert_nonnull(strstr(local->message, "chmod 600"));
    }
    test_remove_tree(dir);
}

/* ---- the store's own file ---- */

static void test_config(void)
{
    StasisStoreConfig config = { "u", { "0123456789abcdef", "" } }, again;
    g_autofree char *text = stasis_store_config_write(&config);
    g_assert_true(stasis_store_config_parse(text, strlen(text), &again, NULL));
    g_assert_cmpstr(again.keys.encrypt, ==, config.keys.encrypt);
    g_assert_cmpstr(again.keys.sign, ==, "");
    /* A store that is not sealed is as it always was, to the byte. */
    StasisStoreConfig plain = { "u", { "", "" } };
    g_autofree char *old = stasis_store_config_write(&plain);
    g_assert_cmpstr(old, ==, "{\n  \"format\": 1,\n  \"uuid\": \"u\"\n}\n");
    static const char *const bad[] = {
        "",
        "{}",
        "{\"format\": 3}",
        "{\"format\": 2}",
        "{\"format\": 2, \"encrypt\": null, \"sign\": null}",
        "{\"format\": 2, \"encrypt\": \"0123456789abcde\", \"sign\": null}",
        "{\"format\": 2, \"encrypt\": \"0123456789ABCDEF\", \"sign\": null}",
        "{\"format\": 2, \"encrypt\": 5, \"sign\": null}",
    };
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_false(stasis_store_config_parse(bad[i], strlen(bad[i]), &again, NULL));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store/key/cipher-vectors", test_cipher_vectors);
    g_test_add_func("/store/key/signature-vectors", test_signature_vectors);
    g_test_add_func("/store/key/mac", test_mac);
    g_test_add_func("/store/key/files", test_key_files);
    g_test_add_func("/store/key/config", test_config);
    return g_test_run();
}
