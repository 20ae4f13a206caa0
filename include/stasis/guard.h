/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guards: a ring of recent images of a VM, in memory, and something that is done when the VM fails:
 * the ring is kept as a bundle, or the VM goes on from the last image before the failure.
 */
#pragma once

#include <stasis/bundle.h>
#include <stasis/checkpoint.h>
#include <stasis/transaction.h>
#include <stasis/watch.h>

G_BEGIN_DECLS

typedef enum {
    STASIS_GUARD_END,      /* that is all */
    STASIS_GUARD_ROLLBACK, /* take the VM back in place, and go on guarding */
    STASIS_GUARD_RESTART,  /* end its QEMU, start a new one from the image, and go on guarding */
} StasisGuardThen;

/* Something that a guard has done or seen. Valid only during the call. */
typedef struct {
    const char *what; /* "armed", "image", "skipped", "failure", "captured", "bundle-failed",
                         "bundle-removed", "rolled-back", "restarted", "gave-up", "ended" */
    const StasisImageInfo *image; /* of "image" */
    const StasisFailure *failure; /* of all but "armed", "image", "skipped", "bundle-removed" and
                                     "ended"; NULL of a bundle that was tried again */
    const char *path;             /* of "captured" and "bundle-removed": the bundle, or NULL with
                                     @reason; of "bundle-failed": the one that is in memory
                                     meanwhile, or NULL: it could not be kept */
    const char *id;               /* of "rolled-back" and "restarted": the image */
    const StasisUndone *undone;   /* the same */
    guint n_tries;                /* the same: for how many failures on end that was done; of
                                     "bundle-failed": how often it has been tried */
    guint64 took_us;              /* from our seeing the failure until that was done */
    const GError *reason;         /* of "skipped": why there is no image; of "bundle-failed"; of
                                     "bundle-removed": why one could not be */
    guint n_skipped;              /* of "skipped": of how many on end there is none */
    const char *detail;           /* of "ended": how, for people */
} StasisGuardEvent;
typedef void (*StasisGuardFunc)(const StasisGuardEvent *event, gpointer user_data);

typedef struct {
    size_t struct_size;
    guint64 every_us;      /* from one image to the next; 0: 500 ms */
    guint keep;            /* images in the ring; 0: 10 */
    const char *const *on; /* words of stasis/watch.h; NULL: panic, watchdog, crash */
    gboolean capture;      /* make a bundle in @dir, with one more image of the VM as it is then */
    const char *dir;       /* NULL: the current directory */
    StasisGuardThen then;
    guint max_tries;            /* failures on end after which it gives up; 0: 3 */
    StasisDisks disks;          /* of the images */
    const char *const *command; /* what runs in the VM, for the bundle; or NULL */
    StasisGuardFunc func;       /* or NULL */
    gpointer func_data;
    guint max_skips;    /* images on end that are left out after which it fails; 0: 20 */
    guint max_bundles;  /* in @dir of those that guards of the VM have written with this; the oldest
                           go; 0: all stay */
    gboolean by_policy; /* a policy's: its bundles are marked as such, and are those that go */
} StasisGuardOptions;
#define STASIS_GUARD_OPTIONS_INIT                 \
    {                                             \
        .struct_size = sizeof(StasisGuardOptions) \
    }

typedef struct {
    guint64 n_images;
    guint n_failures, n_rollbacks, n_restarts;
    gboolean gave_up;
    StasisFailure *last; /* or NULL: there was none */
    char **bundles;      /* paths of those that are there still, NULL-terminated */
    guint64 n_skipped;   /* images that could not be taken, and were left out */
    char *kept;          /* or NULL; a bundle that could not be put into its directory to the end,
                            and is in memory: any command that reads bundles reads it there */
    char *kept_error;    /* why */
    char *ended;         /* or NULL; how the VM was shut down meanwhile, for people */
    guint n_removed;     /* bundles, for max_bundles */
} StasisGuardResult;

/* Into @options' capture and then: what @words ("capture", "rollback", "restart"; NULL or none:
 * "capture") say. STASIS_ERROR_USAGE for others, and for both ways to go on. */
STASIS_API gboolean stasis_guard_options_set_do(StasisGuardOptions *options,
                                                const char *const *words, GError **error);

/*
 * Guard @vm until it is cancelled or shut down (which are no errors), or until a failure after
 * which it does not go on. The VM is held (others get STASIS_ERROR_BUSY). The ring is in @store, or
 * (NULL) in memory; it goes at the end. An image from before the failure began is taken for going
 * on; if the VM fails again within ten seconds an older one, after a pause that doubles each time.
 * An image for which the guest writes too much is left out; so many on end that there might as well
 * be no guard are an error (STASIS_ERROR_OUTRUN, STASIS_ERROR_BUDGET).
 *
 * A bundle that can't be written (a disk that is full, read-only, or gone) is kept in memory, and
 * tried again while the VM is guarded on, at the end, and by the next guard of a VM of that name.
 * There is room for one: the first.
 *
 * With max_bundles the oldest bundles go once a new one is in its place. Only those are ever looked
 * at that say themselves that a guard of this VM with max_bundles (by_policy: of its policy) wrote
 * them, and under that name: one that was renamed or copied stays.
 */
STASIS_API StasisGuardResult *stasis_guard_run(StasisVm *vm, StasisStore *store,
                                               const StasisGuardOptions *options,
                                               GCancellable *cancellable, GError **error);
STASIS_API void stasis_guard_result_free(StasisGuardResult *result);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisGuardResult, stasis_guard_result_free)

G_END_DECLS
