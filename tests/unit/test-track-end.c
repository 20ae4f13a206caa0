/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: tracking ends without a trace: whether it is closed, swept, or dies with our process, no
 * writer waits for good, no page stays protected, no descriptor stays open. What is kept on purpose
 * is found again with all that was written meanwhile. */
#include "test-track-child.h"

typedef struct {
    TestChild *child;
    StasisRam *ram;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    f->child = test_child_new();
    f->ram = test_ram(f->child);
    test_write(f->child, TEST_HUGE, 0, 1024, 1, 1);
    test_write(f->child, TEST_MEMFD, 0, 1000, 2, 1);
    test_assert_clean(f->child);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    test_assert_clean(f->child);
    test_child_free(f->child);
    stasis_ram_free(f->ram);
}

static StasisTracker *open_tracker(Fixture *f, const StasisTrackerOps *ops, gboolean arm)
{
    g_autoptr(GError) error = NULL;
    StasisTracker *tracker = ops->open(f->ram, NULL, &error);
    g_assert_no_error(error);
    if (arm)
        ops->arm(tracker, &error);
    g_assert_no_error(error);
    return tracker;
}

static guint64 count_dirty(Fixture *f, StasisTracker *tracker, gboolean rearm)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisDirty) dirty = stasis_dirty_new(f->ram);
    tracker->ops->harvest(tracker, dirty, rearm, &error);
    g_assert_no_error(error);
    return stasis_dirty_count(dirty);
}

/* ---- asynchronous: kept, found, swept ---- */

static void test_keep(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    const StasisTrackerOps *ops = &stasis_tracker_uffd_async;
    g_assert_null(stasis_tracker_kept(f->ram, 0));
    StasisTracker *tracker = open_tracker(f, ops, TRUE);
    test_write(f->child, TEST_ANON, 10, 5, 1, 2);
    ops->close(tracker, TRUE);
    g_assert_nonnull(stasis_tracker_kept(f->ram, 0));
    g_assert_cmpuint(test_count_uffds(f->child->pid), ==, 1);
    test_write(f->child, TEST_MEMFD, 100, 7, 3, 2);
    for (guint i = 0; i < 3; i++) {
        tracker = open_tracker(f, ops, FALSE);
        g_assert_cmpuint(test_count_uffds(f->child->pid), ==, 1);
        g_assert_cmpuint(count_dirty(f, tracker, FALSE), ==, 5 + 7);
        ops->close(tracker, TRUE);
    }
    tracker = open_tracker(f, ops, FALSE);
    g_assert_cmpuint(count_dirty(f, tracker, TRUE), ==, 5 + 7);
    test_write(f->child, TEST_HUGE, 3, 1, 1, 2);
    ops->close(tracker, TRUE);
    tracker = open_tracker(f, ops, FALSE);
    g_assert_cmpuint(count_dirty(f, tracker, FALSE), ==, 1);
    ops->close(tracker, FALSE);
    g_assert_null(stasis_tracker_kept(f->ram, 0));
    test_assert_clean(f->child);
    stasis_tracker_sweep(f->child->pid, &error); /* nothing to sweep is fine */
    g_assert_no_error(error);
}

/* Memory that was replaced is not tracked: kept is kept for all of it or not at all. */
static void test_replaced_memory(Fixture *f, gconstpointer data)
{
    const StasisTrackerOps *ops = &stasis_tracker_uffd_async;
    StasisTracker *tracker = open_tracker(f, ops, TRUE);
    ops->close(tracker, TRUE);
    g_assert_nonnull(stasis_tracker_kept(f->ram, 0));
    g_assert_cmpint(test_order(f->child, &(TestOrder){ TEST_REMAP, TEST_ANON }), ==, 0);
    g_assert_null(stasis_tracker_kept(f->ram, 0));
    /* Opening covers it. */
    tracker = open_tracker(f, ops, TRUE);
    g_assert_nonnull(stasis_tracker_kept(f->ram, 0));
    test_write(f->child, TEST_ANON, 0, 3, 1, 5);
    g_assert_cmpuint(count_dirty(f, tracker, FALSE), ==, 3);
    ops->close(tracker, FALSE);
}

static void test_sweep(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    StasisTracker *tracker = open_tracker(f, &stasis_tracker_uffd_async, TRUE);
    tracker->ops->close(tracker, TRUE);
    g_assert_cmpuint(test_count_protected(f->child), >, 0);
    g_assert_cmpuint(test_count_registered(f->child->pid), >=, TEST_BLOCKS);
    test_hammer_begin(f->child, 0);
    stasis_tracker_sweep(f->child->pid, &error);
    g_assert_no_error(error);
    test_assert_clean(f->child);
    test_wait_writes(f->child, 1000);
    test_hammer_end(f->child);
}

/* A synchronous one takes the place of what was kept. */
static void test_sync_takes_over(Fixture *f, gconstpointer data)
{
    StasisTracker *tracker = open_tracker(f, &stasis_tracker_uffd_async, TRUE);
    tracker->ops->close(tracker, TRUE);
    tracker = open_tracker(f, &stasis_tracker_uffd_sync, TRUE);
    g_assert_null(stasis_tracker_kept(f->ram, 0));
    test_write(f->child, TEST_ANON, 0, 3, 1, 5);
    g_assert_cmpuint(count_dirty(f, tracker, FALSE), ==, 3);
    tracker->ops->close(tracker, FALSE);
}

/* A block that another userfaultfd has is an error by name, and neither is harmed. */
static void test_foreign(Fixture *f, gconstpointer data)
{
    const StasisTrackerOps *const both[] = { &stasis_tracker_uffd_async,
                                             &stasis_tracker_uffd_sync };
    TestOrder order = { TEST_FOREIGN, TEST_MEMFD, .value = 1 };
    g_assert_cmpint(test_order(f->child, &order), ==, 0);
    for (guint i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(both[i]->open(f->ram, NULL, &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_BUSY);
        g_assert_nonnull(strstr(error->message, "memfd"));
        g_clear_error(&error);
        g_assert_cmpuint(test_count_uffds(f->child->pid), ==, 1);
        g_assert_cmpuint(test_count_registered(f->child->pid), ==, 1);
        g_assert_null(stasis_tracker_kept(f->ram, 0));
        stasis_tracker_sweep(f->child->pid, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(test_count_uffds(f->child->pid), ==, 1);
    }
    order.value = 0;
    g_assert_cmpint(test_order(f->child, &order), ==, 0);
}

/* ---- synchronous: before a write, and close ---- */

typedef struct {
    Fixture *f;
    StasisTracker *tracker;
    GArray *seen; /* of guint64: page */
    guint n_early;
    gint entered, leave, hold;
} Watch;

/* The old content is still there, by the way that the copy takes. */
static void watch(guint block, guint64 page, gpointer user_data)
{
    Watch *w = user_data;
    guint64 value = 0;
    int r = stasis_ram_read(w->f->ram, g_ptr_array_index(w->f->ram->blocks, block),
                            page * TEST_PAGE, &value, sizeof(value));
    w->n_early += r != 0 || value >= 1000;
    g_array_append_val(w->seen, page);
    g_atomic_int_set(&w->entered, TRUE);
    while (g_atomic_int_get(&w->hold) && !g_atomic_int_get(&w->leave))
        g_usleep(100);
}

static void watch_init(Watch *w, Fixture *f)
{
    *w = (Watch){ .f = f, .seen = g_array_new(FALSE, FALSE, sizeof(guint64)) };
    w->tracker = open_tracker(f, &stasis_tracker_uffd_sync, TRUE);
    w->tracker->ops->set_before_write(w->tracker, watch, w);
}

static void test_before_write(Fixture *f, gconstpointer data)
{
    Watch w;
    guint n = 0;
    StasisFaultStats stats;
    watch_init(&w, f);
    for (guint block = 0; block < TEST_BLOCKS; block++)
        for (guint op = TEST_WRITE; op <= TEST_KERNEL_WRITE; op++) {
            TestOrder order = { (TestOp)op, block, op * 50, 40, 3, 1000 };
            g_array_set_size(w.seen, 0);
            test_order(f->child, &order);
            g_assert_cmpuint(w.seen->len, ==, 40);
            n += 40;
            for (guint i = 0; i < 40; i++) {
                g_assert_cmpuint(g_array_index(w.seen, guint64, i), ==, op * 50 + i * 3);
                g_assert_cmpuint(
                    test_page(f->child->pid, f->child->control->hva[block], op * 50 + i * 3), ==,
                    1000 + i);
            }
            /* Once released, no more. */
            test_order(f->child, &order);
            g_assert_cmpuint(w.seen->len, ==, 40);
        }
    g_assert_cmpuint(w.n_early, ==, 0);
    w.tracker->ops->get_fault_stats(w.tracker, &stats);
    g_assert_cmpuint(stats.n, ==, n);
    g_assert_cmpuint(stats.worst_us, >, 0);
    g_assert_cmpuint(count_dirty(f, w.tracker, FALSE), ==, n);
    w.tracker->ops->close(w.tracker, FALSE);
    g_array_unref(w.seen);
}

/* Released pages and their neighbours are written without a fault, protected ones with one. */
static void test_release_and_protect(Fixture *f, gconstpointer data)
{
    Watch w;
    g_autoptr(StasisDirty) some = stasis_dirty_new(f->ram);
    watch_init(&w, f);
    const StasisTrackerOps *ops = w.tracker->ops;
    for (guint block = 0; block < TEST_BLOCKS; block++) {
        g_assert_cmpint(ops->release(w.tracker, block, 16, 16), ==, 0);
        g_array_set_size(w.seen, 0);
        test_write(f->child, block, 15, 18, 1, 1000);
        g_assert_cmpuint(w.seen->len, ==, 2);
        stasis_bitmap_set_range(some->blocks[block], 15, 5);
        stasis_bitmap_set_range(some->blocks[block], 40, 1);
    }
    g_assert_cmpuint(count_dirty(f, w.tracker, FALSE), ==, TEST_BLOCKS * 2);
    g_assert_cmpint(ops->protect(w.tracker, some), ==, 0);
    g_assert_cmpuint(count_dirty(f, w.tracker, FALSE), ==, TEST_BLOCKS);
    for (guint block = 0; block < TEST_BLOCKS; block++) {
        g_array_set_size(w.seen, 0);
        test_write(f->child, block, 15, 18, 1, 2000);
        g_assert_cmpuint(w.seen->len, ==, 5);
    }
    ops->close(w.tracker, FALSE);
    g_array_unref(w.seen);
}

static gpointer let_go(gpointer data)
{
    Watch *w = data;
    g_usleep(50000);
    g_atomic_int_set(&w->leave, TRUE);
    return NULL;
}

/* Taking the function back waits for the call that is under way, and then there is none. */
static void test_take_back(Fixture *f, gconstpointer data)
{
    Watch w;
    watch_init(&w, f);
    w.hold = TRUE;
    TestOrder order = { TEST_WRITE, TEST_ANON, 0, 2, 1, 7 };
    test_send(f->child, &order);
    guint64 deadline = stasis_now_us() + TEST_HANG_US;
    while (!g_atomic_int_get(&w.entered))
        g_assert_cmpuint(stasis_now_us(), <, deadline);
    GThread *thread = g_thread_new("let-go", let_go, &w);
    w.tracker->ops->set_before_write(w.tracker, NULL, NULL);
    g_assert_true(g_atomic_int_get(&w.leave));
    guint n_seen = w.seen->len;
    g_thread_join(thread);
    test_answer(f->child);
    test_write(f->child, TEST_ANON, 100, 10, 1, 7);
    g_assert_cmpuint(w.seen->len, ==, n_seen);
    g_assert_cmpuint(count_dirty(f, w.tracker, FALSE), ==, 12);
    w.tracker->ops->close(w.tracker, FALSE);
    g_array_unref(w.seen);
}

/* With faults coming in all the time. */
static void test_close_under_fire(Fixture *f, gconstpointer data)
{
    test_hammer_begin(f->child, 0);
    for (guint i = 0; i < 10; i++) {
        StasisTracker *tracker = open_tracker(f, &stasis_tracker_uffd_sync, TRUE);
        if (i % 2)
            test_wait_writes(f->child, 20);
        tracker->ops->close(tracker, FALSE);
        test_assert_clean(f->child);
        test_wait_writes(f->child, 1000);
    }
    test_hammer_end(f->child);
}

/* ---- our process dies ---- */

/* As "--tracker NAME PID HVA…": opens, arms, says so, and waits for its end. */
static void be_tracker(int argc, char **argv)
{
    if (argc != 4 + (int)TEST_BLOCKS || strcmp(argv[1], "--tracker") != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    guint64 hva[TEST_BLOCKS];
    for (guint i = 0; i < TEST_BLOCKS; i++)
        hva[i] = g_ascii_strtoull(argv[4 + i], NULL, 0);
    StasisRam *ram = test_ram_at(atoi(argv[3]), hva, -1);
    const StasisTrackerOps *ops = stasis_tracker_choose(NULL, argv[2], FALSE, NULL);
    StasisTracker *tracker = ops->open(ram, NULL, NULL);
    gboolean ok = tracker != NULL && ops->arm(tracker, NULL);
    stasis_write_all(1, ok ? "y" : "n", 1);
    for (;;)
        pause();
}

static pid_t start_tracker(Fixture *f, const char *name)
{
    int ends[2];
    char words[1 + TEST_BLOCKS][32], answer = 0;
    g_snprintf(words[0], 32, "%d", (int)f->child->pid);
    for (guint i = 0; i < TEST_BLOCKS; i++)
        g_snprintf(words[1 + i], 32, "%#" G_GINT64_MODIFIER "x", f->child->control->hva[i]);
    g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], 1);
        execl(test_program, test_program, "--tracker", name, words[0], words[1], words[2], words[3],
              NULL);
        _exit(127);
    }
    close(ends[1]);
    g_assert_cmpint(stasis_read_all(ends[0], &answer, 1), ==, 0);
    g_assert_cmpint(answer, ==, 'y');
    close(ends[0]);
    return pid;
}

static void end_tracker(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(WTERMSIG(status), ==, SIGKILL);
}

/* A synchronous one takes its protections with it, also from a writer that waits for it. */
static void test_sync_killed(Fixture *f, gconstpointer data)
{
    for (guint i = 0; i < 4; i++) {
        pid_t pid = start_tracker(f, "uffd-sync");
        g_assert_cmpuint(test_count_protected(f->child), >, 0);
        g_assert_cmpuint(test_count_uffds(f->child->pid), ==, 0);
        if (i % 2) {
            /* It stands still: a writer waits; killed, the writer goes on. */
            int status;
            kill(pid, SIGSTOP);
            g_assert_cmpint(waitpid(pid, &status, WUNTRACED), ==, pid);
            test_send(f->child, &(TestOrder){ TEST_WRITE, TEST_HUGE, 0, 9, 9, 77 + i });
            g_usleep(30000);
            guint64 hva = f->child->control->hva[TEST_HUGE];
            g_assert_cmpuint(test_page(f->child->pid, hva, 0), !=, 77 + i);
            end_tracker(pid);
            test_answer(f->child);
            g_assert_cmpuint(test_page(f->child->pid, hva, 0), ==, 77 + i);
        } else {
            test_hammer_begin(f->child, 0);
            test_wait_writes(f->child, 50);
            end_tracker(pid);
            test_wait_writes(f->child, 1000);
            test_hammer_end(f->child);
        }
        test_assert_clean(f->child);
    }
}

/* An asynchronous one lives on in the process, waits for nobody, and can be found or swept. */
static void test_async_killed(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    end_tracker(start_tracker(f, "uffd-async"));
    g_assert_nonnull(stasis_tracker_kept(f->ram, 0));
    test_write(f->child, TEST_MEMFD, 0, 9, 9, 77);
    StasisTracker *tracker = open_tracker(f, &stasis_tracker_uffd_async, FALSE);
    g_assert_cmpuint(count_dirty(f, tracker, FALSE), ==, 9);
    tracker->ops->close(tracker, TRUE);
    stasis_tracker_sweep(f->child->pid, &error);
    g_assert_no_error(error);
}

static void test_process_gone(Fixture *f, gconstpointer data)
{
    const StasisTrackerOps *const both[] = { &stasis_tracker_uffd_async,
                                             &stasis_tracker_uffd_sync };
    for (guint i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;
        TestChild *child = test_child_new();
        g_autoptr(StasisRam) ram = test_ram(child);
        StasisTracker *tracker = both[i]->open(ram, NULL, &error);
        g_assert_no_error(error);
        g_assert_true(both[i]->arm(tracker, &error));
        test_child_free(child);
        g_autoptr(StasisDirty) dirty = stasis_dirty_new(ram);
        both[i]->harvest(tracker, dirty, TRUE, NULL);
        both[i]->close(tracker, FALSE);
        g_assert_null(both[i]->open(ram, NULL, &error));
        g_assert_nonnull(error);
        g_assert_null(stasis_tracker_kept(ram, 0));
    }
}

int main(int argc, char **argv)
{
    test_be_child(argc, argv);
    be_tracker(argc, argv);
    test_program = g_canonicalize_filename(argv[0], NULL);
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/track/end/" name, Fixture, NULL, set_up, func, tear_down)
    ADD("keep", test_keep);
    ADD("replaced-memory", test_replaced_memory);
    ADD("sweep", test_sweep);
    ADD("sync-takes-over", test_sync_takes_over);
    ADD("foreign", test_foreign);
    ADD("before-write", test_before_write);
    ADD("release-and-protect", test_release_and_protect);
    ADD("take-back", test_take_back);
    ADD("close-under-fire", test_close_under_fire);
    ADD("sync-killed", test_sync_killed);
    ADD("async-killed", test_async_killed);
    ADD("process-gone", test_process_gone);
    return g_test_run();
}
