/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of the store share: a throw-away store and a small image in it. */
#pragma once

#include <ftw.h>
#include <stasis/error.h>
#include <stasis/seal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "store/image.h"

static inline int test_remove_one(const char *path, const struct stat *st, int flag,
                                  struct FTW *ftw)
{
    return remove(path);
}

static inline void test_remove_tree(const char *path)
{
    nftw(path, test_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* In memory where that is possible: these tests sync often. */
static inline char *test_make_dir(void)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : g_get_tmp_dir();
    char *path = g_build_filename(base, "stasis-test-XXXXXX", NULL);
    g_assert_nonnull(g_mkdtemp_full(path, 0700));
    return path;
}

/* A key file in @dir, made at the first call, and named from then on. */
static inline void test_name_keys(const char *dir)
{
    static char path[4096];
    g_autoptr(GError) error = NULL;
    StasisKeyIds ids;
    if (path[0] != '\0')
        return;
    snprintf(path, sizeof(path), "%s/keys", dir);
    stasis_key_generate(path, STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN, &ids, &error);
    g_assert_no_error(error);
    g_setenv(STASIS_KEY_FILE_VARIABLE, path, TRUE);
}

/* With STASIS_TEST_SEALED=DIR a sealed one, whose keys are in that directory: test-store-seal runs
 * tests of the store like that. */
static inline StasisStore *test_make_store(char **ret_path)
{
    g_autoptr(GError) error = NULL;
    *ret_path = test_make_dir();
    StasisStore *store;
    if (g_getenv("STASIS_TEST_SEALED") != NULL) {
        test_name_keys(g_getenv("STASIS_TEST_SEALED"));
        store = stasis_store_init(*ret_path, STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN, &error);
    } else {
        store = stasis_store_open(*ret_path, STASIS_STORE_CREATE, &error);
    }
    g_assert_no_error(error);
    return store;
}

/* Nothing in it may be a key: those are 64 hexadecimal digits, and what names one is 16. */
static inline void test_assert_no_key(const char *text)
{
    for (gsize at = 0, run = 0; text[at] != '\0'; at++) {
        run = g_ascii_isxdigit(text[at]) ? run + 1 : 0;
        if (run >= 32)
            g_error("this may tell a key: %s", text);
    }
}

static inline void test_fill(guint8 *dst, size_t len, guint32 seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    for (size_t i = 0; i < len; i++)
        dst[i] = (guint8)g_rand_int(rand);
}

/* Compress with @as where that gets smaller, and add. */
static inline gboolean test_add(StasisImageWriter *writer, guint block, guint64 first, guint64 n,
                                StasisStoredAs as, const void *plain, GError **error)
{
    guint8 packed[STASIS_EXTENT_BYTES];
    const StasisCodecOps *ops = stasis_codec_ops(as);
    size_t len = n * STASIS_PAGE_BYTES, packed_len = 0;
    if (as == STASIS_STORED_ZERO)
        return stasis_image_writer_add_extent(writer, block, first, n, as, NULL, 0, error);
    if (ops->compress != NULL)
        packed_len = ops->compress(packed, len, plain, len);
    if (packed_len == 0)
        return stasis_image_writer_add_extent(writer, block, first, n, STASIS_STORED_RAW, plain,
                                              len, error);
    return stasis_image_writer_add_extent(writer, block, first, n, as, packed, packed_len, error);
}

static inline void test_add_parts(StasisImageWriter *writer)
{
    g_autoptr(GBytes) vmstate = g_bytes_new_static("QEVM device state", 17);
    g_autoptr(GBytes) machine = g_bytes_new_static("{\"machine\":\"none\"}\n", 19);
    g_autoptr(GError) error = NULL;
    stasis_image_writer_add_part(writer, "vmstate", vmstate, &error);
    g_assert_no_error(error);
    stasis_image_writer_add_part(writer, "machine.json", machine, &error);
    g_assert_no_error(error);
}

#define TEST_PAGES 6u

/* The content of the small image below with @seed: pages 0–1 and 3 hold data, the rest is zero. */
static inline void test_small_content(guint32 seed, guint8 ret[TEST_PAGES * STASIS_PAGE_BYTES])
{
    memset(ret, 0, TEST_PAGES * STASIS_PAGE_BYTES);
    for (guint page = 0; page < 4; page++)
        if (page != 2)
            test_fill(ret + page * STASIS_PAGE_BYTES, 600, seed + page);
}

/* A full image, or one on top of @parent, with each codec and no dead byte in it. NULL with @error
 * when a step fails; the ID otherwise. */
static inline char *test_small_image(StasisStore *store, const char *parent, guint32 seed,
                                     GError **error)
{
    guint8 plain[TEST_PAGES * STASIS_PAGE_BYTES];
    test_small_content(seed, plain);
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, parent, error);
    if (writer == NULL)
        return NULL;
    StasisImageInfo info = { .vm = (char *)"small", .mode = (char *)"stop", .n_vcpus = 1 };
    stasis_image_writer_set_info(writer, &info);
    if (stasis_image_writer_add_block(writer, "pc.ram", sizeof(plain), error) < 0 ||
        !test_add(writer, 0, 0, 1, STASIS_STORED_LZ4, plain, error) ||
        !test_add(writer, 0, 1, 1, STASIS_STORED_ZSTD, plain + STASIS_PAGE_BYTES, error) ||
        !test_add(writer, 0, 3, 1, STASIS_STORED_RAW, plain + 3 * STASIS_PAGE_BYTES, error) ||
        !test_add(writer, 0, 2, 1, STASIS_STORED_ZERO, NULL, error) ||
        !test_add(writer, 0, 4, 2, STASIS_STORED_ZERO, NULL, error))
        return NULL;
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) listed = stasis_image_writer_commit(writer, error);
    return listed == NULL ? NULL : g_strdup(listed->id);
}

/* All pages of block 0 of the small image @id; NULL with @error. */
static inline guint8 *test_read_small(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, id, error);
    if (reader == NULL)
        return NULL;
    g_autofree guint8 *data = g_malloc(TEST_PAGES * STASIS_PAGE_BYTES);
    if (stasis_image_reader_get_n_blocks(reader) != 1 ||
        stasis_image_reader_get_block(reader, 0)->n_pages != TEST_PAGES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "other blocks than were written");
        return NULL;
    }
    if (!stasis_image_reader_read_pages(reader, 0, 0, TEST_PAGES, data, error))
        return NULL;
    return g_steal_pointer(&data);
}

static inline void test_assert_small(StasisStore *store, const char *id, guint32 seed)
{
    guint8 expected[TEST_PAGES * STASIS_PAGE_BYTES];
    g_autoptr(GError) error = NULL;
    test_small_content(seed, expected);
    g_autofree guint8 *data = test_read_small(store, id, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(data, sizeof(expected), expected, sizeof(expected));
    stasis_store_verify(store, id, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
}

static inline guint test_count(StasisStore *store)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) list = stasis_store_list(store, &error);
    g_assert_no_error(error);
    return list->len;
}

/* Entries of STORE/tmp. */
static inline guint test_count_tmp(const char *path)
{
    g_autofree char *tmp = g_build_filename(path, "tmp", NULL);
    g_autoptr(GDir) dir = g_dir_open(tmp, 0, NULL);
    guint n = 0;
    while (dir != NULL && g_dir_read_name(dir) != NULL)
        n++;
    return n;
}
