/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each chunk goes from PENDING over CLAIMED to DONE once; whoever claims it copies it:
 *
 *      PENDING ──claim──> CLAIMED ──pages are in a slot──> DONE ──release──> (guest may write)
 *
 * A writer whose chunk is claimed by the other thread waits for that copy, microseconds. Slots are
 * shared by the runs of one chunk and go back to the pool when the last run is in the image.
 */
#include "copy/protected.h"

#include <sched.h>
#include <stasis/error.h>
#include <string.h>

#include "base/io.h"
#include "track/uffd-ram.h"

enum { PENDING, CLAIMED, DONE };

/* Of the copying thread's own: enough to keep the pipeline busy. */
#define MAX_BULK_BYTES (32u << 20)

typedef struct {
    StasisProtected *owner;
    gint refs;
    gboolean bulk; /* the copying thread's */
    guint8 data[] __attribute__((aligned(64)));
} Slot;

struct _StasisProtected {
    const StasisRam *ram;
    StasisTracker *tracker;
    StasisPipeline *pipeline;
    const StasisDirty *pages; /* the caller's */
    guint64 *chunk_pages;     /* for each block */
    guint8 **states;          /* for each block, for each chunk; atomic */
    guint64 slot_bytes, max_bytes;

    GMutex mutex; /* guards what follows; held for a few instructions only */
    GCond slot_free;
    GPtrArray *free_slots;
    guint64 used_bytes, bulk_bytes;
    gboolean overflow;
    int read_errno;
};

StasisProtected *stasis_protected_new(const StasisRam *ram, StasisTracker *tracker,
                                      StasisPipeline *pipeline, guint64 max_buffer_bytes)
{
    StasisProtected *protect = g_new0(StasisProtected, 1);
    protect->ram = ram;
    protect->tracker = tracker;
    protect->pipeline = pipeline;
    protect->chunk_pages = g_new0(guint64, ram->blocks->len);
    protect->states = g_new0(guint8 *, ram->blocks->len);
    for (guint i = 0; i < ram->blocks->len; i++) {
        const StasisRamBlock *block = stasis_ram_block(ram, i);
        guint64 n = MAX(STASIS_EXTENT_PAGES, block->page_bytes / STASIS_PAGE_BYTES);
        protect->chunk_pages[i] = n;
        protect->states[i] = g_malloc0((stasis_ram_block_pages(block) + n - 1) / n + 1);
        protect->slot_bytes = MAX(protect->slot_bytes, n * STASIS_PAGE_BYTES);
    }
    protect->max_bytes = MAX(max_buffer_bytes, 4 * protect->slot_bytes);
    g_mutex_init(&protect->mutex);
    g_cond_init(&protect->slot_free);
    protect->free_slots = g_ptr_array_new_with_free_func(g_free);
    return protect;
}

void stasis_protected_free(StasisProtected *protect)
{
    if (protect == NULL)
        return;
    for (guint i = 0; i < protect->ram->blocks->len; i++)
        g_free(protect->states[i]);
    g_free(protect->states);
    g_free(protect->chunk_pages);
    g_ptr_array_unref(protect->free_slots);
    g_mutex_clear(&protect->mutex);
    g_cond_clear(&protect->slot_free);
    g_free(protect);
}

/* ---- slots ---- */

/* For the fault thread: at once or not at all. */
static Slot *get_slot_now(StasisProtected *protect)
{
    if (protect->used_bytes + protect->slot_bytes > protect->max_bytes) {
        protect->overflow = TRUE;
        return NULL;
    }
    Slot *slot = NULL;
    if (protect->free_slots->len > 0)
        slot = g_ptr_array_steal_index_fast(protect->free_slots, protect->free_slots->len - 1);
    else
        slot = g_try_malloc(sizeof(Slot) + protect->slot_bytes);
    if (slot == NULL) {
        protect->overflow = TRUE;
        return NULL;
    }
    protect->used_bytes += protect->slot_bytes;
    slot->owner = protect;
    slot->refs = 1;
    slot->bulk = FALSE;
    return slot;
}

/* For the copying thread: waits until the pipeline is done with enough of its earlier ones. */
static Slot *get_slot_bulk(StasisProtected *protect)
{
    guint64 limit = MIN(MAX_BULK_BYTES, protect->max_bytes / 2);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&protect->mutex);
    while (
        protect->bulk_bytes >= limit ||
        (protect->used_bytes > 0 && protect->used_bytes + protect->slot_bytes > protect->max_bytes))
        g_cond_wait(&protect->slot_free, &protect->mutex);
    Slot *slot = get_slot_now(protect);
    if (slot == NULL)
        return NULL;
    slot->bulk = TRUE;
    protect->bulk_bytes += protect->slot_bytes;
    return slot;
}

static void unref_slot(gpointer data)
{
    Slot *slot = data;
    StasisProtected *protect = slot->owner;
    if (!g_atomic_int_dec_and_test(&slot->refs))
        return;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&protect->mutex);
    protect->used_bytes -= protect->slot_bytes;
    if (slot->bulk)
        protect->bulk_bytes -= protect->slot_bytes;
    g_ptr_array_add(protect->free_slots, slot);
    g_cond_signal(&protect->slot_free);
}

/* ---- saving a chunk ---- */

typedef struct {
    guint block;
    guint64 first, end; /* pages of the chunk */
} Chunk;

static gboolean next_run(StasisProtected *protect, const Chunk *chunk, guint64 at,
                         guint64 *ret_first, guint64 *ret_n)
{
    if (at >= chunk->end || !stasis_bitmap_next_run(protect->pages->blocks[chunk->block], at,
                                                    chunk->end - at, ret_first, ret_n))
        return FALSE;
    if (*ret_first >= chunk->end)
        return FALSE;
    *ret_n = MIN(*ret_n, chunk->end - *ret_first);
    return TRUE;
}

static int read_chunk(StasisProtected *protect, const Chunk *chunk, Slot *slot)
{
    const StasisRamBlock *block = stasis_ram_block(protect->ram, chunk->block);
    guint64 first, n;
    for (guint64 at = chunk->first; next_run(protect, chunk, at, &first, &n); at = first + n) {
        guint8 *dst = slot->data + (first - chunk->first) * STASIS_PAGE_BYTES;
        guint64 offset = first * STASIS_PAGE_BYTES, want = n * STASIS_PAGE_BYTES;
        guint64 len = MIN(want, block->size_bytes - offset);
        memset(dst + len, 0, want - len);
        int r = stasis_ram_read(protect->ram, block, offset, dst, len);
        if (r < 0)
            return r;
    }
    return 0;
}

static void release_chunk(StasisProtected *protect, const Chunk *chunk)
{
    guint64 first, n;
    for (guint64 at = chunk->first; next_run(protect, chunk, at, &first, &n); at = first + n)
        protect->tracker->ops->release(protect->tracker, chunk->block, first, n);
}

/* Give the chunk's runs to the pipeline. The fault thread doesn't wait for room there: what it may
 * have under way is bounded by its slots. */
static void push_chunk(StasisProtected *protect, const Chunk *chunk, Slot *slot, gboolean may_wait)
{
    guint64 first, n;
    for (guint64 at = chunk->first; next_run(protect, chunk, at, &first, &n); at = first + n) {
        g_atomic_int_inc(&slot->refs);
        StasisPageRun run = {
            .block = chunk->block,
            .first_page = first,
            .n_pages = n,
            .data = slot->data + (first - chunk->first) * STASIS_PAGE_BYTES,
            .done = unref_slot,
            .owner = slot,
        };
        if (may_wait)
            stasis_pipeline_push(protect->pipeline, &run);
        else
            stasis_pipeline_push_now(protect->pipeline, &run);
    }
    unref_slot(slot);
}

/* Claim a chunk; FALSE when the other thread has it, which by then is done with it. */
static gboolean claim(guint8 *state)
{
    guint8 expected = PENDING;
    if (__atomic_compare_exchange_n(state, &expected, CLAIMED, FALSE, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
        return TRUE;
    while (__atomic_load_n(state, __ATOMIC_ACQUIRE) != DONE)
        sched_yield();
    return FALSE;
}

static Chunk chunk_at(StasisProtected *protect, guint block, guint64 page, guint8 **ret_state)
{
    guint64 n = protect->chunk_pages[block];
    guint64 first = page / n * n;
    *ret_state = &protect->states[block][page / n];
    return (Chunk){ block, first, MIN(first + n, protect->pages->blocks[block]->n_pages) };
}

/* Saved or lost (no slot), the guest goes on; a lost chunk fails the image. */
static void save_claimed(StasisProtected *protect, const Chunk *chunk, guint8 *state, Slot *slot,
                         gboolean may_wait)
{
    int r = slot != NULL ? read_chunk(protect, chunk, slot) : 0;
    if (r < 0)
        __atomic_store_n(&protect->read_errno, -r, __ATOMIC_RELAXED);
    /* Whoever finds the chunk done may take the image for whole once the pipeline is idle: what the
     * fault thread saved is in the pipeline by then. That never waits; our own push may. */
    if (slot != NULL && !may_wait)
        push_chunk(protect, chunk, slot, FALSE);
    __atomic_store_n(state, DONE, __ATOMIC_RELEASE);
    release_chunk(protect, chunk);
    if (slot != NULL && may_wait)
        push_chunk(protect, chunk, slot, TRUE);
}

gboolean stasis_protected_copy(StasisProtected *protect, guint block, guint64 page,
                               guint64 *ret_next)
{
    guint8 *state;
    Chunk chunk = chunk_at(protect, block, page, &state);
    *ret_next = chunk.end;
    if (__atomic_load_n(state, __ATOMIC_ACQUIRE) == DONE)
        return TRUE;
    /* The slot first: a writer may wait for a claim, so a claim waits for nothing. */
    Slot *slot = get_slot_bulk(protect);
    if (slot == NULL)
        return FALSE;
    if (claim(state))
        save_claimed(protect, &chunk, state, slot, TRUE);
    else
        unref_slot(slot);
    return TRUE;
}

static void before_write(guint block, guint64 page, gpointer user_data)
{
    StasisProtected *protect = user_data;
    if (!stasis_bitmap_test(protect->pages->blocks[block], page))
        return;
    guint8 *state;
    Chunk chunk = chunk_at(protect, block, page, &state);
    if (!claim(state))
        return;
    g_mutex_lock(&protect->mutex);
    Slot *slot = get_slot_now(protect);
    g_mutex_unlock(&protect->mutex);
    save_claimed(protect, &chunk, state, slot, FALSE);
}

void stasis_protected_begin(StasisProtected *protect, const StasisDirty *pages)
{
    protect->pages = pages;
    protect->tracker->ops->set_before_write(protect->tracker, before_write, protect);
}

gboolean stasis_protected_check(StasisProtected *protect, GError **error)
{
    int errnum = __atomic_load_n(&protect->read_errno, __ATOMIC_RELAXED);
    if (errnum != 0)
        return stasis_set_errno(error, errnum, "read protected guest memory");
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&protect->mutex);
    if (!protect->overflow)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_OUTRUN,
                "the guest writes faster than the store takes its pages: %" G_GUINT64_FORMAT
                " MiB of buffer are full; use --max-buffer or a faster store, or --mode live if "
                "this was cow",
                protect->max_bytes >> 20);
    return FALSE;
}

void stasis_protected_end(StasisProtected *protect)
{
    if (protect->tracker != NULL)
        protect->tracker->ops->set_before_write(protect->tracker, NULL, NULL);
    protect->tracker = NULL;
}
