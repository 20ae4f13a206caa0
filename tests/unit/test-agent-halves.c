/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a line about a connection that was cut is read as it was meant, and nothing else is. */
#include <glib.h>

#include "agent/halves.h"

static void test_read(void)
{
    StasisHalfLine half;
    g_assert_true(stasis_half_parse("31415 log cron\n", &half));
    g_assert_cmpuint(half.ino, ==, 31415);
    g_assert_true(half.log);
    g_assert_cmpstr(half.name, ==, "cron");
    g_assert_true(stasis_half_parse("18446744073709551615 cut", &half));
    g_assert_cmpuint(half.ino, ==, G_MAXUINT64);
    g_assert_false(half.log);
    /* As long as a process's name can be, and no longer. */
    g_assert_true(stasis_half_parse("1 log 123456789012345678", &half));
    g_assert_cmpstr(half.name, ==, "123456789012345");
}

static void test_refused(void)
{
    static const char *const lines[] = { "",
                                         "\n",
                                         "7",
                                         "7 log",
                                         "-7 cut",
                                         " 7 cut",
                                         "7 cut more",
                                         "7 cute",
                                         "x cut",
                                         "7 logs me",
                                         "7 LOG me",
                                         "0x7 cut",
                                         "123456789012345678901 cut" };
    StasisHalfLine half;
    for (guint i = 0; i < G_N_ELEMENTS(lines); i++)
        g_assert_false(stasis_half_parse(lines[i], &half));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/agent-halves/read", test_read);
    g_test_add_func("/agent-halves/refused", test_refused);
    return g_test_run();
}
