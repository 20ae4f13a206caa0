/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "copy/pipeline.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/io.h"

#define QUEUE_LEN 256u
#define NICENESS 10
/* Compression has to save this much (in eighths) to be worth undoing later. */
#define WORTH_EIGHTHS 7u

struct _StasisPipeline {
    const StasisRam *ram;
    StasisImageWriter *writer;
    const StasisCodecOps *codec; /* NULL: store raw */
    GThread **threads;
    guint n_threads;
    void (*give_way)(gpointer data);
    gpointer give_way_data;

    GMutex mutex; /* guards all below but n_bytes */
    GCond not_empty, not_full, idle;
    StasisPageRun queue[QUEUE_LEN]; /* a ring */
    guint head, len;
    GQueue now; /* of StasisPageRun, taken first */
    guint n_busy;
    gboolean quit;
    GError *error;
    guint64 n_bytes; /* atomic */
};

/* A page is zero when its first bytes are and it equals itself moved on by them. */
static gboolean page_is_zero(const guint8 *page)
{
    static const guint8 zeros[64];
    return memcmp(page, zeros, sizeof(zeros)) == 0 &&
           memcmp(page, page + sizeof(zeros), STASIS_PAGE_BYTES - sizeof(zeros)) == 0;
}

/* Pages at @data, up to @n, that are alike in being zero or not. */
static guint64 same_kind(const guint8 *data, guint64 n, gboolean *ret_zero)
{
    gboolean zero = page_is_zero(data);
    guint64 run = 1;
    while (run < n && page_is_zero(data + run * STASIS_PAGE_BYTES) == zero)
        run++;
    *ret_zero = zero;
    return run;
}

static gboolean store_data(StasisPipeline *pipeline, guint block, guint64 first, guint64 n,
                           const guint8 *data, guint8 *scratch, GError **error)
{
    size_t len = n * STASIS_PAGE_BYTES;
    size_t cap = len / 8 * WORTH_EIGHTHS;
    size_t stored =
        pipeline->codec != NULL ? pipeline->codec->compress(scratch, cap, data, len) : 0;
    if (stored == 0)
        return stasis_image_writer_add_extent(pipeline->writer, block, first, n, STASIS_STORED_RAW,
                                              data, len, error);
    return stasis_image_writer_add_extent(pipeline->writer, block, first, n, pipeline->codec->id,
                                          scratch, stored, error);
}

/* The same of a disk. */
static gboolean read_source(const StasisPageSource *source, guint64 first, guint64 n,
                            guint8 *buffer, GError **error)
{
    guint64 offset = first * STASIS_PAGE_BYTES, want = n * STASIS_PAGE_BYTES;
    guint64 len = MIN(want, source->size_bytes - offset);
    memset(buffer + len, 0, want - len);
    return source->read(source->data, offset, buffer, len, error);
}

/* One extent's worth: zero runs and data runs. */
static gboolean store_extent(StasisPipeline *pipeline, guint block, guint64 first, guint64 n,
                             const guint8 *data, guint8 *scratch, GError **error)
{
    for (guint64 done = 0; done < n;) {
        gboolean zero;
        const guint8 *at = data + done * STASIS_PAGE_BYTES;
        guint64 run = same_kind(at, n - done, &zero);
        gboolean ok = zero ? stasis_image_writer_add_extent(pipeline->writer, block, first + done,
                                                            run, STASIS_STORED_ZERO, NULL, 0, error)
                           : store_data(pipeline, block, first + done, run, at, scratch, error);
        if (!ok)
            return FALSE;
        done += run;
    }
    return TRUE;
}

/* Read @n pages of the running guest; the last page of a block of odd size is filled up. */
static gboolean read_pages(StasisPipeline *pipeline, guint block, guint64 first, guint64 n,
                           guint8 *buffer, GError **error)
{
    const StasisRamBlock *ram_block = g_ptr_array_index(pipeline->ram->blocks, block);
    guint64 offset = first * STASIS_PAGE_BYTES, want = n * STASIS_PAGE_BYTES;
    guint64 len = MIN(want, ram_block->size_bytes - offset);
    memset(buffer + len, 0, want - len);
    int r = stasis_ram_read(pipeline->ram, ram_block, offset, buffer, len);
    return r == 0 || stasis_set_errno(error, -r, "read RAM block %s at %#" G_GINT64_MODIFIER "x",
                                      ram_block->name, offset);
}

static gboolean process(StasisPipeline *pipeline, const StasisPageRun *run, guint8 *buffer,
                        guint8 *scratch, GError **error)
{
    for (guint64 done = 0, n; done < run->n_pages; done += n) {
        /* Extents begin at multiples of their size, so that a later one covers an earlier one
         * whole. */
        guint64 first = run->first_page + done;
        n = MIN(run->n_pages - done, STASIS_EXTENT_PAGES - first % STASIS_EXTENT_PAGES);
        const guint8 *data = buffer;
        if (pipeline->give_way != NULL)
            pipeline->give_way(pipeline->give_way_data);
        if (run->data != NULL)
            data = run->data + done * STASIS_PAGE_BYTES;
        else if (run->source != NULL ? !read_source(run->source, first, n, buffer, error)
                                     : !read_pages(pipeline, run->block, first, n, buffer, error))
            return FALSE;
        if (!store_extent(pipeline, run->block, first, n, data, scratch, error))
            return FALSE;
    }
    __atomic_fetch_add(&pipeline->n_bytes, run->n_pages * STASIS_PAGE_BYTES, __ATOMIC_RELAXED);
    return TRUE;
}

static gboolean is_empty(StasisPipeline *pipeline)
{
    return pipeline->len == 0 && g_queue_is_empty(&pipeline->now);
}

/* Take the next run; FALSE when there will be none. */
static gboolean take(StasisPipeline *pipeline, StasisPageRun *ret_run, gboolean *ret_failed)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&pipeline->mutex);
    while (is_empty(pipeline) && !pipeline->quit)
        g_cond_wait(&pipeline->not_empty, &pipeline->mutex);
    if (is_empty(pipeline))
        return FALSE;
    g_autofree StasisPageRun *now = g_queue_pop_head(&pipeline->now);
    if (now != NULL) {
        *ret_run = *now;
    } else {
        *ret_run = pipeline->queue[pipeline->head];
        pipeline->head = (pipeline->head + 1) % QUEUE_LEN;
        pipeline->len--;
        g_cond_signal(&pipeline->not_full);
    }
    *ret_failed = pipeline->error != NULL;
    pipeline->n_busy++;
    return TRUE;
}

static void give_result(StasisPipeline *pipeline, GError *error)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&pipeline->mutex);
    if (pipeline->error == NULL)
        pipeline->error = error;
    else
        g_clear_error(&error);
    if (--pipeline->n_busy == 0 && is_empty(pipeline))
        g_cond_broadcast(&pipeline->idle);
}

static gpointer worker(gpointer data)
{
    StasisPipeline *pipeline = data;
    /* The guest's own work goes first. */
    setpriority(PRIO_PROCESS, (id_t)gettid(), NICENESS);
    g_autofree guint8 *buffer = g_malloc(STASIS_EXTENT_BYTES);
    g_autofree guint8 *scratch = g_malloc(STASIS_EXTENT_BYTES);
    StasisPageRun run;
    for (gboolean failed; take(pipeline, &run, &failed);) {
        GError *error = NULL;
        if (!failed)
            process(pipeline, &run, buffer, scratch, &error);
        if (run.done != NULL)
            run.done(run.owner);
        give_result(pipeline, error);
    }
    return NULL;
}

void stasis_pipeline_set_give_way(StasisPipeline *pipeline, void (*step)(gpointer data),
                                  gpointer data)
{
    pipeline->give_way = step;
    pipeline->give_way_data = data;
}

StasisPipeline *stasis_pipeline_new(const StasisRam *ram, StasisImageWriter *writer,
                                    StasisCodec codec, guint n_threads)
{
    StasisPipeline *pipeline = g_new0(StasisPipeline, 1);
    pipeline->ram = ram;
    pipeline->writer = writer;
    pipeline->codec = stasis_codec_compressing(codec);
    g_mutex_init(&pipeline->mutex);
    g_cond_init(&pipeline->not_empty);
    g_cond_init(&pipeline->not_full);
    g_cond_init(&pipeline->idle);
    pipeline->n_threads = MAX(n_threads, 1);
    pipeline->threads = g_new0(GThread *, pipeline->n_threads);
    for (guint i = 0; i < pipeline->n_threads; i++)
        pipeline->threads[i] = g_thread_new("stasis-pages", worker, pipeline);
    return pipeline;
}

void stasis_pipeline_push(StasisPipeline *pipeline, const StasisPageRun *run)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&pipeline->mutex);
    while (pipeline->len == QUEUE_LEN)
        g_cond_wait(&pipeline->not_full, &pipeline->mutex);
    pipeline->queue[(pipeline->head + pipeline->len++) % QUEUE_LEN] = *run;
    g_cond_signal(&pipeline->not_empty);
}

void stasis_pipeline_push_now(StasisPipeline *pipeline, const StasisPageRun *run)
{
    StasisPageRun *copy = g_memdup2(run, sizeof(*run));
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&pipeline->mutex);
    g_queue_push_tail(&pipeline->now, copy);
    g_cond_signal(&pipeline->not_empty);
}

gboolean stasis_pipeline_push_zero(StasisPipeline *pipeline, guint block, guint64 first_page,
                                   guint64 n_pages, GError **error)
{
    return stasis_image_writer_add_extent(pipeline->writer, block, first_page, n_pages,
                                          STASIS_STORED_ZERO, NULL, 0, error);
}

gboolean stasis_pipeline_drain(StasisPipeline *pipeline, GError **error)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&pipeline->mutex);
    while (!is_empty(pipeline) || pipeline->n_busy > 0)
        g_cond_wait(&pipeline->idle, &pipeline->mutex);
    if (pipeline->error == NULL)
        return TRUE;
    g_propagate_error(error, g_error_copy(pipeline->error));
    return FALSE;
}

gboolean stasis_pipeline_has_failed(StasisPipeline *pipeline)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&pipeline->mutex);
    return pipeline->error != NULL;
}

guint64 stasis_pipeline_get_bytes(StasisPipeline *pipeline)
{
    return __atomic_load_n(&pipeline->n_bytes, __ATOMIC_RELAXED);
}

void stasis_pipeline_free(StasisPipeline *pipeline)
{
    if (pipeline == NULL)
        return;
    stasis_pipeline_drain(pipeline, NULL);
    g_mutex_lock(&pipeline->mutex);
    pipeline->quit = TRUE;
    g_cond_broadcast(&pipeline->not_empty);
    g_mutex_unlock(&pipeline->mutex);
    for (guint i = 0; i < pipeline->n_threads; i++)
        g_thread_join(pipeline->threads[i]);
    g_clear_error(&pipeline->error);
    g_mutex_clear(&pipeline->mutex);
    g_cond_clear(&pipeline->not_empty);
    g_cond_clear(&pipeline->not_full);
    g_cond_clear(&pipeline->idle);
    g_free(pipeline->threads);
    g_free(pipeline);
}
