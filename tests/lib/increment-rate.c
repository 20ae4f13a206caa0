/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * increment-rate NAME RUNS — what an increment of VM NAME costs from the harvest up to pages in a
 * buffer, as a series does it (memory from the last one), beside a plain memcpy of as many pages of
 * the same guest, by turns. One line of JSON a run: pages, and microseconds.
 */
#include <stasis/stasis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "copy/capture.h"
#include "engine/vm/session.h"
#include "track/uffd-ram.h"

#define PAUSE_US 150000

static void die(const char *what, GError *error)
{
    fprintf(stderr, "increment-rate: %s: %s\n", what, error != NULL ? error->message : "");
    exit(1);
}

static const StasisRamBlock *largest(const StasisRam *ram)
{
    const StasisRamBlock *found = stasis_ram_block(ram, 0);
    for (guint i = 1; i < ram->blocks->len; i++)
        if (stasis_ram_block(ram, i)->size_bytes > found->size_bytes)
            found = stasis_ram_block(ram, i);
    return found;
}

/* As many pages of the guest as were dirty, from where nobody has looked lately. */
static guint64 plain_copy(const guint8 *from, guint8 *to, guint64 n_pages)
{
    guint64 t0 = stasis_now_us();
    for (guint64 i = 0; i < n_pages; i++)
        memcpy(to + i * 4096, from + i * 4096, 4096);
    __asm__ volatile("" ::: "memory");
    return stasis_now_us() - t0;
}

static guint8 *map(gsize bytes, int fd, off_t offset)
{
    void *p = fd < 0 ? mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)
                     : mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, offset);
    if (p == MAP_FAILED)
        die("map", NULL);
    return p;
}

static void run(const StasisRam *ram, StasisTracker *tracker, StasisCapturePool *pool,
                const guint8 *guest, gsize guest_bytes, guint8 *buffer)
{
    GError *error = NULL;
    g_autoptr(StasisDirty) dirty = stasis_dirty_new(ram);
    guint64 t0 = stasis_now_us();
    if (!tracker->ops->harvest(tracker, dirty, TRUE, &error))
        die("harvest", error);
    guint64 n_pages = stasis_dirty_count(dirty), t1 = stasis_now_us();
    g_autoptr(StasisCapture) capture =
        stasis_capture_new(ram, dirty, TRUE, n_pages / 2 + 2048, pool, NULL, &error);
    if (capture == NULL)
        die("capture", error);
    guint64 t2 = stasis_now_us();
    if (stasis_capture_take_running(capture, dirty) < 0)
        die("copy", NULL);
    guint64 t3 = stasis_now_us();
    guint64 plain_us = plain_copy(guest, buffer, MIN(n_pages, guest_bytes / 4096));
    printf("{\"pages\": %" G_GUINT64_FORMAT ", \"harvest_us\": %" G_GUINT64_FORMAT
           ", \"ready_us\": %" G_GUINT64_FORMAT ", \"copy_us\": %" G_GUINT64_FORMAT
           ", \"memcpy_us\": %" G_GUINT64_FORMAT "}\n",
           n_pages, t1 - t0, t2 - t1, t3 - t2, plain_us);
}

int main(int argc, char **argv)
{
    GError *error = NULL;
    if (argc != 3)
        die("usage: increment-rate NAME RUNS", NULL);
    g_autoptr(StasisSession) session = stasis_session_open(argv[1], STASIS_LOCK_WAIT_MS, &error);
    g_autoptr(StasisRam) ram =
        session != NULL ? stasis_ram_discover(session->qmp, session->record->pid, &error) : NULL;
    const StasisTrackerOps *ops =
        ram != NULL ? stasis_tracker_choose(ram, NULL, FALSE, &error) : NULL;
    StasisTracker *tracker = ops != NULL ? ops->open(ram, session->qmp, &error) : NULL;
    if (tracker == NULL || !ops->arm(tracker, &error))
        die(argv[1], error);
    const StasisRamBlock *block = largest(ram);
    gsize bytes = MIN(block->size_bytes, (gsize)256 << 20);
    guint8 *guest = map(bytes, block->fd, (off_t)(block->fd_offset + block->size_bytes - bytes));
    guint8 *buffer = map(bytes, -1, 0);
    StasisCapturePool pool = { 0 };
    for (long i = 0; i < strtol(argv[2], NULL, 10); i++) {
        g_usleep(PAUSE_US);
        run(ram, tracker, &pool, guest, bytes, buffer);
    }
    stasis_capture_pool_clear(&pool);
    ops->close(tracker, FALSE);
    return 0;
}
