/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A failure again: what ran in a VM goes on from an image of a bundle's ring, as often as wanted.
 * In a bundle of ci-run that is a test, and how it comes out is the outcome. In one of a guard the
 * VM is watched for what the guard watched for, and has survived if there was none of that in time.
 */
#pragma once

#include <stasis/ci.h>

G_BEGIN_DECLS

typedef enum {
    STASIS_PERTURB_NONE,   /* the guest does not learn that it goes on from an image */
    STASIS_PERTURB_SEED,   /* it gets entropy of its own, and the time of day */
    STASIS_PERTURB_TIMING, /* the VM is stopped now and then for a random while */
} StasisPerturb;

typedef struct {
    size_t struct_size;
    guint times;         /* 0: 1; of bisect: from each image; 0: 5 */
    guint jobs;          /* VMs at once; 0: 1 */
    const char *from;    /* an image of the ring: its ID, a unique prefix, or its number from 1, the
                            oldest; NULL: the newest. Of what was recorded under a debugger alone,
                            by number */
    guint perturb;       /* of 1 << StasisPerturb */
    guint64 timeout_us;  /* of each run; 0: what the test had; without one twice what it took from
                            the image to the failure, and 5 s */
    const char *scratch; /* directory for what is in the bundle; NULL: /var/tmp */
    /* After each run, from the thread that made the call; or NULL. */
    void (*ran)(guint image, const StasisOutcome *outcome, gpointer user_data);
    gpointer ran_data;
    /* What the test writes, from its start on, as it comes, from other threads; or NULL. Of runs
     * side by side mixed. Not of what was recorded. */
    StasisOutputFunc output;
    gpointer output_data;
    /* A directory, there or made, for what each run wrote: files image-I-run-N-OUTCOME.stdout,
     * .stderr and .console, by the image's number and the run's, in the order of their ends; or
     * NULL. Not of what was recorded, nor under a debugger. */
    const char *output_dir;
} StasisReplayOptions;
#define STASIS_REPLAY_OPTIONS_INIT                 \
    {                                              \
        .struct_size = sizeof(StasisReplayOptions) \
    }

typedef struct {
    StasisOutcome outcome; /* of the first one that came out so */
    guint count;
} StasisReplayOutcome;

/* All runs from one image. */
typedef struct {
    char *id;
    gint64 created_us;   /* Unix time of its instant */
    guint n_runs, n_bad; /* bad: not passed */
    guint n_same;        /* as the bundle's failure */
    guint n_unknown; /* lost, or out of time, where that is not the failure: what they would have
                        come to is not known */
    GPtrArray *outcomes; /* of StasisReplayOutcome, the most frequent first */
    guint n_pauses;      /* how often VMs were stopped for STASIS_PERTURB_TIMING */
} StasisReplayRuns;

typedef struct {
    char **argv;           /* of the test; empty: there was none */
    StasisOutcome failure; /* as the bundle has it */
    GPtrArray *images;     /* of StasisReplayRuns, oldest first; without bisect just one */
    gint inevitable;       /* of bisect: index of the first image from which on every run that is
                              known came out as the failure; -1: there is none */
    gint open;           /* … and of the last one before that from which one did not; -1: none */
    guint n_unwritten;   /* runs whose output could not be written to output_dir … */
    char *output_error;  /* … and why, of the first; NULL: all could */
    guint n_not_run;     /* runs, of those that were asked for, whose VM could not be started … */
    char *not_run_error; /* … and why, of the first; NULL: all ran */
} StasisReplay;

STASIS_API void stasis_replay_free(StasisReplay *replay);

/* Run the test in the bundle at @path from one image. Where a VM can't be started, what has run
 * counts (n_not_run); where none has, that is an error. */
STASIS_API StasisReplay *stasis_replay(const char *path, const StasisReplayOptions *options,
                                       GCancellable *cancellable, GError **error);

/* From each image of the ring: failure became inevitable between the images `open` and
 * `inevitable`. Another failure is none: that run shows that this one could be had or not. Without
 * options->perturb all that would make runs differ is perturbed. */
STASIS_API StasisReplay *stasis_replay_bisect(const char *path, const StasisReplayOptions *options,
                                              GCancellable *cancellable, GError **error);

/*
 * One VM that stands still at the image's instant, with QEMU's gdbstub at @gdb: a TCP port of the
 * loopback interface, or the path of a UNIX socket. @ready is called then; when the debugger lets
 * it go on, the test does. Until the test is over, the VM has ended or @cancellable fires; then the
 * VM is gone. A timeout only if options->timeout_us says so. What was recorded is run once before,
 * so that there are images to begin from and to go back to (options->ran is called after that).
 */
STASIS_API StasisReplay *stasis_replay_debug(const char *path, const StasisReplayOptions *options,
                                             const char *gdb,
                                             void (*ready)(StasisVm *vm, gpointer user_data),
                                             gpointer user_data, GCancellable *cancellable,
                                             GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisReplay, stasis_replay_free)

G_END_DECLS
