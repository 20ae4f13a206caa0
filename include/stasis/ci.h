/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A test in a guest, for CI: its outcome, and on failure what is needed to have it again. */
#pragma once

#include <stasis/agent.h>
#include <stasis/progress.h>
#include <stasis/store.h>
#include <stasis/vm.h>

G_BEGIN_DECLS

typedef enum {
    STASIS_OUTCOME_EXIT,     /* the test ended; number is its exit status, 0: passed */
    STASIS_OUTCOME_SIGNAL,   /* a signal ended it; number is the signal */
    STASIS_OUTCOME_TIMEOUT,  /* it took too long */
    STASIS_OUTCOME_PANIC,    /* the guest's kernel gave up */
    STASIS_OUTCOME_LOG,      /* a line on the console that was to be looked for */
    STASIS_OUTCOME_VM_END,   /* the guest shut down, or its QEMU ended */
    STASIS_OUTCOME_LOST,     /* the agent is not there any more, or lost sight of the test */
    STASIS_OUTCOME_HANG,     /* a virtual CPU made no progress; */
    STASIS_OUTCOME_WATCHDOG, /* … a watchdog was not fed; */
    STASIS_OUTCOME_RESET,    /* … the guest was reset: where one watched for that */
    STASIS_OUTCOME_SURVIVED, /* there was no test, and nothing of this for as long as one looked */
} StasisOutcomeKind;

typedef struct {
    StasisOutcomeKind kind;
    int number;
    char name[32];    /* "exit 0", "signal 11", "timeout", "panic", … */
    char detail[256]; /* the line on the console, the agent's words; the guest's, or "" */
    guint64 took_us;
} StasisOutcome;

STASIS_API gboolean stasis_outcome_is_good(const StasisOutcome *outcome);
/* What a process exits with that shows it: the test's own status; 128 and its number for a signal;
 * 124 for a time-out, 125 for all else. */
STASIS_API int stasis_outcome_exit_code(const StasisOutcome *outcome);

typedef void (*StasisOutputFunc)(gboolean is_error, const guint8 *bytes, gsize n,
                                 gpointer user_data);

typedef struct {
    const char *path; /* a file, or a directory with all that is in it … */
    const char *dir;  /* … and the directory of the other side that it is put into */
} StasisCiCopy;

typedef struct {
    size_t struct_size;
    /* The machine: either an image of @store … */
    const char *from;
    /* … or one that is booted: a kernel, a disk, or both. */
    const char *kernel, *initrd, *append;
    const char *image;            /* a disk, which is not written to; */
    gboolean add_agent;           /* … the agent is put into what is used in its place */
    const char *memory;           /* as QEMU's -m; NULL: 512M */
    guint n_vcpus;                /* 0: 1 */
    const char *accel;            /* as in StasisRunOptions */
    const char *qemu;             /* NULL: qemu-system-x86_64 */
    const char *const *qemu_args; /* more of its arguments, or NULL */
    guint64 boot_timeout_us;      /* until the agent answers; 0: 5 min */
    /* Make an image of the booted machine once, in @store, and begin from it whenever the machine
     * would be the same. */
    gboolean warm;
    /* The test. */
    const char *const *argv;
    const char *dir;          /* in the guest, or NULL */
    guint64 timeout_us;       /* 0: 10 min */
    guint64 max_output_bytes; /* 0: 1 MiB */
    const char *const *on;    /* words of stasis/watch.h, but agent-lost: what is a failure, beside
                                 panic and exit; or NULL */
    StasisOutputFunc output;  /* what it writes, as it comes, from another thread; or NULL */
    gpointer output_data;
    /* The ring: an image each @every_us, the last @keep of them; 0: no ring. */
    guint64 every_us;
    guint keep;          /* 0: 10 */
    const char *bundle;  /* where to leave a bundle of a failure: a new file; or NULL */
    const char *scratch; /* directory for the ring, NULL: /var/tmp */
    /* Have QEMU record the machine, so that its execution can be had again instruction by
     * instruction. Emulated, from a kernel and an initrd, without a ring, for 10 min at most;
     * the agent has to be of this version. */
    gboolean deterministic;
    /* "NAME=value", at most 256: what the test has in its environment beside the agent's; or NULL.
     * A replay's test has it, too. */
    const char *const *env;
    /* Files that the guest gets before the test (stasis_vm_agent_copy_in()), and files of the guest
     * that are fetched when it is over, however it came out, if the guest is still there. */
    const StasisCiCopy *copy_in, *copy_out;
    guint n_copy_in, n_copy_out;
    guint64 max_copy_bytes; /* of those that are fetched, all together; 0: 1 GiB */
    /* Of both: "copy in" and "copy out", by all files together; not while the test runs. Or NULL.
     */
    StasisProgressFunc progress;
    gpointer progress_data;
    /* Of @image, as QEMU calls it; NULL: raw or qcow2, by how it begins. One that begins as a qcow2
     * file that lies on another is refused then: the guest of a raw disk can have written that. */
    const char *image_format;
} StasisCiOptions;
#define STASIS_CI_OPTIONS_INIT                 \
    {                                          \
        .struct_size = sizeof(StasisCiOptions) \
    }

typedef struct {
    StasisOutcome outcome;
    guint64 ready_us; /* until the agent answered */
    gboolean warm;    /* it went on from an image of the booted machine */
    guint n_images;   /* in the ring, at the end */
    guint n_skipped;  /* not in it: the guest wrote too much for one */
    char
        *ring_error; /* why there were no more images from some moment on, or NULL; the test went on
                      */
    gboolean bundled;
    char *bundle_error; /* why a failure was not, or NULL */
    char *console; /* what the guest said there, the last 1 MiB; the guest's bytes made UTF-8 */
    StasisAgentCopied copied_out; /* what was fetched of copy_out */
    char *copy_error;             /* why that isn't all, or NULL */
    char *bundle_kept; /* that bundle all the same, a file of the scratch directory; or NULL */
} StasisCiResult;

STASIS_API void stasis_ci_result_free(StasisCiResult *result);

/* Run a test in a machine of its own, which is gone afterwards. NULL when it could not be run; a
 * test that fails is a result. @store is for @from and @warm, and may be NULL without. */
STASIS_API StasisCiResult *stasis_ci_run(StasisStore *store, const StasisCiOptions *options,
                                         GCancellable *cancellable, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisCiResult, stasis_ci_result_free)

G_END_DECLS
