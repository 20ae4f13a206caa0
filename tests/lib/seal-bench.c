/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What sealing costs, in MiB a second of one thread, beside the cipher's own floor: as JSON. Stores
 * are made in memory, so that no disk is measured. */
#include <openssl/evp.h>
#include <stasis/seal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/tree.h"
#include "store/internal.h"

#define RUN_US 400000u
#define EXTENTS 512u

static guint8 plain[STASIS_EXTENT_BYTES], sealed[STASIS_EXTENT_BYTES + STASIS_SEAL_BYTES];
static guint8 opened[STASIS_EXTENT_BYTES];
static StasisKeys *keys;
static const StasisKey *key;
static StasisSealer *sealer;
static StasisSealPlace place;
static EVP_CIPHER_CTX *gcm;

static void die(const char *what)
{
    fprintf(stderr, "seal-bench: %s\n", what);
    exit(1);
}

static void copy(gsize n)
{
    memcpy(opened, plain, n);
    __asm__ volatile("" ::"r"(opened) : "memory");
}

static void sha256(gsize n)
{
    StasisDigest digest;
    stasis_digest_of(&digest, plain, n, NULL, 0, NULL);
}

/* OpenSSL's cipher alone, as `openssl speed -evp aes-256-gcm` has it. */
static void floor_of(gsize n)
{
    static const guint8 nonce[12];
    guint8 tag[16];
    int len;
    EVP_EncryptInit_ex(gcm, NULL, NULL, NULL, nonce);
    EVP_EncryptUpdate(gcm, sealed, &len, plain, (int)n);
    EVP_EncryptFinal_ex(gcm, sealed + n, &len);
    EVP_CIPHER_CTX_ctrl(gcm, EVP_CTRL_AEAD_GET_TAG, 16, tag);
}

static void seal(gsize n)
{
    if (!stasis_sealer_seal(sealer, &place, plain, n, sealed, NULL))
        die("sealing fails");
}

static void unseal(gsize n)
{
    if (!stasis_unseal(key, &place, sealed, n + STASIS_SEAL_BYTES, opened))
        die("opening fails");
}

static double rate(void (*func)(gsize), gsize n)
{
    guint64 start = stasis_now_us(), count = 0;
    do {
        for (guint i = 0; i < 16; i++)
            func(n);
        count += 16;
    } while (stasis_now_us() - start < RUN_US);
    return (double)(count * n) / 1048576 * 1e6 / (double)(stasis_now_us() - start);
}

/* Extents added to an image, and read from it. */
static void store_rates(StasisStore *store, double *ret_add, double *ret_read)
{
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, NULL);
    g_autoptr(GBytes) part = g_bytes_new_static("x", 1);
    if (writer == NULL || stasis_image_writer_add_block(
                              writer, "ram", (guint64)EXTENTS * STASIS_EXTENT_BYTES, NULL) < 0)
        die("no image");
    guint64 start = stasis_now_us();
    for (guint i = 0; i < EXTENTS; i++)
        if (!stasis_image_writer_add_extent(writer, 0, (guint64)i * STASIS_EXTENT_PAGES,
                                            STASIS_EXTENT_PAGES, STASIS_STORED_RAW, plain,
                                            sizeof(plain), NULL))
            die("an extent is not added");
    guint64 added = stasis_now_us();
    stasis_image_writer_add_part(writer, "vmstate", part, NULL);
    stasis_image_writer_add_part(writer, "machine.json", part, NULL);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, NULL);
    g_autoptr(StasisImageReader) reader =
        info != NULL ? stasis_image_reader_open(store, info->id, NULL) : NULL;
    if (reader == NULL)
        die("the image is not there");
    guint64 opening = stasis_now_us();
    for (guint i = 0; i < EXTENTS; i++)
        if (!stasis_image_reader_read_pages(reader, 0, (guint64)i * STASIS_EXTENT_PAGES,
                                            STASIS_EXTENT_PAGES, opened, NULL))
            die("an extent is not read");
    guint64 read = stasis_now_us();
    double mib = (double)EXTENTS * STASIS_EXTENT_BYTES / 1048576;
    *ret_add = mib * 1e6 / (double)(added - start);
    *ret_read = mib * 1e6 / (double)(read - opening);
}

static void both_stores(const char *dir, gboolean sealed_store, double *ret_add, double *ret_read)
{
    g_autofree char *path = g_build_filename(dir, sealed_store ? "sealed" : "plain", NULL);
    g_autoptr(StasisStore) store =
        sealed_store ? stasis_store_init(path, STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN, NULL)
                     : stasis_store_open(path, STASIS_STORE_CREATE, NULL);
    if (store == NULL)
        die("no store");
    *ret_add = *ret_read = 0;
    for (guint i = 0; i < 3; i++) {
        double add, read;
        store_rates(store, &add, &read);
        *ret_add = MAX(*ret_add, add);
        *ret_read = MAX(*ret_read, read);
    }
}

int main(void)
{
    g_autofree char *dir = g_strdup("/dev/shm/stasis-seal-bench-XXXXXX");
    if (g_mkdtemp_full(dir, 0700) == NULL)
        die("no directory in /dev/shm");
    g_autofree char *file = g_build_filename(dir, "key", NULL);
    StasisKeyIds ids;
    if (!stasis_key_generate(file, STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN, &ids, NULL))
        die("no key");
    g_setenv(STASIS_KEY_FILE_VARIABLE, file, TRUE);
    keys = stasis_keys_load(NULL);
    key = stasis_keys_find(keys, STASIS_KEY_SEAL, ids.encrypt);
    sealer = stasis_sealer_new(keys, key, NULL);
    stasis_seal_place_extent(&place, 0, 0, STASIS_EXTENT_PAGES, STASIS_STORED_RAW);
    gcm = EVP_CIPHER_CTX_new();
    EVP_EncryptInit_ex(gcm, EVP_aes_256_gcm(), NULL, plain, NULL);
    for (gsize i = 0; i < sizeof(plain); i++)
        plain[i] = (guint8)(i * 2654435761u >> 13);
    double add, read, sealed_add, sealed_read;
    both_stores(dir, FALSE, &add, &read);
    both_stores(dir, TRUE, &sealed_add, &sealed_read);
    seal(sizeof(plain));
    printf("{\"memcpy_64k\": %.0f, \"sha256_64k\": %.0f, \"floor_64k\": %.0f, \"floor_4k\": %.0f, "
           "\"seal_64k\": %.0f, \"seal_4k\": %.0f, ",
           rate(copy, sizeof(plain)), rate(sha256, sizeof(plain)), rate(floor_of, sizeof(plain)),
           rate(floor_of, 4096), rate(seal, sizeof(plain)), rate(seal, 4096));
    seal(sizeof(plain));
    printf("\"unseal_64k\": %.0f, \"add\": %.0f, \"add_sealed\": %.0f, \"read\": %.0f, "
           "\"read_sealed\": %.0f}\n",
           rate(unseal, sizeof(plain)), add, sealed_add, read, sealed_read);
    EVP_CIPHER_CTX_free(gcm);
    stasis_sealer_free(sealer);
    stasis_keys_unref(keys);
    stasis_remove_tree(dir);
    return 0;
}
