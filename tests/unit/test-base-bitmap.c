/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a bitmap holds exactly the pages put into it, whatever its length, and no bit past its
 * end is ever set. */
#include <string.h>

#include "base/bitmap.h"

#define MAX_PAGES 700u

/* The model: one byte for each page. */
typedef struct {
    StasisBitmap *bitmap;
    guint8 set[MAX_PAGES];
} Pair;

static const guint lengths[] = { 0, 1, 2, 63, 64, 65, 127, 128, 129, 191, 640, 641, 699, 700 };

static guint below(GRand *rand, guint n)
{
    return n == 0 ? 0 : (guint)g_rand_int_range(rand, 0, (gint32)n);
}

static void check_words(const StasisBitmap *bitmap)
{
    guint64 n_words = (bitmap->n_pages + 63) / 64, n = bitmap->n_pages;
    for (guint64 bit = n; bit < n_words * 64; bit++)
        g_assert_cmpuint(bitmap->words[bit / 64] >> (bit % 64) & 1, ==, 0);
}

static void check_runs(const Pair *pair, GRand *rand)
{
    guint n = (guint)pair->bitmap->n_pages, from = below(rand, n + 3);
    guint64 max_n = below(rand, 3) == 0 ? G_MAXUINT64 : 1 + below(rand, 130);
    guint first = from, len = 0;
    while (first < n && !pair->set[first])
        first++;
    while (first + len < n && len < max_n && pair->set[first + len])
        len++;
    guint64 ret_first = 12345, ret_n = 54321;
    gboolean found = stasis_bitmap_next_run(pair->bitmap, from, max_n, &ret_first, &ret_n);
    g_assert_cmpint(found, ==, len > 0);
    g_assert_cmpuint(ret_first, ==, len > 0 ? first : 12345);
    g_assert_cmpuint(ret_n, ==, len > 0 ? len : 54321);
}

static void check_same(const Pair *pair, GRand *rand)
{
    guint64 count = 0;
    for (guint64 i = 0; i < pair->bitmap->n_pages; i++) {
        g_assert_cmpint(stasis_bitmap_test(pair->bitmap, i), ==, pair->set[i]);
        count += pair->set[i];
    }
    g_assert_cmpuint(stasis_bitmap_count(pair->bitmap), ==, count);
    check_words(pair->bitmap);
    for (guint i = 0; i < 20; i++)
        check_runs(pair, rand);
}

static void change(Pair *pair, Pair *other, GRand *rand)
{
    guint n = (guint)pair->bitmap->n_pages;
    guint first = below(rand, n + 1), len = below(rand, n - first + 1);
    switch (below(rand, 12)) {
    case 0:
        stasis_bitmap_or(pair->bitmap, other->bitmap);
        for (guint i = 0; i < n; i++)
            pair->set[i] |= other->set[i];
        return;
    case 1:
        stasis_bitmap_copy(pair->bitmap, other->bitmap);
        memcpy(pair->set, other->set, n);
        return;
    case 2:
        stasis_bitmap_clear(pair->bitmap);
        memset(pair->set, 0, n);
        return;
    case 3:
        if (first < n)
            g_assert_cmpint(stasis_bitmap_set_atomic(pair->bitmap, first), ==, !pair->set[first]);
        memset(pair->set + first, 1, first < n);
        return;
    case 4:
    case 5:
    case 6:
    case 7:
        stasis_bitmap_clear_range(pair->bitmap, first, len);
        memset(pair->set + first, 0, len);
        return;
    default:
        stasis_bitmap_set_range(pair->bitmap, first, len);
        memset(pair->set + first, 1, len);
    }
}

static void test_model(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    for (guint l = 0; l < G_N_ELEMENTS(lengths); l++) {
        Pair pairs[2] = { 0 };
        for (guint i = 0; i < 2; i++)
            pairs[i].bitmap = stasis_bitmap_new(lengths[l]);
        for (guint step = 0; step < 200; step++) {
            guint i = step % 2;
            change(&pairs[i], &pairs[!i], rand);
            check_same(&pairs[i], rand);
        }
        for (guint i = 0; i < 2; i++)
            stasis_bitmap_free(pairs[i].bitmap);
    }
}

/* Walking by runs visits each set page once and no other, whatever the limit of a run. */
static void test_walk(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(8);
    for (guint round = 0; round < 60; round++) {
        guint n = 1 + below(rand, MAX_PAGES);
        guint64 max_n = 1 + below(rand, 100), first, len, seen = 0;
        g_autoptr(StasisBitmap) bitmap = stasis_bitmap_new(n);
        g_autoptr(StasisBitmap) walked = stasis_bitmap_new(n);
        for (guint i = 0; i < 10; i++) {
            guint at = below(rand, n);
            stasis_bitmap_set_range(bitmap, at, 1 + below(rand, MIN(150, n - at)));
        }
        for (guint64 at = 0; stasis_bitmap_next_run(bitmap, at, max_n, &first, &len);
             at = first + len) {
            g_assert_cmpuint(len, >, 0);
            g_assert_cmpuint(len, <=, max_n);
            stasis_bitmap_set_range(walked, first, len);
            seen += len;
        }
        g_assert_cmpuint(seen, ==, stasis_bitmap_count(bitmap));
        g_assert_cmpmem(walked->words, (n + 63) / 64 * 8, bitmap->words, (n + 63) / 64 * 8);
    }
}

static gpointer set_all_atomic(gpointer data)
{
    StasisBitmap *bitmap = data;
    guint64 mine = 0;
    for (guint64 i = 0; i < bitmap->n_pages; i++)
        mine += stasis_bitmap_set_atomic(bitmap, i) ? 1 : 0;
    return GSIZE_TO_POINTER(mine);
}

/* Of all that set a page at once exactly one is told that it was the first. */
static void test_atomic(void)
{
    g_autoptr(StasisBitmap) bitmap = stasis_bitmap_new(100003);
    GThread *threads[4];
    gsize sum = 0;
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
        threads[i] = g_thread_new("set", set_all_atomic, bitmap);
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
        sum += GPOINTER_TO_SIZE(g_thread_join(threads[i]));
    g_assert_cmpuint(sum, ==, 100003);
    g_assert_cmpuint(stasis_bitmap_count(bitmap), ==, 100003);
    check_words(bitmap);
}

static void past_the_end(gconstpointer data)
{
    g_autoptr(StasisBitmap) bitmap = stasis_bitmap_new(100);
    switch (GPOINTER_TO_INT(data)) {
    case 0:
        stasis_bitmap_set_range(bitmap, 99, 2);
        break;
    case 1:
        stasis_bitmap_clear_range(bitmap, 101, 0);
        break;
    default:
        stasis_bitmap_set_range(bitmap, 50, G_MAXUINT64 - 20);
    }
}

/* A range that is not the bitmap's ends the program rather than writing into other memory. */
static void test_past_the_end(void)
{
    for (int i = 0; i < 3; i++) {
        g_autofree char *path = g_strdup_printf("/base/bitmap/subprocess/past-the-end/%d", i);
        g_test_trap_subprocess(path, 0, 0);
        g_test_trap_assert_failed();
        g_test_trap_assert_stderr("*n_pages*");
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/bitmap/model", test_model);
    g_test_add_func("/base/bitmap/walk", test_walk);
    g_test_add_func("/base/bitmap/atomic", test_atomic);
    g_test_add_func("/base/bitmap/past-the-end", test_past_the_end);
    g_test_add_data_func("/base/bitmap/subprocess/past-the-end/0", GINT_TO_POINTER(0),
                         past_the_end);
    g_test_add_data_func("/base/bitmap/subprocess/past-the-end/1", GINT_TO_POINTER(1),
                         past_the_end);
    g_test_add_data_func("/base/bitmap/subprocess/past-the-end/2", GINT_TO_POINTER(2),
                         past_the_end);
    return g_test_run();
}
