/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Capturing pages while the VM is stopped: memory that is there and touched beforehand, filled from
 * the front. Captured runs go to the pipeline after the VM runs again.
 */
#pragma once

#include "copy/pipeline.h"
#include "track/tracker.h"

G_BEGIN_DECLS

typedef struct _StasisCapture StasisCapture;

/* Room for @max_pages pages, all of it touched. STASIS_ERROR_FAILED when the memory can't be had.
 */
StasisCapture *stasis_capture_new(const StasisRam *ram, guint64 max_pages,
                                  GCancellable *cancellable, GError **error);
void stasis_capture_free(StasisCapture *capture);

/* Copy the pages of @dirty; those captured are cleared in it. Allocates nothing. 0; −ENOBUFS when
 * the room ends; −ETIME when @deadline_us (0: none) passes; another −errno. */
int stasis_capture_pages(StasisCapture *capture, StasisDirty *dirty, guint64 deadline_us);

/* Mark all that was captured in @dirty again. */
void stasis_capture_give_back(const StasisCapture *capture, StasisDirty *dirty);

/* Put all that was captured into the image, and wait for it. */
gboolean stasis_capture_push(StasisCapture *capture, StasisPipeline *pipeline,
                             GCancellable *cancellable, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisCapture, stasis_capture_free)

G_END_DECLS
