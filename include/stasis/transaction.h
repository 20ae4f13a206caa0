/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions: do something to a VM, or have something happen to it, and if that fails the VM is
 * back where it was: RAM, devices and disks.
 *
 * A transaction is an image and a mark that it has begun. Committing removes the mark; rolling back
 * takes the VM to the image first. If its maker dies in between, a process that waits for that
 * rolls the VM back at once; if that dies, too, the next transaction on the VM does, or
 * stasis_transaction_recover(). So the VM is always at the last commit, or on the way from there.
 */
#pragma once

#include <stasis/checkpoint.h>
#include <stasis/rollback.h>
#include <stasis/watch.h>

G_BEGIN_DECLS

typedef struct {
    size_t struct_size;
    const char *const *on; /* what is a failure (stasis/watch.h); NULL: "exit" */
    StasisDisks disks;
    gboolean keep; /* the store in memory stays when it is over, and the next transaction's image is
                      incremental to this one's. In another store the image of the last one stays
                      in any case. */
    /* A PCI device (QEMU's id, or its QOM path) that alone goes back, where that can be, or NULL.
     * Its driver in the guest, which needs the agent, lets go of it and of all the memory that it
     * had; the device is as it was, at rest, before; the driver begins anew. All else stays. Where
     * it can't be (the guest is down, the driver hangs or is another one), the VM goes back. */
    const char *device;
    /* PCI devices that the guest suspends for the image, as for a checkpoint's, or NULL. Not with
     * @device. */
    const char *const *guest_suspend;
    /* Hold the VM until the end: nobody else can do anything to it (STASIS_ERROR_BUSY), and all is
     * ready for going back, which takes a fraction of the time then. Not if others could not find
     * its agent then (libvirt's domains): that VM is not held. */
    gboolean hold;
} StasisTransactionOptions;
#define STASIS_TRANSACTION_OPTIONS_INIT                 \
    {                                                   \
        .struct_size = sizeof(StasisTransactionOptions) \
    }

/* What rolling back undid. */
typedef struct {
    StasisRollbackInfo *rollback; /* NULL: QEMU had ended */
    gboolean restarted;           /* it had, and a new one was started from the image */
    guint64 total_us;             /* until the VM ran again */
    gboolean device_only;         /* that of the options went back, and nothing else */
    char *device_failed;          /* why it did not, alone; or NULL */
} StasisUndone;

typedef struct _StasisTransaction StasisTransaction;

/*
 * Begin: a checkpoint of @vm into @store, or (NULL) into a store in memory that is this VM's own
 * (below $STASIS_RUNTIME_DIR, else in /dev/shm). STASIS_ERROR_BUSY when another transaction or a
 * guard of @vm is under way; one whose maker died is rolled back first. The VM is held for the
 * checkpoint only, unless @options->hold; where @options->on needs QEMU's monitor (all but exit and
 * log), that is in use until the end.
 */
STASIS_API StasisTransaction *stasis_transaction_begin(StasisVm *vm, StasisStore *store,
                                                       const StasisTransactionOptions *options,
                                                       GCancellable *cancellable, GError **error);
/* Belongs to @transaction. */
STASIS_API const StasisImageInfo *stasis_transaction_get_image(StasisTransaction *transaction);
STASIS_API StasisStore *stasis_transaction_get_store(StasisTransaction *transaction);

/* Wait for a failure: until @timeout_us have passed (G_MAXUINT64: for ever), @wake_fd (or -1) can
 * be read, or it is cancelled: NULL. */
STASIS_API StasisFailure *stasis_transaction_wait(StasisTransaction *transaction,
                                                  guint64 timeout_us, int wake_fd,
                                                  GCancellable *cancellable);

/* Commit, unless the guest has panicked, shut down or the like: then STASIS_ERROR_FAILED says so,
 * and the transaction is still open. @transaction is done for when this is TRUE; free it. */
STASIS_API gboolean stasis_transaction_commit(StasisTransaction *transaction, GError **error);

/* Roll back. On failure the transaction is still under way, and stasis_transaction_recover() tries
 * again. */
STASIS_API StasisUndone *stasis_transaction_rollback(StasisTransaction *transaction,
                                                     GError **error);

/* Nothing was tried: leave the VM as it is. */
STASIS_API void stasis_transaction_abandon(StasisTransaction *transaction);

/* One that is neither committed nor rolled back is rolled back now. */
STASIS_API void stasis_transaction_free(StasisTransaction *transaction);

/* Roll VM @name back where a transaction's maker has died. STASIS_ERROR_NOT_FOUND: there is none.
 * @name need not be known any more: then it is started again. */
STASIS_API StasisUndone *stasis_transaction_recover(const char *name, GCancellable *cancellable,
                                                    GError **error);

STASIS_API void stasis_undone_free(StasisUndone *undone);

/* ---- a command as a transaction ---- */

typedef enum {
    STASIS_TRY_COMMITTED, /* it ended with 0 */
    STASIS_TRY_FAILED,    /* it ended otherwise */
    STASIS_TRY_TIMEOUT,   /* it was ended after timeout_us */
    STASIS_TRY_EVENT,     /* it was ended, as something that was watched for happened */
    STASIS_TRY_CANCELLED, /* it was ended, as we were asked to */
} StasisTryOutcome;

typedef struct {
    size_t struct_size;
    StasisTransactionOptions transaction;
    const char *const *argv; /* the command; it finds $STASIS_DOMAIN and $STASIS_IMAGE */
    guint64 timeout_us;      /* 0: none */
    gboolean
        output_to_stderr; /* what it writes to its standard output, too: ours is for other things */
} StasisTryOptions;
#define STASIS_TRY_OPTIONS_INIT                                                                  \
    {                                                                                            \
        .struct_size = sizeof(StasisTryOptions), .transaction = STASIS_TRANSACTION_OPTIONS_INIT, \
    }

typedef struct {
    StasisTryOutcome outcome;
    int status;             /* of the command, as a shell has it: 0 to 255, 128 + its signal */
    StasisFailure *failure; /* of STASIS_TRY_EVENT; else NULL */
    StasisImageInfo *image; /* what it was taken back to, or would have been */
    StasisUndone *undone;   /* NULL of STASIS_TRY_COMMITTED */
    guint64 command_us;
    gint64 failed_at_us; /* Unix time at which it was seen to have failed; 0: it did not */
} StasisTryResult;

/* Run options->argv on this host, with our own standard input, output and error, as a transaction
 * of
 * @vm. An error is only what kept it from being begun or ended. */
STASIS_API StasisTryResult *stasis_try(StasisVm *vm, StasisStore *store,
                                       const StasisTryOptions *options, GCancellable *cancellable,
                                       GError **error);
STASIS_API void stasis_try_result_free(StasisTryResult *result);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisTransaction, stasis_transaction_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisUndone, stasis_undone_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisTryResult, stasis_try_result_free)

G_END_DECLS
