/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: in a CRIU image both ends of a terminal that had lines have them again, all others stay
 * as they are, and so does what is no image, wherever it ends. */
#include <glib.h>
#include <string.h>
#include <termios.h>

#include "criu-image.h"
#include "test-criu-wire.h"

/* As CRIU writes it; @index -1: it is no pseudo-terminal. */
static void add_tty(GByteArray *image, guint id, int index, tcflag_t flags)
{
    g_autoptr(GByteArray) entry = g_byte_array_new(), termios = g_byte_array_new(),
                          pty = g_byte_array_new();
    for (guint i = 1; i <= 7; i++)
        put_number(termios, i, i == 4 ? flags : 0500);
    for (guint i = 0; i < 19; i++)
        put_number(termios, 8, i);
    put_number(entry, 1, id);
    put_number(entry, 2, index < 0 ? 4 : 1);
    for (guint i = 3; i <= 8; i++)
        put_number(entry, i, 0);
    put_message(entry, 9, termios);
    put_message(entry, 10, termios);
    if (index >= 0) {
        put_number(pty, 1, (guint)index);
        put_message(entry, 12, pty);
    }
    guint32 length = GUINT32_TO_LE(entry->len);
    g_byte_array_append(image, (guint8 *)&length, sizeof length);
    g_byte_array_append(image, entry->data, entry->len);
}

#define RAW ((tcflag_t)(ISIG | ECHO | IEXTEN))
#define LINES ((tcflag_t)(RAW | ICANON))
static const CriuLines six = { .index = { 3, 6 }, .n = 2 };

/* @raw6: what number 6 has. The locked settings, which nobody sets, go the same way in add_tty(),
 * and are not to be touched. */
static GByteArray *new_image(tcflag_t raw6)
{
    GByteArray *image = g_byte_array_new();
    g_byte_array_append(image, (const guint8 *)"magicmag", 8);
    add_tty(image, 15, 7, RAW);
    add_tty(image, 13, 6, raw6);
    add_tty(image, 12, 6, raw6);
    add_tty(image, 2012, -1, RAW);
    return image;
}

static guint count_bits_that_differ(const GByteArray *a, const GByteArray *b)
{
    guint n = 0;
    g_assert_cmpuint(a->len, ==, b->len);
    for (guint i = 0; i < a->len; i++)
        n += (guint)__builtin_popcount((guint)(a->data[i] ^ b->data[i]));
    return n;
}

static void test_both_ends(void)
{
    g_autoptr(GByteArray) image = new_image(RAW), before = new_image(RAW), all = new_image(LINES);
    g_assert_cmpuint(criu_lines_mend(&six, image->data, image->len), ==, 2);
    g_assert_cmpuint(count_bits_that_differ(image, before), ==, 2);
    /* Those are of the settings, and not of the locked ones behind them. */
    g_assert_cmpuint(count_bits_that_differ(image, all), ==, 2);
    g_assert_cmpuint(criu_lines_mend(&six, image->data, image->len), ==, 0);
}

static void test_left_alone(void)
{
    static const CriuLines none = { .n = 0 }, others = { .index = { 3, 8 }, .n = 2 };
    g_autoptr(GByteArray) image = new_image(RAW), before = new_image(RAW);
    g_assert_cmpuint(criu_lines_mend(&none, image->data, image->len), ==, 0);
    g_assert_cmpuint(criu_lines_mend(&others, image->data, image->len), ==, 0);
    g_assert_cmpuint(count_bits_that_differ(image, before), ==, 0);
}

static void test_cut_off(void)
{
    g_autoptr(GByteArray) image = g_byte_array_new();
    g_byte_array_append(image, (const guint8 *)"magicmag", 8);
    add_tty(image, 12, 6, RAW);
    for (guint n = 0; n < image->len; n++) {
        /* In memory of its own, so that what is done behind it is seen. */
        g_autofree guint8 *part = g_memdup2(image->data, n);
        g_assert_cmpuint(criu_lines_mend(&six, part, n), ==, 0);
        g_assert_true(n == 0 || memcmp(part, image->data, n) == 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/criu-lines/both-ends", test_both_ends);
    g_test_add_func("/criu-lines/left-alone", test_left_alone);
    g_test_add_func("/criu-lines/cut-off", test_cut_off);
    return g_test_run();
}
