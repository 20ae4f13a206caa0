/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Looking after a store: deleting images wherever they are in a chain, folding long chains, pruning
 * by a policy, checking everything, and telling what takes how much of the disk.
 *
 * All of it may run while checkpoints are taken and images restored: the writer lock is held for
 * the last step of each change only, and each change leaves every image with the content that it
 * had. Killed at any point, a change has happened or not, and what it was working on is removed by
 * the next writer.
 */
#pragma once

#include <stasis/store.h>

G_BEGIN_DECLS

/* ---- deleting ---- */

/* Delete images @ids (full IDs, NULL-terminated). Data that others need move to those first, so any
 * image may go. On failure all of them are there still, or the newest of them are gone. Several are
 * better deleted in one call than one by one: data move once. */
STASIS_API gboolean stasis_store_delete_images(StasisStore *store, const char *const *ids,
                                               StasisProgressFunc progress, gpointer user_data,
                                               GCancellable *cancellable, GError **error);

/* ---- folding ---- */

#define STASIS_DEFAULT_MAX_DEPTH 64u

typedef struct {
    gsize struct_size;
    const char *id;  /* fold the chain of this image only; NULL: all of the store's */
    guint max_depth; /* ancestors that an image may have, at least 1; 0: the default */
    StasisProgressFunc progress;
    gpointer progress_data;
} StasisFoldOptions;
#define STASIS_FOLD_OPTIONS_INIT                 \
    {                                            \
        .struct_size = sizeof(StasisFoldOptions) \
    }

typedef struct {
    guint n_folded;                  /* images that now name an older ancestor as their parent */
    guint n_compacted;               /* images that were rewritten without their dead bytes */
    guint depth_before, depth_after; /* of the deepest image looked at */
} StasisFoldResult;

/* Where an image has more ancestors than it may, let an image on the way hold what lies between it
 * and the chain's full image, which becomes its parent. Stored pages are shared, not copied. Files
 * that are dead for more than a half and that no other image uses are rewritten. Damaged images are
 * left as they are; the first error is returned when all others are done. */
STASIS_API gboolean stasis_store_fold(StasisStore *store, const StasisFoldOptions *options,
                                      StasisFoldResult *ret_result, GCancellable *cancellable,
                                      GError **error);

/* How many images one has to read to read @id, besides itself. */
STASIS_API gboolean stasis_store_get_depth(StasisStore *store, const char *id, guint *ret_depth,
                                           GError **error);

/* ---- pruning ---- */

/* Which images of each VM to keep: the newest @keep_last; the newest of each of the last
 * @keep_hourly hours in which there are any, and so on; and all that are younger than
 * @keep_within_us, counted back from the VM's newest. Hours, days, weeks are of local time. */
typedef struct {
    gsize struct_size;
    const char *vm; /* look at this VM's images only; NULL: at each VM's by itself */
    guint keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly;
    guint64 keep_within_us;
    gboolean dry_run;
    gboolean allow_remove_all; /* else a policy that keeps nothing of a VM is refused */
    StasisProgressFunc progress;
    gpointer progress_data;
    const char *note; /* look only at images with just this note; NULL: at all */
    /* What the images looked at may take on the disk together; 0: no limit. The oldest go until
     * they do, but for each VM's newest. Without any @keep_… all stay for which there is room. */
    guint64 quota_bytes;
    gboolean keep_newest; /* of each VM, whatever the policy says */
    gboolean by_policy;   /* look only at images that policies have made */
} StasisPruneOptions;
#define STASIS_PRUNE_OPTIONS_INIT                 \
    {                                             \
        .struct_size = sizeof(StasisPruneOptions) \
    }

typedef struct {
    StasisImageInfo *info;
    char *reasons;       /* "last, daily", or NULL: it goes */
    gboolean over_quota; /* it goes since there is no room for it */
    gboolean newest;     /* of its VM's, as far as they were looked at */
} StasisPruneImage;

typedef struct {
    GPtrArray *images; /* of StasisPruneImage, oldest first */
    guint n_kept, n_removed;
    gint64 freed_bytes; /* on the disk; an estimate */
} StasisPruneResult;

STASIS_API StasisPruneResult *stasis_store_prune(StasisStore *store,
                                                 const StasisPruneOptions *options,
                                                 GCancellable *cancellable, GError **error);
STASIS_API void stasis_prune_result_free(StasisPruneResult *result);

/* ---- checking ---- */

typedef struct {
    gsize struct_size;
    gboolean read_data; /* every part and extent too, not only manifests, indexes and sizes */
    StasisProgressFunc progress;
    gpointer progress_data;
} StasisCheckOptions;
#define STASIS_CHECK_OPTIONS_INIT                 \
    {                                             \
        .struct_size = sizeof(StasisCheckOptions) \
    }

typedef struct {
    char *id;
    char *damage;      /* what is wrong with the image's own files, or NULL */
    char *affected_by; /* ID of the nearest damaged ancestor, or NULL */
} StasisCheckedImage;  /* whole if both are NULL */

typedef struct {
    char *path; /* below the store's directory */
    char *what;
    guint64 bytes;
} StasisLeftover;

typedef struct {
    GPtrArray *images;    /* of StasisCheckedImage, oldest first */
    GPtrArray *leftovers; /* of StasisLeftover: no damage, and not in the way */
    guint n_damaged;      /* images with damage of their own */
    guint n_affected;     /* whole images that need a damaged one */
} StasisCheckReport;

/* Look at every image of the store, on past the first damage. An error is only what kept the check
 * from being done; damage is in the report. */
STASIS_API StasisCheckReport *stasis_store_check(StasisStore *store,
                                                 const StasisCheckOptions *options,
                                                 GCancellable *cancellable, GError **error);
STASIS_API void stasis_check_report_free(StasisCheckReport *report);

/* ---- statistics ---- */

typedef struct {
    char *id, *parent, *vm;
    guint depth;          /* ancestors */
    guint n_data_files;   /* files of stored pages */
    guint64 disk_bytes;   /* what its files take on the disk */
    guint64 shared_bytes; /* of that, in files that other images have too */
    gint64 alone_bytes;   /* what deleting it alone would free */
    gboolean alone_known; /* FALSE: an image that is needed to tell is damaged */
    guint64 data_pages, zero_pages;
    guint64 live_bytes; /* what the stored data pages take, compressed */
    guint64 dead_bytes; /* beside them, in its files: superseded, not yet given back */
} StasisImageStats;

typedef struct {
    char *vm; /* NULL: all of the store */
    guint n_images, max_depth;
    guint64 disk_bytes; /* each file once, however many images share it */
    guint64 data_pages, zero_pages, live_bytes, dead_bytes; /* sums over the images */
} StasisStatsSum;

typedef struct {
    GPtrArray *images; /* of StasisImageStats, oldest first; damaged ones are left out */
    GPtrArray *vms;    /* of StasisStatsSum, by name */
    StasisStatsSum *total;
    guint n_damaged;
    guint64 leftover_bytes; /* in tmp/ */
} StasisStoreStats;

STASIS_API StasisStoreStats *stasis_store_get_stats(StasisStore *store, GCancellable *cancellable,
                                                    GError **error);
STASIS_API void stasis_store_stats_free(StasisStoreStats *stats);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisPruneResult, stasis_prune_result_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisCheckReport, stasis_check_report_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisStoreStats, stasis_store_stats_free)

G_END_DECLS
