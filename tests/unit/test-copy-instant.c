/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: an image is the memory of one instant, in each mode and with each tracker, while RAM is
 * written all the time; a writer waits microseconds, and never for good. */
#include <stasis/error.h>

#include "copy/copy.h"

#include "test-copy-ram.h"
#include "test-track-child.h"

typedef struct {
    StasisMode mode;
    const StasisTrackerOps *tracker; /* or NULL */
    gboolean chain;                  /* images after the first are incremental */
    gboolean protect;                /* $STASIS_RESIDUAL */
} Way;

/* Like the engine: before(), approach(), stop, during(), go on, after(), commit. */
typedef struct {
    const Way *way;
    TestChild *child;
    StasisStore *store;
    char *path;
    StasisRam *ram;
    StasisTracker *tracker;
    char *parent;
    guint8 *instant[TEST_BLOCKS];
    gint64 memfd_blocks; /* that the memfd had after during() */
    guint64 n_protected; /* pages, in all of its checkpoints */
} Job;

static void job_init(Job *job, const Way *way, guint64 pause_us)
{
    *job = (Job){ .way = way };
    job->store = test_make_store(&job->path);
    job->child = test_child_new();
    job->ram = test_ram(job->child);
    test_write(job->child, TEST_HUGE, 0, 700, 1, 1);
    test_write(job->child, TEST_MEMFD, 3000, 1500, 2, 1);
    test_hammer_begin(job->child, pause_us);
}

static void close_tracker(Job *job)
{
    if (job->tracker != NULL)
        job->tracker->ops->close(g_steal_pointer(&job->tracker), FALSE);
}

static void job_clear(Job *job)
{
    close_tracker(job);
    test_assert_clean(job->child);
    test_wait_writes(job->child, 1000);
    test_child_free(job->child);
    stasis_ram_free(job->ram);
    stasis_store_unref(job->store);
    test_remove_tree(job->path);
    g_free(job->path);
    g_free(job->parent);
}

static void approach(StasisCopy *copy, const StasisModeOps *mode)
{
    g_autoptr(GError) error = NULL;
    if (mode->approach != NULL)
        mode->approach(copy, &error);
    g_assert_no_error(error);
}

/* The stop. during() runs in it as in the engine; the reference is read by a way of its own. */
static int take(Job *job, StasisCopy *copy, const StasisModeOps *mode)
{
    test_freeze(job->child);
    int r = mode->during(copy);
    struct stat st;
    g_assert_cmpint(fstat(job->child->memfd, &st), ==, 0);
    job->memfd_blocks = st.st_blocks;
    for (guint b = 0; b < TEST_BLOCKS; b++)
        job->instant[b] = test_content(job->child, b);
    test_thaw(job->child);
    return r;
}

static void run_mode(Job *job, StasisCopy *copy, const StasisModeOps *mode)
{
    g_autoptr(GError) error = NULL;
    stasis_copy_begin(copy);
    mode->before(copy, &error);
    g_assert_no_error(error);
    approach(copy, mode);
    int r = take(job, copy, mode);
    for (guint i = 0; r == -ENOBUFS && mode->again != NULL && i < 20; i++) {
        for (guint b = 0; b < TEST_BLOCKS; b++)
            g_free(job->instant[b]);
        mode->again(copy, &error);
        g_assert_no_error(error);
        approach(copy, mode);
        r = take(job, copy, mode);
    }
    g_assert_cmpint(r, ==, 0);
    /* What follows meets a guest that writes on. */
    if (job->way->mode == STASIS_MODE_COW && job->child->control->hammering)
        test_wait_writes(job->child, 20);
    mode->after(copy, &error);
    g_assert_no_error(error);
    job->n_protected += copy->protected_pages;
    g_assert_true(stasis_copy_end(copy, FALSE));
}

static void checkpoint(Job *job)
{
    g_autoptr(GError) error = NULL;
    const StasisModeOps *mode = stasis_mode_ops(job->way->mode);
    gboolean incremental = job->way->chain && job->parent != NULL;
    if (job->tracker == NULL && job->way->tracker != NULL)
        job->tracker = job->way->tracker->open(job->ram, NULL, &error);
    g_assert_no_error(error);
    if (job->way->protect)
        g_setenv("STASIS_RESIDUAL", "protect", TRUE);
    else
        g_unsetenv("STASIS_RESIDUAL");
    StasisImageWriter *writer = copy_writer(job->store, incremental ? job->parent : NULL, job->ram);
    StasisCopy copy = {
        .ram = job->ram,
        .tracker = job->tracker,
        .pipeline = stasis_pipeline_new(job->ram, writer, STASIS_CODEC_LZ4, 2),
        .incremental = incremental,
        .max_buffer_bytes = 128u << 20,
    };
    run_mode(job, &copy, mode);
    stasis_pipeline_free(copy.pipeline);
    if (!job->way->chain)
        close_tracker(job);
    stasis_copy_clear(&copy);
    g_free(job->parent);
    job->parent = copy_commit(job->store, writer);
    stasis_image_writer_free(writer);
    for (guint b = 0; b < TEST_BLOCKS; b++) {
        copy_assert_block(job->store, job->parent, b, job->instant[b], test_n_pages[b], 0);
        g_free(job->instant[b]);
    }
}

/* At least @n, and until some of a residual was protected where that is to be shown: on a busy
 * machine the guest may not run in the moment that counts. */
static void checkpoints(Job *job, guint n)
{
    for (guint i = 0; i < n || (job->way->protect && job->n_protected == 0 && i < 100); i++)
        checkpoint(job);
    g_assert_true(!job->way->protect || job->n_protected > 0);
}

static void test_instant(gconstpointer data)
{
    Job job;
    job_init(&job, data, 300);
    checkpoints(&job, 3);
    job_clear(&job);
}

static void test_instant_full_speed(gconstpointer data)
{
    Job job;
    job_init(&job, data, 0);
    checkpoints(&job, 2);
    job_clear(&job);
}

/* Memory that the guest has never touched is not brought into being by copying it. */
static void test_holes(gconstpointer data)
{
    Job job;
    struct stat before;
    job_init(&job, data, 0);
    test_hammer_end(job.child);
    g_assert_cmpint(ftruncate(job.child->memfd, 0), ==, 0);
    g_assert_cmpint(
        ftruncate(job.child->memfd, (off_t)(test_n_pages[TEST_MEMFD] * STASIS_PAGE_BYTES)), ==, 0);
    test_write(job.child, TEST_MEMFD, 10, 100, 64, 1);
    g_assert_cmpint(fstat(job.child->memfd, &before), ==, 0);
    checkpoint(&job);
    g_assert_cmpint(job.memfd_blocks, ==, before.st_blocks);
    test_hammer_begin(job.child, 0);
    job_clear(&job);
}

/* ---- a checkpoint that fails ---- */

/* Nothing is lost for the next one: it is incremental to the last that was whole. */
static void test_failed(gconstpointer data)
{
    Job job;
    job_init(&job, data, 300);
    for (guint i = 0; i < 3; i++) {
        g_autoptr(GError) error = NULL;
        const StasisModeOps *mode = stasis_mode_ops(job.way->mode);
        checkpoint(&job);
        StasisImageWriter *writer = copy_writer(job.store, job.parent, job.ram);
        StasisCopy copy = {
            .ram = job.ram,
            .tracker = job.tracker,
            .pipeline = stasis_pipeline_new(job.ram, writer, STASIS_CODEC_NONE, 1),
            .incremental = TRUE,
            .max_buffer_bytes = 128u << 20,
        };
        stasis_copy_begin(&copy);
        g_assert_true(mode->before(&copy, &error));
        if (i % 2) {
            approach(&copy, mode);
            g_assert_cmpint(take(&job, &copy, mode), ==, 0);
            for (guint b = 0; b < TEST_BLOCKS; b++)
                g_free(job.instant[b]);
        }
        g_assert_true(stasis_copy_end(&copy, TRUE));
        stasis_pipeline_free(copy.pipeline);
        stasis_copy_clear(&copy);
        stasis_image_writer_free(writer);
    }
    checkpoint(&job);
    job_clear(&job);
}

/* ---- copy-on-write by hand ---- */

typedef struct {
    Job job;
    StasisImageWriter *writer;
    StasisPipeline *pipeline;
    StasisProtected *protect;
    StasisDirty *pages;
    gint held, leave;
} Cow;

static void hold_thread(gpointer owner)
{
    Cow *cow = owner;
    g_atomic_int_set(&cow->held, TRUE);
    while (!g_atomic_int_get(&cow->leave))
        g_usleep(100);
}

/* All of RAM is protected, and the pipeline's one thread is held up. */
static void cow_init(Cow *cow, const Way *way, guint64 max_buffer_bytes)
{
    g_autoptr(GError) error = NULL;
    cow->held = cow->leave = FALSE;
    job_init(&cow->job, way, 0);
    test_hammer_end(cow->job.child);
    StasisRam *ram = cow->job.ram;
    cow->job.tracker = stasis_tracker_uffd_sync.open(ram, NULL, &error);
    g_assert_no_error(error);
    cow->writer = copy_writer(cow->job.store, NULL, ram);
    cow->pipeline = stasis_pipeline_new(ram, cow->writer, STASIS_CODEC_LZ4, 1);
    cow->protect = stasis_protected_new(ram, cow->job.tracker, cow->pipeline, max_buffer_bytes);
    cow->pages = stasis_dirty_new(ram);
    stasis_dirty_set_all(cow->pages);
    g_assert_true(stasis_tracker_uffd_sync.arm(cow->job.tracker, &error));
    stasis_protected_begin(cow->protect, cow->pages);
    static const guint8 page[STASIS_PAGE_BYTES];
    for (guint b = 0; b < TEST_BLOCKS; b++)
        cow->job.instant[b] = test_content(cow->job.child, b);
    StasisPageRun run = {
        .block = 0, .first_page = 0, .n_pages = 1, .data = page, .done = hold_thread, .owner = cow
    };
    stasis_pipeline_push(cow->pipeline, &run);
    /* Its page is in the image before any that is saved from now on. */
    while (!g_atomic_int_get(&cow->held))
        g_usleep(100);
}

static void cow_clear(Cow *cow)
{
    stasis_protected_end(cow->protect);
    stasis_pipeline_free(cow->pipeline);
    close_tracker(&cow->job);
    stasis_protected_free(cow->protect);
    stasis_dirty_free(cow->pages);
    stasis_image_writer_free(cow->writer);
    for (guint b = 0; b < TEST_BLOCKS; b++)
        g_free(cow->job.instant[b]);
    test_hammer_begin(cow->job.child, 0);
    job_clear(&cow->job);
}

/* The store stands still and the buffer is full: the image fails with advice, the writer goes on.
 */
static void test_overflow(gconstpointer data)
{
    Cow cow;
    g_autoptr(GError) error = NULL;
    cow_init(&cow, data, 0);
    g_assert_true(stasis_protected_check(cow.protect, &error));
    test_write(cow.job.child, TEST_MEMFD, 0, 500, 16, 99);
    g_assert_cmpuint(
        test_page(cow.job.child->pid, cow.job.child->control->hva[TEST_MEMFD], 499 * 16), ==,
        99 + 499);
    g_assert_false(stasis_protected_check(cow.protect, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_OUTRUN);
    g_assert_nonnull(strstr(error->message, "--max-buffer"));
    g_assert_null(strchr(error->message, '\n'));
    g_atomic_int_set(&cow.leave, TRUE);
    cow_clear(&cow);
}

/* With room, everything is written before anything is copied in order: the image is as it was. */
static void test_all_written_first(gconstpointer data)
{
    Cow cow;
    g_autoptr(GError) error = NULL;
    cow_init(&cow, data, 256u << 20);
    for (guint b = 0; b < TEST_BLOCKS; b++)
        test_write(cow.job.child, b, 0, test_n_pages[b], 1, 5000000);
    g_atomic_int_set(&cow.leave, TRUE);
    guint64 next, first, n;
    for (guint b = 0; b < TEST_BLOCKS; b++)
        for (guint64 at = 0;
             stasis_bitmap_next_run(cow.pages->blocks[b], at, G_MAXUINT64, &first, &n); at = next)
            g_assert_true(stasis_protected_copy(cow.protect, b, first, &next));
    g_assert_true(stasis_pipeline_drain(cow.pipeline, &error));
    g_assert_true(stasis_protected_check(cow.protect, &error));
    g_autofree char *id = copy_commit(cow.job.store, cow.writer);
    for (guint b = 0; b < TEST_BLOCKS; b++)
        copy_assert_block(cow.job.store, id, b, cow.job.instant[b], test_n_pages[b], 0);
    cow_clear(&cow);
}

int main(int argc, char **argv)
{
    static const Way stop = { STASIS_MODE_STOP, NULL, FALSE };
    static const Way stop_chain = { STASIS_MODE_STOP, &stasis_tracker_uffd_async, TRUE };
    static const Way live = { STASIS_MODE_LIVE, &stasis_tracker_uffd_async, FALSE };
    static const Way live_chain = { STASIS_MODE_LIVE, &stasis_tracker_uffd_async, TRUE };
    static const Way protect = { STASIS_MODE_LIVE, &stasis_tracker_uffd_async, FALSE, TRUE };
    static const Way protect_chain = { STASIS_MODE_LIVE, &stasis_tracker_uffd_async, TRUE, TRUE };
    static const Way live_sync = { STASIS_MODE_LIVE, &stasis_tracker_uffd_sync, FALSE };
    static const Way cow = { STASIS_MODE_COW, &stasis_tracker_uffd_sync, FALSE };
    test_be_child(argc, argv);
    test_program = g_canonicalize_filename(argv[0], NULL);
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/copy/instant/stop", &stop, test_instant);
    g_test_add_data_func("/copy/instant/stop-chain", &stop_chain, test_instant);
    g_test_add_data_func("/copy/instant/live", &live, test_instant);
    g_test_add_data_func("/copy/instant/live-chain", &live_chain, test_instant);
    g_test_add_data_func("/copy/instant/live-protect", &protect, test_instant);
    g_test_add_data_func("/copy/instant/live-protect-chain", &protect_chain, test_instant);
    g_test_add_data_func("/copy/instant/live-sync", &live_sync, test_instant);
    g_test_add_data_func("/copy/instant/cow", &cow, test_instant);
    g_test_add_data_func("/copy/instant/full-speed/stop", &stop, test_instant_full_speed);
    g_test_add_data_func("/copy/instant/full-speed/live", &live_chain, test_instant_full_speed);
    g_test_add_data_func("/copy/instant/full-speed/live-protect", &protect_chain,
                         test_instant_full_speed);
    g_test_add_data_func("/copy/instant/full-speed/live-sync", &live_sync, test_instant_full_speed);
    g_test_add_data_func("/copy/instant/full-speed/cow", &cow, test_instant_full_speed);
    g_test_add_data_func("/copy/instant/failed/live", &live_chain, test_failed);
    g_test_add_data_func("/copy/instant/failed/live-protect", &protect_chain, test_failed);
    g_test_add_data_func("/copy/instant/failed/stop", &stop_chain, test_failed);
    g_test_add_data_func("/copy/instant/holes/live", &live, test_holes);
    g_test_add_data_func("/copy/instant/holes/stop", &stop, test_holes);
    g_test_add_data_func("/copy/protected/overflow", &cow, test_overflow);
    g_test_add_data_func("/copy/protected/all-written-first", &cow, test_all_written_first);
    return g_test_run();
}
