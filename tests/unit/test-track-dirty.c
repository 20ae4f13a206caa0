/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a tracker, either of them, returns exactly the pages that were written since they were
 * last taken, whoever wrote them and however they lie; and loses none, however fast they are
 * written. */
#include "base/tree.h"
#include "test-track-child.h"

#define ROUNDS 40u

typedef struct {
    TestChild *child;
    StasisRam *ram;
    StasisTracker *tracker;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    const StasisTrackerOps *ops = data;
    f->child = test_child_new();
    f->ram = test_ram(f->child);
    f->tracker = ops->open(f->ram, NULL, &error);
    g_assert_no_error(error);
    g_assert_true(f->tracker->ops == ops);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    f->tracker->ops->close(f->tracker, FALSE);
    test_assert_clean(f->child);
    test_child_free(f->child);
    stasis_ram_free(f->ram);
}

static void arm(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    f->tracker->ops->arm(f->tracker, &error);
    g_assert_no_error(error);
}

static void harvest(Fixture *f, StasisDirty *into, gboolean rearm)
{
    g_autoptr(GError) error = NULL;
    f->tracker->ops->harvest(f->tracker, into, rearm, &error);
    g_assert_no_error(error);
}

/* ---- the model: a byte for each page ---- */

typedef struct {
    guint8 *dirty[TEST_BLOCKS];
} Model;

static void model_init(Model *model)
{
    for (guint b = 0; b < TEST_BLOCKS; b++)
        model->dirty[b] = g_malloc0(test_n_pages[b]);
}

static void model_clear(Model *model)
{
    for (guint b = 0; b < TEST_BLOCKS; b++)
        g_free(model->dirty[b]);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Model, model_clear)

static void assert_is(const StasisDirty *found, const Model *model)
{
    for (guint b = 0; b < TEST_BLOCKS; b++)
        for (guint64 i = 0; i < test_n_pages[b]; i++)
            if (stasis_bitmap_test(found->blocks[b], i) != model->dirty[b][i])
                g_error("block %s page %" G_GUINT64_FORMAT " is %s", test_names[b], i,
                        model->dirty[b][i] ? "lost" : "dirty though nobody wrote it");
}

static void assert_harvest(Fixture *f, Model *model, gboolean rearm)
{
    g_autoptr(StasisDirty) found = stasis_dirty_new(f->ram);
    harvest(f, found, rearm);
    assert_is(found, model);
    for (guint b = 0; rearm && b < TEST_BLOCKS; b++)
        memset(model->dirty[b], 0, test_n_pages[b]);
}

static void write_pages(Fixture *f, Model *model, TestOp op, guint block, guint64 first, guint64 n,
                        guint64 step)
{
    TestOrder order = { op, block, first, n, step, first + 1 };
    g_assert_cmpint(test_order(f->child, &order), >=, 0);
    for (guint64 i = 0; op != TEST_READ && i < n; i++)
        model->dirty[block][first + i * step] = 1;
}

static guint64 below(GRand *rand, guint64 n)
{
    return (guint64)g_rand_int_range(rand, 0, (gint32)n);
}

/* Single pages, dense runs, and runs with gaps on both sides of what is taken as one span. */
static void write_randomly(Fixture *f, Model *model, GRand *rand)
{
    for (guint64 n = below(rand, 12); n > 0; n--) {
        guint block = (guint)below(rand, TEST_BLOCKS);
        guint64 first = below(rand, test_n_pages[block]), left = test_n_pages[block] - first;
        guint64 step = below(rand, 2) ? 1 : 1 + below(rand, 100);
        guint64 count = below(rand, 3) == 0 ? 1 : 1 + below(rand, MIN(left / step + 1, 500));
        count = MIN(count, (left + step - 1) / step);
        write_pages(f, model, (TestOp)below(rand, 3), block, first, count, step);
    }
}

static void give_back_randomly(Fixture *f, Model *model, GRand *rand)
{
    g_autoptr(StasisDirty) given = stasis_dirty_new(f->ram);
    for (guint i = 0; i < 5; i++) {
        guint block = (guint)below(rand, TEST_BLOCKS);
        guint64 first = below(rand, test_n_pages[block]);
        guint64 n = 1 + below(rand, MIN(test_n_pages[block] - first, 200));
        stasis_bitmap_set_range(given->blocks[block], first, n);
        memset(model->dirty[block] + first, 1, n);
    }
    g_assert_cmpint(f->tracker->ops->give_back(f->tracker, given), ==, 0);
}

/* ---- cases ---- */

static void test_arm(Fixture *f, gconstpointer data)
{
    g_auto(Model) model = { 0 };
    model_init(&model);
    /* Some pages are there already, some are not; reading brings no dirt. */
    test_write(f->child, TEST_ANON, 0, 300, 2, 1);
    test_write(f->child, TEST_HUGE, 0, 600, 1, 1);
    test_write(f->child, TEST_MEMFD, 0, 1000, 3, 1);
    arm(f);
    assert_harvest(f, &model, FALSE);
    for (guint b = 0; b < TEST_BLOCKS; b++)
        write_pages(f, &model, TEST_READ, b, 0, test_n_pages[b], 1);
    assert_harvest(f, &model, FALSE);
    /* The first and the last page of each block, by both ways. */
    for (guint b = 0; b < TEST_BLOCKS; b++) {
        write_pages(f, &model, TEST_WRITE, b, 0, 1, 1);
        write_pages(f, &model, TEST_KERNEL_WRITE, b, test_n_pages[b] - 1, 1, 1);
    }
    assert_harvest(f, &model, FALSE);
    assert_harvest(f, &model, FALSE);
    assert_harvest(f, &model, TRUE);
    assert_harvest(f, &model, TRUE);
    /* Armed again, nothing of before counts. */
    write_pages(f, &model, TEST_WRITE, TEST_MEMFD, 5, 10, 1);
    memset(model.dirty[TEST_MEMFD], 0, test_n_pages[TEST_MEMFD]);
    arm(f);
    assert_harvest(f, &model, FALSE);
    for (guint b = 0; b < TEST_BLOCKS; b++)
        g_assert_cmpuint(test_page(f->child->pid, f->child->control->hva[b], 0), ==, 1);
}

/* More regions than one scan returns; each of its own, and in one span. */
static void test_many_regions(Fixture *f, gconstpointer data)
{
    g_auto(Model) model = { 0 };
    model_init(&model);
    arm(f);
    for (guint64 step = 2; step <= 200; step += 66) {
        guint64 n = (test_n_pages[TEST_MEMFD] + step - 1) / step;
        write_pages(f, &model, TEST_WRITE, TEST_MEMFD, 0, n, step);
        assert_harvest(f, &model, FALSE);
        assert_harvest(f, &model, TRUE);
        assert_harvest(f, &model, FALSE);
    }
    for (guint b = 0; b < TEST_BLOCKS; b++)
        write_pages(f, &model, TEST_WRITE, b, 0, test_n_pages[b], 1);
    assert_harvest(f, &model, TRUE);
    write_pages(f, &model, TEST_WRITE, TEST_MEMFD, 4095, 3, 1);
    assert_harvest(f, &model, TRUE);
}

static void test_random(Fixture *f, gconstpointer data)
{
    g_auto(Model) model = { 0 };
    g_autoptr(GRand) rand = g_rand_new_with_seed(11);
    model_init(&model);
    arm(f);
    for (guint round = 0; round < ROUNDS; round++) {
        write_randomly(f, &model, rand);
        if (below(rand, 3) == 0)
            give_back_randomly(f, &model, rand);
        if (below(rand, 2))
            assert_harvest(f, &model, FALSE);
        if (below(rand, 3))
            assert_harvest(f, &model, TRUE);
    }
    assert_harvest(f, &model, TRUE);
    assert_harvest(f, &model, TRUE);
}

/* What is in the caller's set stays in it; the stopped harvest says the same and takes nothing. */
static void test_harvest_adds(Fixture *f, gconstpointer data)
{
    g_auto(Model) model = { 0 };
    g_autoptr(StasisDirty) set = stasis_dirty_new(f->ram);
    model_init(&model);
    arm(f);
    stasis_bitmap_set_range(set->blocks[TEST_HUGE], 500, 24);
    memset(model.dirty[TEST_HUGE] + 500, 1, 24);
    write_pages(f, &model, TEST_WRITE, TEST_HUGE, 520, 10, 1);
    test_freeze(f->child);
    g_assert_cmpint(f->tracker->ops->harvest_stopped(f->tracker, set), ==, 0);
    assert_is(set, &model);
    test_thaw(f->child);
    memset(model.dirty[TEST_HUGE] + 500, 0, 20);
    assert_harvest(f, &model, TRUE);
    assert_harvest(f, &model, FALSE);
}

/* ---- nothing lost ---- */

/* What a page looks like now, for each page taken: what pre-copy does. */
static void copy_taken(Fixture *f, const StasisDirty *taken, guint8 *mirror[TEST_BLOCKS])
{
    guint64 first, n;
    for (guint b = 0; b < TEST_BLOCKS; b++)
        for (guint64 at = 0; stasis_bitmap_next_run(taken->blocks[b], at, G_MAXUINT64, &first, &n);
             at = first + n) {
            gsize len = n * TEST_PAGE;
            guint8 *there = (guint8 *)f->child->control->hva[b] + first * TEST_PAGE;
            struct iovec local = { mirror[b] + first * TEST_PAGE, len }, remote = { there, len };
            g_assert_cmpint(process_vm_readv(f->child->pid, &local, 1, &remote, 1, 0), ==, len);
        }
}

static void assert_mirrored(Fixture *f, guint8 *mirror[TEST_BLOCKS])
{
    for (guint b = 0; b < TEST_BLOCKS; b++) {
        g_autofree guint8 *now = test_content(f->child, b);
        for (guint64 i = 0; i < test_n_pages[b]; i++)
            if (memcmp(now + i * TEST_PAGE, mirror[b] + i * TEST_PAGE, TEST_PAGE) != 0)
                g_error("block %s page %" G_GUINT64_FORMAT ": a write was lost", test_names[b], i);
    }
}

/* A page taken while it is written is marked again. Looked at after a few rounds each, because a
 * page that is lost gets marked again by its next write, which would hide it. */
static void test_none_lost(Fixture *f, gconstpointer data)
{
    g_autoptr(StasisDirty) fresh = stasis_dirty_new(f->ram);
    guint8 *mirror[TEST_BLOCKS];
    guint64 n_taken = 0, begin = stasis_now_us();
    arm(f);
    for (guint b = 0; b < TEST_BLOCKS; b++)
        mirror[b] = test_content(f->child, b);
    for (guint epoch = 0; epoch < 40 && stasis_now_us() - begin < 3500000; epoch++) {
        test_hammer_begin(f->child, epoch % 4 * 20);
        test_wait_writes(f->child, 30);
        for (guint round = 0; round < 5; round++) {
            if (round == 4)
                test_hammer_end(f->child);
            stasis_dirty_clear(fresh);
            harvest(f, fresh, TRUE);
            n_taken += stasis_dirty_count(fresh);
            copy_taken(f, fresh, mirror);
        }
        assert_mirrored(f, mirror);
    }
    g_test_message("%" G_GUINT64_FORMAT " writes, %" G_GUINT64_FORMAT " pages taken",
                   test_version(f->child), n_taken);
    g_assert_cmpuint(n_taken, >, 0);
    for (guint b = 0; b < TEST_BLOCKS; b++)
        g_free(mirror[b]);
}

static void test_dirty_sets(void)
{
    const guint64 hva[TEST_BLOCKS] = { 1 << 30, 2u << 30, 3u << 30 };
    g_autoptr(StasisRam) ram = test_ram_at(getpid(), hva, -1);
    g_autoptr(StasisDirty) a = stasis_dirty_new(ram);
    g_autoptr(StasisDirty) b = stasis_dirty_new(ram);
    g_autoptr(StasisDirty) c = stasis_dirty_new(ram);
    guint64 all = 0;
    for (guint i = 0; i < TEST_BLOCKS; i++)
        all += test_n_pages[i];
    stasis_dirty_set_all(a);
    g_assert_cmpuint(stasis_dirty_count(a), ==, all);
    stasis_bitmap_set_range(b->blocks[1], 10, 100);
    stasis_dirty_subtract(a, b);
    g_assert_cmpuint(stasis_dirty_count(a), ==, all - 100);
    stasis_dirty_intersect(c, a, b);
    g_assert_cmpuint(stasis_dirty_count(c), ==, 0);
    stasis_bitmap_set_range(a->blocks[1], 100, 1);
    stasis_dirty_intersect(c, a, b);
    g_assert_cmpuint(stasis_dirty_count(c), ==, 1);
    stasis_dirty_or(c, b);
    g_assert_cmpuint(stasis_dirty_count(c), ==, 100);
    stasis_dirty_clear(c);
    g_assert_cmpuint(stasis_dirty_count(c), ==, 0);
}

static void test_choose(void)
{
    g_autoptr(GError) error = NULL;
    g_assert_true(stasis_tracker_choose(NULL, NULL, FALSE, &error) == &stasis_tracker_uffd_async);
    g_assert_true(stasis_tracker_choose(NULL, "auto", TRUE, &error) == &stasis_tracker_uffd_sync);
    g_assert_true(stasis_tracker_choose(NULL, "uffd-sync", FALSE, &error) ==
                  &stasis_tracker_uffd_sync);
    g_assert_true(stasis_tracker_choose(NULL, "uffd-async", FALSE, &error) ==
                  &stasis_tracker_uffd_async);
    g_assert_no_error(error);
    g_assert_null(stasis_tracker_choose(NULL, "soft-dirty", FALSE, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(error->message, "soft-dirty"));
}

static void add(const char *name, void (*func)(Fixture *, gconstpointer))
{
    const StasisTrackerOps *const both[] = { &stasis_tracker_uffd_async,
                                             &stasis_tracker_uffd_sync };
    for (guint i = 0; i < G_N_ELEMENTS(both); i++) {
        g_autofree char *path = g_strdup_printf("/track/%s/%s", both[i]->name, name);
        g_test_add(path, Fixture, both[i], set_up, func, tear_down);
    }
}

static void say(const char *directory, const char *size, const char *what)
{
    g_autofree char *path = g_build_filename(directory, size, "shmem_enabled", NULL);
    g_autofree char *above = g_path_get_dirname(path);
    g_assert_cmpint(g_mkdir_with_parents(above, 0700), ==, 0);
    g_assert_true(g_file_set_contents(path, what, -1, NULL));
}

/* QEMU's tables are not trusted to keep what was in them where shared memory may be in huge pages:
 * of any size, each of which has a word of its own since Linux 6.11. */
static void test_huge_sizes(void)
{
    static const struct {
        const char *all, *one;
        gboolean may;
    } cases[] = {
        { "always within_size advise [never] deny force", NULL, FALSE },
        { "always within_size advise never [deny] force", NULL, FALSE },
        { "always within_size [advise] never deny force", NULL, TRUE },
        { "always within_size advise [never] deny force",
          "always inherit within_size advise [never]", FALSE },
        { "always within_size advise [never] deny force",
          "always [inherit] within_size advise never", FALSE },
        { "[always] within_size advise never deny force",
          "always [inherit] within_size advise never", TRUE },
        { "always within_size advise [never] deny force",
          "[always] inherit within_size advise never", TRUE },
        { "always within_size advise [never] deny force",
          "always inherit within_size [advise] never", TRUE },
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *directory = g_dir_make_tmp("huge.XXXXXX", NULL);
        say(directory, "", cases[i].all);
        say(directory, "hugepages-16kB", "always inherit within_size advise [never]");
        if (cases[i].one != NULL)
            say(directory, "hugepages-64kB", cases[i].one);
        g_assert_cmpint(stasis_kvm_log_may_be_huge(directory), ==, cases[i].may);
        stasis_remove_tree(directory);
    }
    g_assert_false(stasis_kvm_log_may_be_huge("/nowhere")); /* a kernel without them */
}

int main(int argc, char **argv)
{
    test_be_child(argc, argv);
    test_program = g_canonicalize_filename(argv[0], NULL);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/track/dirty-sets", test_dirty_sets);
    g_test_add_func("/track/choose", test_choose);
    g_test_add_func("/track/huge-sizes", test_huge_sizes);
    add("arm", test_arm);
    add("many-regions", test_many_regions);
    add("random", test_random);
    add("harvest-adds", test_harvest_adds);
    add("none-lost", test_none_lost);
    return g_test_run();
}
