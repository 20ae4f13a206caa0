/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bundle in the making: what goes in (bundle-collect.c), in the order in which it lies in the
 * file, and how far it is written (bundle-write.c). More may be collected when some of it has been
 * written already.
 */
#pragma once

#include "engine/guards/bundle-internal.h"

G_BEGIN_DECLS

/* Where a member's content comes from: bytes, or a file of the store's that is opened when its turn
 * comes (a ring has more files than a process descriptors), below a directory that is held. */
typedef struct {
    StasisBundleMember *member; /* the info's */
    GBytes *bytes;
    int dir_fd; /* the work's */
    char *file;
    guint64 offset; /* of its head in the bundle */
    dev_t dev;
    ino_t ino;
} StasisBundleSource;

typedef struct {
    StasisStore *store;
    StasisBundleInfo *info;
    GPtrArray *sources;
    GArray *dir_fds;    /* one of each image */
    GHashTable *inodes; /* "dev:ino" → name of the first member that has it */
    GHashTable *images; /* IDs of those whose files are among the sources */
    int fd;             /* the file, the caller's */
    int direct_fd;      /* the same past the page cache, or -1; the caller's */
    guint64 room;       /* for bundle.json, which is padded to it; 0: as long as it is then */
    guint n_written;    /* sources */
    guint64 end;        /* behind what has its place */
    GCancellable *cancellable;
    GMutex mutex; /* guards what follows */
    GError *failed;
} StasisBundleWork;

void stasis_bundle_work_init(StasisBundleWork *work, StasisStore *store, int fd, int direct_fd);
void stasis_bundle_work_clear(StasisBundleWork *work);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(StasisBundleWork, stasis_bundle_work_clear)

/* Images @ids and all that they need. STASIS_ERROR_FAILED: one that was collected before is not
 * among them any more; begin anew. */
gboolean stasis_bundle_collect_images(StasisBundleWork *work, const char *const *ids,
                                      GError **error);
/* All else, and what is said of images @ids. */
gboolean stasis_bundle_collect_rest(StasisBundleWork *work, const char *const *ids,
                                    const StasisBundleOptions *options, GError **error);

/* What was collected since the last time. */
gboolean stasis_bundle_write(StasisBundleWork *work, GError **error);
/* bundle.json, when all is written. STASIS_ERROR_FAILED: it is longer than its room. */
gboolean stasis_bundle_write_json(StasisBundleWork *work, GError **error);

G_END_DECLS
