/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a series that spares the guest arms pages again when what is dirty grows, when it is too
 * much for a stop, and once in a while; else never. */
#include "copy/sparing.h"

/* Images that arm again, of @n with what @n_dirty() says is dirty: of the image's number, and of
 * how many intervals ago pages were armed. */
static guint count_arming_within(guint64 max_pages, guint n, guint64 (*n_dirty)(guint interval))
{
    StasisSparing sparing = { .max_pages = max_pages };
    guint n_arming = 0, interval = 1;
    for (guint i = 0; i < n; i++, interval++)
        if (!stasis_sparing_choose(&sparing, n_dirty(interval))) {
            n_arming++;
            interval = 0;
        }
    return n_arming;
}

static guint count_arming(guint n, guint64 (*n_dirty)(guint interval))
{
    return count_arming_within(STASIS_SPARING_MAX_PAGES, n, n_dirty);
}

/* The same pages all the time. */
static guint64 hot_set(guint interval)
{
    return 8192;
}

/* Others each time. */
static guint64 moving_on(guint interval)
{
    return 3000 * (guint64)interval;
}

static guint64 much(guint interval)
{
    return 20000;
}

static guint64 idle(guint interval)
{
    return interval > 3 ? 3 : 0;
}

/* A set, and now and then a page besides. */
static guint64 nearly_hot(guint interval)
{
    return 1000 + 20 * (guint64)interval;
}

static void test_choice(void)
{
    g_assert_cmpuint(count_arming(210, hot_set), ==, 10);
    g_assert_cmpuint(count_arming(210, nearly_hot), ==, 10);
    /* 3000, and then 6000, which are more than half as many again. */
    g_assert_cmpuint(count_arming(100, moving_on), ==, 50);
    g_assert_cmpuint(count_arming(100, much), ==, 100);
    g_assert_cmpuint(count_arming(210, idle), ==, 10);
}

/* A control loop has no time in its cycles for faults: as long as what it writes does not grow, it
 * gets none. */
static guint64 loop_set(guint interval)
{
    return 1500;
}

static guint64 growing_loop(guint interval)
{
    return 500 * (guint64)interval;
}

static void test_loop(void)
{
    g_assert_cmpuint(count_arming_within(STASIS_SPARING_CYCLE_PAGES, 1000, loop_set), ==, 0);
    g_assert_cmpuint(count_arming_within(STASIS_SPARING_CYCLE_PAGES, 100, growing_loop), >, 10);
    g_assert_cmpuint(count_arming_within(STASIS_SPARING_CYCLE_PAGES, 100, hot_set), ==, 100);
}

/* What a guest wrote once, before it fell idle, is copied for so many images and no more. */
static void test_falling_idle(void)
{
    StasisSparing sparing = { .max_pages = STASIS_SPARING_MAX_PAGES };
    guint64 dirty = 8192;
    guint n = 0;
    for (; stasis_sparing_choose(&sparing, dirty); n++)
        g_assert_cmpuint(n, <, 50);
    dirty = 2;
    g_assert_true(stasis_sparing_choose(&sparing, dirty));
    /* It begins to work again: that is seen at once. */
    g_assert_false(stasis_sparing_choose(&sparing, 8192));
    g_assert_true(stasis_sparing_choose(&sparing, 8192));
    g_assert_true(stasis_sparing_choose(&sparing, 8192));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/copy/sparing/choice", test_choice);
    g_test_add_func("/copy/sparing/loop", test_loop);
    g_test_add_func("/copy/sparing/falling-idle", test_falling_idle);
    return g_test_run();
}
