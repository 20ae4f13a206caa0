/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: in a CRIU image a periodic timerfd that has come due goes on once restored, an absolute
 * one comes no sooner than it would have, all others stay as they are, and so does what is no
 * image, wherever it ends. */
#include <glib.h>
#include <string.h>

#include "criu-image.h"
#include "test-criu-wire.h"

enum { TICKS = 5, FLAGS, SEC, NSEC, EACH_SEC, EACH_NSEC, N_FIELDS };
typedef guint64 Timer[N_FIELDS];

/* As CRIU writes it: clock, owner and all. */
static void add_timer(GByteArray *image, const Timer timer)
{
    g_autoptr(GByteArray) entry = g_byte_array_new(), tfd = g_byte_array_new(),
                          owner = g_byte_array_new();
    for (guint i = 1; i <= 5; i++)
        put_number(owner, i, 0);
    put_number(tfd, 1, 300);
    put_number(tfd, 2, 2);
    put_message(tfd, 3, owner);
    put_number(tfd, 4, 1);
    for (guint i = TICKS; i < N_FIELDS; i++)
        put_number(tfd, i, timer[i]);
    put_number(entry, 1, 17);
    put_number(entry, 2, 300);
    put_message(entry, 12, tfd);
    guint32 length = GUINT32_TO_LE(entry->len);
    g_byte_array_append(image, (guint8 *)&length, sizeof length);
    g_byte_array_append(image, entry->data, entry->len);
}

static GByteArray *new_image(void)
{
    GByteArray *image = g_byte_array_new();
    g_byte_array_append(image, (const guint8 *)"magicmag", 8);
    return image;
}

/* @before becomes @after, between two that need nothing. */
static void check(const Timer before, const Timer after)
{
    static const Timer well = { [SEC] = 5, [EACH_SEC] = 5 };
    g_autoptr(GByteArray) image = new_image(), expected = new_image();
    add_timer(image, well);
    add_timer(image, before);
    add_timer(image, well);
    add_timer(expected, well);
    add_timer(expected, after);
    add_timer(expected, well);
    gboolean same = memcmp(before, after, sizeof(Timer)) == 0;
    g_assert_cmpuint(criu_timers_mend(image->data, image->len), ==, same ? 0 : 1);
    g_assert_cmpmem(image->data, image->len, expected->data, expected->len);
    /* Once is enough. */
    g_assert_cmpuint(criu_timers_mend(image->data, image->len), ==, 0);
}

static void test_due(void)
{
    check((Timer){ [TICKS] = 1, [EACH_NSEC] = 20000000 },
          (Timer){ [TICKS] = 0, [NSEC] = 1, [EACH_NSEC] = 20000000 });
    check((Timer){ [TICKS] = 77, [EACH_SEC] = 3 },
          (Timer){ [TICKS] = 76, [NSEC] = 1, [EACH_SEC] = 3 });
}

static void test_left_alone(void)
{
    static const Timer timers[] = {
        { 0 },                                               /* disarmed */
        { [EACH_SEC] = 1 },                                  /* so, with what it had */
        { [TICKS] = 1 },                                     /* once, and it has come */
        { [SEC] = 7 },                                       /* once */
        { [TICKS] = 3, [NSEC] = 9, [EACH_NSEC] = 20000000 }, /* going on, not read */
        { [TICKS] = 3, [SEC] = 9, [EACH_NSEC] = 20000000 },
        { [FLAGS] = 3, [SEC] = 9 }, /* to be told when the clock is set */
    };
    for (guint i = 0; i < G_N_ELEMENTS(timers); i++)
        check(timers[i], timers[i]);
}

static void test_absolute(void)
{
    check((Timer){ [FLAGS] = 1 }, (Timer){ 0 });
    check((Timer){ [FLAGS] = 1, [SEC] = 4, [NSEC] = 5 }, (Timer){ [SEC] = 4, [NSEC] = 5 });
    check((Timer){ [FLAGS] = 1, [TICKS] = 2, [EACH_SEC] = 1 },
          (Timer){ [TICKS] = 1, [NSEC] = 1, [EACH_SEC] = 1 });
}

/* A number of fewer bytes than its place has is the same to who reads it. */
static void test_same_width(void)
{
    guint8 bytes[] = { 0x28, 0x80, 0x01, 0x30, 0x00 };
    CriuBytes message = { bytes, bytes + sizeof bytes }, again = message;
    CriuField field;
    g_assert_true(criu_field_next(&message, &field));
    g_assert_cmpuint(field.value, ==, 128);
    g_assert_true(criu_field_set(&field, 127));
    g_assert_false(criu_field_set(&field, 1 << 14));
    g_assert_true(criu_field_next(&again, &field));
    g_assert_cmpuint(field.number, ==, 5);
    g_assert_cmpuint(field.value, ==, 127);
    g_assert_true(criu_field_next(&again, &field));
    g_assert_cmpuint(field.number, ==, 6);
    g_assert_false(criu_field_next(&again, &field));
}

static void test_cut_off(void)
{
    g_autoptr(GByteArray) image = new_image();
    add_timer(image, (Timer){ [TICKS] = 1, [EACH_SEC] = 1 });
    for (guint n = 0; n < image->len; n++) {
        /* In memory of its own, so that what is done behind it is seen. */
        g_autofree guint8 *part = g_memdup2(image->data, n);
        g_assert_cmpuint(criu_timers_mend(part, n), ==, 0);
        g_assert_true(n == 0 || memcmp(part, image->data, n) == 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/criu-timers/due", test_due);
    g_test_add_func("/criu-timers/left-alone", test_left_alone);
    g_test_add_func("/criu-timers/absolute", test_absolute);
    g_test_add_func("/criu-timers/same-width", test_same_width);
    g_test_add_func("/criu-timers/cut-off", test_cut_off);
    return g_test_run();
}
