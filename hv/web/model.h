/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What there is to be shown, in memory: all images of the store, looked at again only when its
 * directories have changed, and then only those read that are new; and what was counted over them
 * since we began. One thread.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/process-image.h>
#include <stasis/store.h>

#include "web/metrics.h"

G_BEGIN_DECLS

/* What has been seen of one VM's images, also of those that are gone by now: it only grows, as a
 * counter has to. Those that are there at the first look are not in it: a counter that begins anew
 * begins at 0, or they would count as new with each start. */
typedef struct {
    StasisHistogram stop;
    guint64 n_images, n_process_images, copied_bytes, missed_deadlines;
    gboolean deadlines_counted; /* of one image at least */
} StasisWebTotals;

typedef struct {
    const GPtrArray *images;    /* of StasisImageInfo, oldest first */
    const GPtrArray *processes; /* of StasisProcessImageInfo, oldest first */
    GHashTable *totals;         /* name of a VM → StasisWebTotals */
    guint64 version;            /* another one, other images */
    gboolean there;             /* the store is */
    char *problem; /* why it can't be read, or NULL; the images are then those of before */
} StasisWebSnapshot;

typedef struct _StasisWebModel StasisWebModel;

/* Of the store at @path, NULL: as stasis_store_open(). */
StasisWebModel *stasis_web_model_new(const char *path);
void stasis_web_model_free(StasisWebModel *model);
/* As the store is now. Borrowed until the next call. */
const StasisWebSnapshot *stasis_web_model_look(StasisWebModel *model);
/* The store, borrowed; NULL and @error when it is not there. */
StasisStore *stasis_web_model_store(StasisWebModel *model, GError **error);
const char *stasis_web_model_path(StasisWebModel *model);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisWebModel, stasis_web_model_free)

G_END_DECLS
