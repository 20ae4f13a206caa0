/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what a keeper says of what it held is true: "until I was told" only if it was. */
#include <glib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent.h"
#include "keeper.h"

/* What the keeper, a process of its own, and the test share. */
static struct {
    volatile int letting_go, may_go;
} * shared;

/* In either process; so neither waits for ever if the other has ended. */
static void wait_for(volatile int *what)
{
    for (int i = 0; !*what; i++) {
        g_assert_cmpint(i, <, 120000);
        g_usleep(1000);
    }
}

static void hold(const void *what, int64_t end_ms, KeeperReport *report)
{
    report->n = 1;
}

static void let_go(KeeperReport *report)
{
    shared->letting_go = 1;
    wait_for(&shared->may_go);
}

static const KeeperOps ops = { "test-keeper", hold, let_go };

static void start(Keeper *keeper, int64_t end_ms)
{
    KeeperReport report;
    shared->letting_go = shared->may_go = 0;
    g_assert_true(keeper_start(keeper, NULL, end_ms));
    g_assert_true(keeper_get_report(keeper, &report));
    g_assert_cmpuint(report.n, ==, 1);
}

static void test_told(void)
{
    Keeper keeper = { &ops, -1 };
    KeeperReport report;
    start(&keeper, now_ms() + 120000);
    g_assert_true(keeper_tell(&keeper));
    wait_for(&shared->letting_go);
    shared->may_go = 1;
    g_assert_true(keeper_get_report(&keeper, &report));
    g_assert_false(keeper_get_report(&keeper, &report));
    g_assert_false(keeper_is_holding(&keeper));
}

static void test_told_late(void)
{
    Keeper keeper = { &ops, -1 };
    KeeperReport report;
    start(&keeper, now_ms());
    wait_for(&shared->letting_go);
    g_assert_true(keeper_tell(&keeper)); /* it is at work yet */
    shared->may_go = 1;
    g_assert_false(keeper_get_report(&keeper, &report));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    g_test_add_func("/agent-keeper/told", test_told);
    g_test_add_func("/agent-keeper/told-late", test_told_late);
    return g_test_run();
}
