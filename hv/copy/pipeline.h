/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The page pipeline: pages go in, extents go to the image. A few threads each take a run of pages,
 * read it from the guest (unless it was captured before), find its zero pages, compress the rest
 * and hand it to the writer, which checksums and writes it. Nothing here runs while somebody waits.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/checkpoint.h>

#include "store/image.h"
#include "vmm/ram.h"

G_BEGIN_DECLS

typedef struct _StasisPipeline StasisPipeline;

/* Lets go of captured pages once they are in the image. Any thread. */
typedef void (*StasisPagesDone)(gpointer owner);

/* Where pages of a block that is no RAM come from: @len bytes at @offset, any thread. */
typedef struct {
    gboolean (*read)(gpointer data, guint64 offset, void *buf, gsize len, GError **error);
    gpointer data;
    guint64 size_bytes;
} StasisPageSource;

typedef struct {
    guint block;
    guint64 first_page, n_pages;
    const guint8 *data;             /* captured pages, or NULL: read them from @source … */
    const StasisPageSource *source; /* … or, if that is NULL, from the running guest's RAM */
    StasisPagesDone done;           /* called with owner when data is no longer needed, or NULL */
    gpointer owner;
} StasisPageRun;

StasisPipeline *stasis_pipeline_new(const StasisRam *ram, StasisImageWriter *writer,
                                    StasisCodec codec, guint n_threads);
/* Have @step called by each thread before each extent, to give way to somebody: it must be quick,
 * and safe in several threads at once. Before the first push. */
void stasis_pipeline_set_give_way(StasisPipeline *pipeline, void (*step)(gpointer data),
                                  gpointer data);
/* Queue @run; waits while the queue is full. After a failure runs are taken and dropped. */
void stasis_pipeline_push(StasisPipeline *pipeline, const StasisPageRun *run);
/* The same without ever waiting: for captured pages only, whose memory the caller bounds. */
void stasis_pipeline_push_now(StasisPipeline *pipeline, const StasisPageRun *run);
/* Pages known to be zero without reading them: straight into the image. */
gboolean stasis_pipeline_push_zero(StasisPipeline *pipeline, guint block, guint64 first_page,
                                   guint64 n_pages, GError **error);
/* Wait until all that was pushed is written. FALSE with the first error of any thread. */
gboolean stasis_pipeline_drain(StasisPipeline *pipeline, GError **error);
/* A thread has failed: there is no point in going on. */
gboolean stasis_pipeline_has_failed(StasisPipeline *pipeline);
/* Guest memory read or taken over so far. */
guint64 stasis_pipeline_get_bytes(StasisPipeline *pipeline);
void stasis_pipeline_free(StasisPipeline *pipeline);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisPipeline, stasis_pipeline_free)

G_END_DECLS
