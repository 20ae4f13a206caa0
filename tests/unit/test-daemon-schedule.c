/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a policy is due a period after the last time, whatever the wall clock does, over a sleep
 * and over a boot of the host; being late does not add up, and nothing is made up for. */
#include "daemon/schedule.h"

#include <string.h>

#define S ((gint64)G_TIME_SPAN_SECOND)
#define WALL (1900000000 * S)

static StasisdMoment at(const char *boot, gint64 boot_us, gint64 wall_us)
{
    StasisdMoment moment = { .boot_us = boot_us, .wall_us = wall_us };
    g_strlcpy(moment.boot_id, boot, sizeof(moment.boot_id));
    return moment;
}

static void test_next(void)
{
    static const struct {
        const char *what, *last_boot;
        gint64 last_us, last_wall_us, now_us, now_wall_us, due_us;
    } rows[] = {
        { "never run", "", 0, 0, 500 * S, WALL, 0 },
        { "just run", "A", 500 * S, WALL, 500 * S, WALL, 560 * S },
        { "overdue (asleep)", "A", 500 * S, WALL, 9000 * S, WALL + 8500 * S, 560 * S },
        { "wall clock set forward", "A", 500 * S, WALL, 510 * S, WALL + 99999 * S, 560 * S },
        { "wall clock set back", "A", 500 * S, WALL, 510 * S, WALL - 99999 * S, 560 * S },
        { "from the future", "A", 900 * S, WALL, 510 * S, WALL, 570 * S },
        { "booted, in time", "B", 90000 * S, WALL, 10 * S, WALL + 20 * S, 50 * S },
        { "booted, late", "B", 90000 * S, WALL, 10 * S, WALL + 60 * S, 10 * S },
        { "booted, clock not set", "B", 90000 * S, WALL, 10 * S, 0, 10 * S },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        StasisdMoment last = at(rows[i].last_boot, rows[i].last_us, rows[i].last_wall_us);
        StasisdMoment now = at("A", rows[i].now_us, rows[i].now_wall_us);
        g_test_message("%s", rows[i].what);
        g_assert_cmpint(stasisd_schedule_next(&last, 60 * S, &now), ==, rows[i].due_us);
    }
}

/* Runs that begin late, each by up to a third of a period, stay in step with the first. */
static void test_late(void)
{
    StasisdMoment last = at("A", 0, WALL), now;
    for (guint i = 1; i <= 1000; i++) {
        guint missed;
        gint64 due = stasisd_schedule_next(&last, 60 * S, &last);
        gint64 begun = due + g_test_rand_int_range(0, 20) * S;
        now = at("A", begun, WALL + begun);
        last = stasisd_schedule_begin(due, 60 * S, &now, &missed);
        g_assert_cmpuint(missed, ==, 0);
        g_assert_cmpint(last.boot_us, ==, (gint64)i * 60 * S);
        g_assert_cmpint(last.wall_us, ==, WALL + last.boot_us);
    }
}

/* One that is late by 3½ periods stands for all of them; the next is due in half a period. */
static void test_missed(void)
{
    guint missed;
    StasisdMoment last = at("A", 0, WALL), now = at("A", 270 * S, WALL + 270 * S);
    gint64 due = stasisd_schedule_next(&last, 60 * S, &now);
    g_assert_cmpint(due, ==, 60 * S);
    last = stasisd_schedule_begin(due, 60 * S, &now, &missed);
    g_assert_cmpuint(missed, ==, 3);
    g_assert_cmpint(stasisd_schedule_next(&last, 60 * S, &now), ==, 300 * S);
    /* A retry is within the period. */
    g_assert_cmpuint(stasisd_schedule_retry_us(60 * (guint64)S), <, 30 * (guint64)S);
    g_assert_cmpuint(stasisd_schedule_retry_us(1), >, 0);
}

static void test_now(void)
{
    StasisdMoment first, second;
    g_assert_true(stasisd_moment_now(&first));
    g_assert_true(stasisd_moment_now(&second));
    g_assert_cmpuint(strlen(first.boot_id), ==, 36);
    g_assert_cmpstr(first.boot_id, ==, second.boot_id);
    g_assert_cmpint(second.boot_us, >=, first.boot_us);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/daemon/schedule/next", test_next);
    g_test_add_func("/daemon/schedule/late", test_late);
    g_test_add_func("/daemon/schedule/missed", test_missed);
    g_test_add_func("/daemon/schedule/now", test_now);
    return g_test_run();
}
