/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images of processes at what happens to them: when they fork, become another program, or end, and
 * when message queues, semaphores and shared memory of theirs come and go.
 *
 * The guest's agent hears of it and tells states and counts, not each single event: what happens
 * together, or while an image is taken, is one reason for one image. The guest is untrusted: what
 * it can bring about is an image each options.min_interval_us, and the removal of images that this
 * watch took.
 */
#pragma once

#include <stasis/process-image.h>

G_BEGIN_DECLS

/* What an image is taken at; of EXIT and EXEC also what images are removed at. */
typedef enum {
    STASIS_PROCESS_FORK = 1 << 0, /* both are in the image */
    STASIS_PROCESS_EXEC =
        1 << 1, /* and older images with the program that was before are removed */
    STASIS_PROCESS_EXIT = 1 << 2, /* none is taken; images whose processes have all ended go */
    STASIS_PROCESS_MQUEUE_CREATE = 1 << 3,
    STASIS_PROCESS_MQUEUE_REMOVE = 1 << 4,
    STASIS_PROCESS_SEM_CREATE = 1 << 5,
    STASIS_PROCESS_SEM_REMOVE = 1 << 6,
    STASIS_PROCESS_SHM_CREATE = 1 << 7,
    STASIS_PROCESS_SHM_REMOVE = 1 << 8,
} StasisProcessEvents;

/* The set that @words (NULL-terminated) name, each some of "fork", "exec", "exit", "mqueue", "sem",
 * "shm" and "ipc" (these three), the last four also with ":create" or ":remove", with commas
 * between them. 0 and STASIS_ERROR_USAGE for what is no event, and for none at all. */
STASIS_API guint stasis_process_events_from_words(const char *const *words, GError **error);

/* One thing that happened. Valid during the call; texts are the guest's, one line of UTF-8. */
typedef struct {
    const char *what;   /* "watching"; "fork", "exec", "exit", "mqueue", "sem", "shm"; "lost" (more
                           happened than the guest could keep); "image", "failed", "removed" */
    guint pid;          /* to whom; 0: not known */
    const char *comm;   /* its name, or NULL */
    guint child;        /* of a fork: the last one */
    guint64 count;      /* so often since it was last told */
    const char *object; /* "mqueue:/name", "sysv-sem:5" …, or NULL */
    gboolean created;   /* … that, or removed */
    const StasisProcessImageInfo *image; /* that was taken, or NULL */
    const char *id;                      /* of an image that was removed */
    const GError *error;                 /* why none could be taken; it is tried again */
    guint n_watched;                     /* processes */
} StasisProcessWatchEvent;

typedef void (*StasisProcessWatchFunc)(const StasisProcessWatchEvent *event, gpointer user_data);

typedef struct {
    size_t struct_size;
    const StasisBoundaryOptions *boundary; /* who; what they start is watched, too */
    guint events;                          /* StasisProcessEvents, at least one */
    guint64 min_interval_us; /* from the end of one image to the begin of the next; 0: a second */
    guint keep;              /* of the images taken here, so many; 0: all */
    /* Which of them stay, by its keep_… and quota_bytes, each time that there is a new one, which
     * always does; or NULL. With @keep, too, one has to be kept by both. */
    const StasisPruneOptions *retain;
    guint64 max_images;   /* end after so many, tries that failed too; 0: go on */
    gboolean incremental; /* as StasisProcessCheckpointOptions */
    const char *note;     /* of the images, or NULL */
    gboolean take_up;     /* images of the VM with that note, which is needed then, are this watch's
                             own: an earlier one has taken them; by_policy: those of policies are */
    gboolean by_policy;   /* as StasisProcessCheckpointOptions */
    const char *scratch;  /* as StasisProcessCheckpointOptions */
    StasisProcessWatchFunc func; /* or NULL */
    gpointer func_data;
} StasisProcessWatchOptions;
#define STASIS_PROCESS_WATCH_OPTIONS_INIT                \
    {                                                    \
        .struct_size = sizeof(StasisProcessWatchOptions) \
    }

typedef struct {
    guint64 n_changes; /* that were told */
    guint64 n_taken, n_failed, n_removed;
    char **images;  /* IDs of those that are left, oldest first */
    gboolean ended; /* all processes have */
} StasisProcessWatchResult;

STASIS_API void stasis_process_watch_result_free(StasisProcessWatchResult *result);

/*
 * Watch until all processes have ended, max_images, or @cancellable, with a result in each case. An
 * image that can't be taken ends nothing: it is told, and tried three times in all for one reason.
 * NULL when those asked for can't be taken as they are now (STASIS_ERROR_REFUSED), the guest's
 * kernel does not tell (STASIS_ERROR_UNSUPPORTED), somebody watches that guest already, the VM has
 * ended, or its agent does not answer for 30 s. Images stay then. If the calling process is killed,
 * the guest watches for a minute more, for nobody, or until the next call.
 *
 * The VM is not held between images; its agent's channel is, for half a second at a time.
 */
STASIS_API StasisProcessWatchResult *stasis_process_watch(StasisVm *vm, StasisStore *store,
                                                          const StasisProcessWatchOptions *options,
                                                          GCancellable *cancellable,
                                                          GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisProcessWatchResult, stasis_process_watch_result_free)

G_END_DECLS
