/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what a codec packs it unpacks byte for byte, and no input makes it leave its buffers. */
#include <string.h>

#include "store/image.h"

static const StasisStoredAs with_compress[] = { STASIS_STORED_LZ4, STASIS_STORED_ZSTD };

static void make_plain(GRand *rand, guint8 *plain, size_t len)
{
    guint32 kind = g_rand_int_range(rand, 0, 3);
    for (size_t i = 0; i < len; i++)
        plain[i] = kind == 0 ? (guint8)g_rand_int(rand) : kind == 1 ? (guint8)(i / 7) : 0;
}

static void test_roundtrip(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    g_autofree guint8 *plain = g_malloc(STASIS_EXTENT_BYTES);
    g_autofree guint8 *packed = g_malloc(STASIS_EXTENT_BYTES);
    g_autofree guint8 *back = g_malloc(STASIS_EXTENT_BYTES);
    for (guint i = 0; i < 300; i++) {
        size_t len = STASIS_PAGE_BYTES * (size_t)g_rand_int_range(rand, 1, 17);
        make_plain(rand, plain, len);
        for (guint c = 0; c < G_N_ELEMENTS(with_compress); c++) {
            const StasisCodecOps *ops = stasis_codec_ops(with_compress[c]);
            size_t n = ops->compress(packed, len, plain, len);
            g_assert_cmpuint(n, <=, len);
            if (n == 0)
                continue;
            g_assert_true(ops->decompress(back, len, packed, n));
            g_assert_cmpmem(back, len, plain, len);
            g_assert_false(ops->decompress(back, len - 1, packed, n));
            g_assert_false(ops->decompress(back, len, packed, n - 1));
        }
    }
}

static void test_does_not_fit(void)
{
    guint8 plain[STASIS_PAGE_BYTES], packed[STASIS_PAGE_BYTES];
    g_autoptr(GRand) rand = g_rand_new_with_seed(2);
    for (guint i = 0; i < sizeof(plain); i++)
        plain[i] = (guint8)g_rand_int(rand);
    for (guint c = 0; c < G_N_ELEMENTS(with_compress); c++)
        g_assert_cmpuint(stasis_codec_ops(with_compress[c])
                             ->compress(packed, sizeof(packed) - 64, plain, sizeof(plain)),
                         ==, 0);
}

/* Heap buffers of the exact size, so that the sanitizer sees one byte too many. */
static void test_garbage(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    guint8 plain[STASIS_PAGE_BYTES];
    for (guint i = 0; i < 4000; i++) {
        const StasisCodecOps *ops = stasis_codec_ops(with_compress[i % 2]);
        make_plain(rand, plain, sizeof(plain));
        guint8 packed[2 * STASIS_PAGE_BYTES];
        size_t n = ops->compress(packed, sizeof(packed), plain, sizeof(plain));
        g_assert_cmpuint(n, >, 0);
        n = (size_t)g_rand_int_range(rand, 1, (gint32)n + 1);
        g_autofree guint8 *exact = g_memdup2(packed, n);
        for (guint k = 0; k < 3; k++)
            exact[g_rand_int_range(rand, 0, (gint32)n)] = (guint8)g_rand_int(rand);
        g_autofree guint8 *back = g_malloc(STASIS_PAGE_BYTES);
        ops->decompress(back, STASIS_PAGE_BYTES, exact, n);
    }
}

static void test_zero_and_raw(void)
{
    guint8 a[STASIS_PAGE_BYTES], b[STASIS_PAGE_BYTES];
    memset(a, 7, sizeof(a));
    g_assert_true(stasis_codec_ops(STASIS_STORED_RAW)->decompress(b, sizeof(b), a, sizeof(a)));
    g_assert_cmpmem(a, sizeof(a), b, sizeof(b));
    g_assert_false(stasis_codec_ops(STASIS_STORED_RAW)->decompress(b, sizeof(b), a, 4095));
    g_assert_true(stasis_codec_ops(STASIS_STORED_ZERO)->decompress(b, sizeof(b), NULL, 0));
    g_assert_cmpuint(b[0] | b[4095], ==, 0);
    g_assert_false(stasis_codec_ops(STASIS_STORED_ZERO)->decompress(b, sizeof(b), a, 1));
    g_assert_null(stasis_codec_ops(4));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store/codec/roundtrip", test_roundtrip);
    g_test_add_func("/store/codec/does-not-fit", test_does_not_fit);
    g_test_add_func("/store/codec/garbage", test_garbage);
    g_test_add_func("/store/codec/zero-and-raw", test_zero_and_raw);
    return g_test_run();
}
