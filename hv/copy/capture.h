/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Capturing pages while the VM is stopped, into memory that is there and touched beforehand. Pages
 * of which it is known before the stop that they will be wanted are copied by several threads at
 * once, from the first moment on; what else turns up is added behind. All of it goes to the
 * pipeline after the VM runs again.
 */
#pragma once

#include "copy/pipeline.h"
#include "track/tracker.h"

G_BEGIN_DECLS

typedef struct _StasisCapture StasisCapture;

/* Get ready, with the VM running: room for the pages of @known (copied) and @extra_pages more, all
 * of it touched, and threads that wait. @present: all known pages are there in the guest, so that
 * looking at them does not make them. STASIS_ERROR_FAILED when the memory can't be had. */
StasisCapture *stasis_capture_new(const StasisRam *ram, const StasisDirty *known, gboolean present,
                                  guint64 extra_pages, GCancellable *cancellable, GError **error);
/* Waits for the threads. */
void stasis_capture_free(StasisCapture *capture);

/* In the stop, allocating nothing: the threads begin with the known pages. */
void stasis_capture_start(StasisCapture *capture);
/* Help them to the end, then copy the pages of @dirty that were not known. 0; −ENOBUFS when there
 * is no room (the pages left are those still set in @dirty); −ETIME when @deadline_us (0: none)
 * passes; another −errno. */
int stasis_capture_finish(StasisCapture *capture, StasisDirty *dirty, guint64 deadline_us);

/* Mark all that was captured, or was to be, in @dirty again. */
void stasis_capture_give_back(const StasisCapture *capture, StasisDirty *dirty);

/* Put all that was captured into the image, and wait for it. */
gboolean stasis_capture_push(StasisCapture *capture, StasisPipeline *pipeline,
                             GCancellable *cancellable, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisCapture, stasis_capture_free)

G_END_DECLS
