/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Policies: how often a VM is checkpointed by itself, and which of those images stay; or what a
 * guard over it does; or at what happens to which of its processes there are images of them. One
 * small file each in the state directory ($STASIS_STATE_DIR, else /var/lib/stasisd for root, else
 * $XDG_STATE_HOME/stasis), which stasisd carries out. None is needed to carry one out once.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/maintenance.h>

G_BEGIN_DECLS

/* The note of each image that a policy has made; what a policy removes goes by StasisImageInfo's
 * by_policy alone. */
#define STASIS_POLICY_NOTE "policy"
/* … and of each image of processes that a policy's watch takes, where StasisProcessImageInfo's
 * by_policy counts. Programs before that mark went by the note. */
#define STASIS_POLICY_WATCH_NOTE "policy-watch"
#define STASIS_POLICY_MIN_EVERY_US ((guint64)G_TIME_SPAN_SECOND)

/* Texts are NULL, numbers 0, where nothing is said. */
typedef struct {
    gsize struct_size;
    char *vm;         /* name of the VM, or of the domain of @connect */
    char *connect;    /* libvirtd's URI */
    char *store;      /* directory; NULL: that of whoever carries it out */
    guint64 every_us; /* from one image to the next; of a guard, too, 0: as stasis/guard.h has it */
    guint keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly;
    guint64 keep_within_us;
    guint64 quota_bytes; /* that the policy's images of the VM, or of its processes, may take */
    guint64 max_pause_us;
    gboolean quiesce;
    char *disk;       /* "copy", "none" */
    char *guard;      /* words of stasis/watch.h, with commas: a guard instead of images */
    char *guard_also; /* more of them, on lines of their own, as a log= takes all of a line */
    char *guard_do;   /* of "capture", "rollback", "restart" some, with commas */
    guint guard_keep, guard_max_tries, guard_max_skips, guard_max_bundles; /* stasis/guard.h */
    /* The guest's control loop: it has slack_us of each period_us in which nothing is to be done,
     * at the end of its cycles. Images are taken then, and stop it for no longer. 0: there is none.
     */
    guint64 period_us, slack_us;
    guint64 cycle_word, missed_word; /* as stasis/checkpoint.h has them; without the first the
                                        guest's agent tells of cycles (stasis_cycle_end()) */
    /* Words of stasis/process-watch.h, with commas: images of processes instead of the VM's. */
    char *watch;
    char *watch_pids; /* "812,813"; until these have ended */
    char *watch_unit, *watch_cgroup;
    char *watch_boundary; /* "closure", "tree", "talked" */
    guint64 watch_interval_us;
    gboolean watch_incremental;
    guint owner; /* user id of whoever has set it */
} StasisPolicy;

STASIS_API StasisPolicy *stasis_policy_new(void);
STASIS_API void stasis_policy_free(StasisPolicy *policy);

/* JSON, with what is said alone. Free with g_free(). */
STASIS_API char *stasis_policy_to_text(const StasisPolicy *policy);
/* @len bytes of that; untrusted. STASIS_ERROR_CORRUPT, or as stasis_policy_check(). */
STASIS_API StasisPolicy *stasis_policy_from_text(const char *text, gssize len, GError **error);
/* Can it be carried out? Else STASIS_ERROR_USAGE says what is in the way. */
STASIS_API gboolean stasis_policy_check(const StasisPolicy *policy, GError **error);

/* The state directory, made with mode 0700 if need be. Free with g_free(). */
STASIS_API char *stasis_state_dir(GError **error);

/* STASIS_ERROR_NOT_FOUND when VM @vm has none. */
STASIS_API StasisPolicy *stasis_policy_load(const char *vm, GError **error);
/* Durable when it returns; in the place of the one that the VM had. */
STASIS_API gboolean stasis_policy_save(const StasisPolicy *policy, GError **error);
STASIS_API gboolean stasis_policy_remove(const char *vm, GError **error);
/* All that can be read, by name. Element type: StasisPolicy, freed with the array. @ret_bad, or
 * NULL: file names of those that can't. */
STASIS_API GPtrArray *stasis_policy_list(char ***ret_bad, GError **error);

/* What stays of the policy's images and what goes, as things are; nothing is changed. */
STASIS_API StasisPruneResult *stasis_policy_preview(const StasisPolicy *policy,
                                                    GCancellable *cancellable, GError **error);

typedef struct {
    StasisImageInfo *image;
    guint n_removed;
    gint64 freed_bytes; /* an estimate */
    char *left;         /* why old images were left where they are, or NULL */
} StasisPolicyResult;

/* Carry it out once: an image, and older ones go. That they could not be removed is no error: the
 * next time does it. */
STASIS_API StasisPolicyResult *stasis_policy_run(const StasisPolicy *policy,
                                                 StasisProgressFunc progress, gpointer user_data,
                                                 GCancellable *cancellable, GError **error);
STASIS_API void stasis_policy_result_free(StasisPolicyResult *result);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisPolicy, stasis_policy_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisPolicyResult, stasis_policy_result_free)

G_END_DECLS
