/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a part of RAM can be lent to synchronous write protection while an asynchronous tracker
 * has the whole: each first write there is told, none elsewhere; and when it is back the tracker
 * has missed nothing, and nothing else is left of it. */
#include "test-track-child.h"
#include "track/residual.h"
#include "track/uffd-async.h"

typedef struct {
    TestChild *child;
    StasisRam *ram;
    StasisTracker *tracker;
    StasisResidual *residual;
    guint64 n_told; /* of written pages; in the fault thread, under the tracker's lock */
    StasisDirty *told;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    f->child = test_child_new();
    f->ram = test_ram(f->child);
    for (guint b = 0; b < TEST_BLOCKS; b++)
        test_write(f->child, b, 0, test_n_pages[b], 1, 1);
    f->tracker = stasis_tracker_uffd_async.open(f->ram, NULL, &error);
    g_assert_no_error(error);
    stasis_tracker_uffd_async.arm(f->tracker, &error);
    g_assert_no_error(error);
    f->told = stasis_dirty_new(f->ram);
    f->residual = stasis_residual_new(f->ram, f->tracker, NULL, &error);
    g_assert_no_error(error);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    stasis_residual_free(f->residual);
    f->tracker->ops->close(f->tracker, FALSE);
    test_assert_clean(f->child);
    test_child_free(f->child);
    stasis_ram_free(f->ram);
    stasis_dirty_free(f->told);
}

static void note(guint block, guint64 page, gpointer data)
{
    Fixture *f = data;
    stasis_bitmap_set_range(f->told->blocks[block], page, 1);
    f->n_told++;
}

static void set_noting(Fixture *f, gboolean on)
{
    StasisTracker *sync = stasis_residual_get_tracker(f->residual);
    sync->ops->set_before_write(sync, on ? note : NULL, f);
}

static void protect(Fixture *f, const StasisDirty *hot)
{
    g_autoptr(GError) error = NULL;
    stasis_residual_protect(f->residual, hot, &error);
    g_assert_no_error(error);
}

static StasisDirty *harvest(Fixture *f, gboolean rearm)
{
    g_autoptr(GError) error = NULL;
    StasisDirty *dirty = stasis_dirty_new(f->ram);
    f->tracker->ops->harvest(f->tracker, dirty, rearm, &error);
    g_assert_no_error(error);
    return dirty;
}

static void assert_within(const StasisDirty *part, const StasisDirty *whole)
{
    for (guint b = 0; b < TEST_BLOCKS; b++)
        for (guint64 p = 0; p < test_n_pages[b]; p++)
            g_assert_true(!stasis_bitmap_test(part->blocks[b], p) ||
                          stasis_bitmap_test(whole->blocks[b], p));
}

static guint64 count_faults(Fixture *f)
{
    StasisFaultStats stats;
    StasisTracker *sync = stasis_residual_get_tracker(f->residual);
    sync->ops->get_fault_stats(sync, &stats);
    return stats.n;
}

/* Page tables go with the protection in them, so none may while a part is lent: what is protected
 * there looks as if it were only not written. */
static void assert_tables_may_go(Fixture *f, gboolean may)
{
    guint64 n, n_found;
    g_assert_cmpint(stasis_uffd_async_span_unwritten(f->tracker, TEST_MEMFD, 200, 100, &n), ==,
                    may ? 0 : -EBUSY);
    g_assert_cmpint(stasis_uffd_async_span_present(f->tracker, TEST_MEMFD, 200, 100, &n, &n_found),
                    ==, may ? 0 : -EBUSY);
}

/* Near pages share a range; what is in none is tracked as ever, also by a harvest that re-arms. */
static void test_part(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisDirty) hot = stasis_dirty_new(f->ram);
    stasis_bitmap_set_range(hot->blocks[TEST_MEMFD], 100, 10);
    stasis_bitmap_set_range(hot->blocks[TEST_MEMFD], 115, 10);
    stasis_bitmap_set_range(hot->blocks[TEST_MEMFD], 5000, 1);
    stasis_bitmap_set_range(hot->blocks[TEST_HUGE], 511, 2);
    stasis_bitmap_set_range(hot->blocks[TEST_ANON], 700, 1);
    protect(f, hot);
    const StasisDirty *pages = stasis_residual_get_pages(f->residual);
    assert_within(hot, pages);
    g_assert_cmpuint(stasis_dirty_count(pages), ==, 25 + 1 + 2 + 1);
    assert_tables_may_go(f, FALSE);
    /* More, partly the same. */
    stasis_dirty_clear(hot);
    stasis_bitmap_set_range(hot->blocks[TEST_MEMFD], 90, 50);
    protect(f, hot);
    g_assert_cmpuint(stasis_dirty_count(pages), ==, 50 + 1 + 2 + 1);

    set_noting(f, TRUE);
    test_write(f->child, TEST_MEMFD, 0, 3, 50, 7); /* 100 is in */
    test_write(f->child, TEST_HUGE, 508, 8, 1, 7); /* 511 and 512 are */
    test_write(f->child, TEST_ANON, 695, 6, 1, 7); /* 700 is */
    g_assert_cmpuint(f->n_told, ==, 4);
    assert_within(f->told, pages);
    g_autoptr(StasisDirty) outside = harvest(f, TRUE);
    stasis_dirty_subtract(outside, pages);
    g_assert_cmpuint(stasis_dirty_count(outside), ==, 2 + 6 + 5);
    /* Told once; and again when it was protected again. */
    test_write(f->child, TEST_ANON, 700, 1, 1, 8);
    g_assert_cmpuint(f->n_told, ==, 4);
    g_assert_cmpint(stasis_residual_renew(f->residual), ==, 0);
    test_write(f->child, TEST_ANON, 700, 1, 1, 9);
    test_write(f->child, TEST_MEMFD, 120, 1, 1, 9);
    g_assert_cmpuint(f->n_told, ==, 6);
    g_assert_cmpuint(count_faults(f), ==, 6);

    g_assert_true(stasis_residual_end(f->residual, &error));
    assert_tables_may_go(f, TRUE);
    g_assert_cmpuint(test_count_uffds(f->child->pid), ==, 1);
    g_assert_nonnull(stasis_tracker_kept(f->ram, 0));
    /* All of it counts as written, and nothing besides. */
    g_autoptr(StasisDirty) back = harvest(f, TRUE);
    g_assert_cmpuint(stasis_dirty_count(back), ==, 54);
    assert_within(back, pages);
    test_write(f->child, TEST_MEMFD, 100, 5, 1, 10);
    g_autoptr(StasisDirty) after = harvest(f, TRUE);
    g_assert_cmpuint(stasis_dirty_count(after), ==, 5);
}

/* More runs than there may be ranges. */
static void test_scattered(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisDirty) hot = stasis_dirty_new(f->ram);
    guint before = test_count_registered(f->child->pid);
    for (guint64 p = 0; p < test_n_pages[TEST_MEMFD]; p += 20)
        stasis_bitmap_set_range(hot->blocks[TEST_MEMFD], p, 1);
    for (guint64 p = 0; p < test_n_pages[TEST_HUGE]; p += 17)
        stasis_bitmap_set_range(hot->blocks[TEST_HUGE], p, 1);
    protect(f, hot);
    assert_within(hot, stasis_residual_get_pages(f->residual));
    test_write(f->child, TEST_MEMFD, 0, 451, 20, 7);
    g_assert_cmpuint(count_faults(f), ==, 451);
    g_assert_true(stasis_residual_end(f->residual, &error));
    g_autoptr(StasisDirty) back = harvest(f, TRUE);
    assert_within(hot, back);
    /* What was split is one mapping again. */
    g_assert_cmpuint(test_count_registered(f->child->pid), ==, before);
}

/* Nobody waits for good, whoever writes while ranges go and come. */
static void test_full_speed(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    test_hammer_begin(f->child, 0);
    for (guint i = 0; i < 20; i++) {
        g_autoptr(StasisDirty) hot = harvest(f, TRUE);
        protect(f, hot);
        set_noting(f, TRUE);
        test_wait_writes(f->child, 20);
        test_freeze(f->child);
        g_assert_cmpint(stasis_residual_renew(f->residual), ==, 0);
        test_thaw(f->child);
        test_wait_writes(f->child, 20);
        set_noting(f, FALSE);
        g_assert_true(stasis_residual_end(f->residual, &error));
        g_autoptr(StasisDirty) back = harvest(f, FALSE);
        assert_within(f->told, back);
        stasis_dirty_clear(f->told);
        stasis_residual_free(f->residual);
        f->residual = stasis_residual_new(f->ram, f->tracker, NULL, &error);
        g_assert_no_error(error);
        test_wait_writes(f->child, 100);
    }
    test_hammer_end(f->child);
}

/* Ended by free(), in the middle of it. */
static void test_freed(Fixture *f, gconstpointer data)
{
    g_autoptr(StasisDirty) hot = stasis_dirty_new(f->ram);
    stasis_dirty_set_all(hot);
    protect(f, hot);
    test_write(f->child, TEST_HUGE, 0, 5, 7, 3);
    stasis_residual_free(g_steal_pointer(&f->residual));
    g_assert_cmpuint(test_count_protected(f->child), ==, 0);
    test_write(f->child, TEST_HUGE, 1, 5, 7, 3);
    g_assert_nonnull(stasis_tracker_kept(f->ram, 0));
}

int main(int argc, char **argv)
{
    test_be_child(argc, argv);
    test_program = g_canonicalize_filename(argv[0], NULL);
    g_test_init(&argc, &argv, NULL);
    g_test_add("/track/residual/part", Fixture, NULL, set_up, test_part, tear_down);
    g_test_add("/track/residual/scattered", Fixture, NULL, set_up, test_scattered, tear_down);
    g_test_add("/track/residual/full-speed", Fixture, NULL, set_up, test_full_speed, tear_down);
    g_test_add("/track/residual/freed", Fixture, NULL, set_up, test_freed, tear_down);
    return g_test_run();
}
