/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Captured pages: copies of guest pages in our memory, which is there and touched beforehand. A
 * page has one place, however often it is taken, so that the last copy of each is what remains. All
 * of it goes to the pipeline when the VM runs again.
 *
 * Several threads copy at once. Nothing here allocates between new() and push().
 */
#pragma once

#include "copy/pipeline.h"
#include "track/tracker.h"

G_BEGIN_DECLS

typedef struct _StasisCapture StasisCapture;

#define STASIS_CAPTURE_MAX_MAPS 8

/* A part of a file, as we have it mapped; address NULL: a free entry. */
typedef struct {
    guint64 dev, inode, offset;
    gsize bytes;
    guint8 *address;
    StasisBitmap
        *present; /* pages that were made present; the kernel may have dropped some since */
} StasisCaptureMap;

/* Memory that was made ready for an earlier capture, and mappings of guest RAM, for the next one.
 * Zero-initialized. */
typedef struct {
    guint8 *memory;
    gsize bytes;
    StasisCaptureMap maps[STASIS_CAPTURE_MAX_MAPS];
} StasisCapturePool;
void stasis_capture_pool_clear(StasisCapturePool *pool);

/* Get ready, with the VM running: a place for each page of @expected (copied) and for @extra_pages
 * more, all of it touched, and threads that wait. @present: all expected pages are there in the
 * guest, so that looking at them does not make them. STASIS_ERROR_FAILED when the memory can't be
 * had. @pool (may be NULL) gives memory, and gets it back in the end. */
StasisCapture *stasis_capture_new(const StasisRam *ram, const StasisDirty *expected,
                                  gboolean present, guint64 extra_pages, StasisCapturePool *pool,
                                  GCancellable *cancellable, GError **error);
/* Waits for the threads. */
void stasis_capture_free(StasisCapture *capture);

/* The threads begin to take the expected pages; the next take waits for them. */
void stasis_capture_start(StasisCapture *capture);
/* Copy the pages of @dirty as they are now and clear them there; any number of times. In one thread
 * while the VM runs: more would take its CPUs away. 0; −ENOBUFS
 * when there is no place for some (they are still set in @dirty); −ETIME when @deadline_us (0:
 * none) passes; another −errno. After a failure all of it has to be given back. *@ret_n_pages (may
 * be NULL) is the number that were cleared, so that nobody has to count them in the stop. */
int stasis_capture_take_running(StasisCapture *capture, StasisDirty *dirty);
int stasis_capture_take_stopped(StasisCapture *capture, StasisDirty *dirty, guint64 deadline_us,
                                guint64 *ret_n_pages);

/* The pages of @pages will not be put into the image from here. The VM runs. */
void stasis_capture_drop(StasisCapture *capture, const StasisDirty *pages);
guint64 stasis_capture_get_bytes(const StasisCapture *capture);

/* Mark all that was taken, or was to be, in @dirty again. */
void stasis_capture_give_back(const StasisCapture *capture, StasisDirty *dirty);

/* Put all that was taken into the image, and wait for it. */
gboolean stasis_capture_push(StasisCapture *capture, StasisPipeline *pipeline,
                             GCancellable *cancellable, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisCapture, stasis_capture_free)

G_END_DECLS
