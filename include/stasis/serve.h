/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checkpoints that programs of the guest have a say in (include/stasis-guest.h): somebody at the
 * host has to wait for what they wish, take it, and tell them. The guest has to run stasis-agent.
 * It is untrusted: what it can bring about is a checkpoint each options.min_interval_us, and it may
 * be told how many in all.
 */
#pragma once

#include <stasis/checkpoint.h>
#include <stasis/store.h>
#include <stasis/vm.h>

G_BEGIN_DECLS

typedef enum {
    STASIS_SERVED_VM,      /* a program wished for one of the VM */
    STASIS_SERVED_PROCESS, /* … of itself, with all that belongs to it */
    STASIS_SERVED_PERIOD,  /* it was time */
    STASIS_SERVED_RESTORE, /* stasis-resume: an image of processes was to be restored there */
} StasisServedKind;

/* One checkpoint that was taken, or could not be. Valid during the call. */
typedef struct {
    StasisServedKind kind;
    guint pid;           /* of the program, or the first restored one; 0: it was time */
    const char *id;      /* the image, of the VM or of processes; NULL: there is none */
    const GError *error; /* … and that is why */
    guint64 pause_us;
    guint n_callers; /* that waited for it */
    guint n_told;    /* programs that were told before it */
    guint n_late;    /* … of which so many did not get ready in time */
    guint n_cycles;  /* control loops that were at the end of a cycle */
    /* Deadlines that control loops say they missed (stasis_deadline_missed()): while it was taken,
     * and between the one before and this one. */
    guint64 n_missed, n_missed_before;
    gboolean deadlines_counted; /* some program ever told of one; else they are 0 */
    guint64 total_us;
} StasisServed;

typedef void (*StasisServedFunc)(const StasisServed *served, gpointer user_data);

typedef struct {
    size_t struct_size;
    guint64 min_interval_us; /* between a checkpoint's end and the next one's begin */
    guint64 every_us;        /* one of the VM so often, too; 0: none but those wished for */
    gboolean cycle_end;      /* … at the end of a control cycle, where there is one */
    gboolean cycle_needed;   /* … and where there is none, it fails: STASIS_ERROR_BUDGET */
    guint64 cycle_wait_us;   /* … which is waited for so long; 0: a second; at most 30 s */
    guint64 max_checkpoints; /* end after so many, those that failed too; 0: go on */
    const char *note;        /* of the images, or NULL */
    /* How those of the VM are taken (note and words of cycles aside), or NULL; borrowed. */
    const StasisCheckpointOptions *checkpoint;
    StasisServedFunc served; /* or NULL */
    gpointer served_data;
} StasisServeOptions;
#define STASIS_SERVE_OPTIONS_INIT                 \
    {                                             \
        .struct_size = sizeof(StasisServeOptions) \
    }

/*
 * Serve @vm until max_checkpoints or @cancellable, of which both are TRUE; a checkpoint that fails
 * ends nothing, its caller in the guest is told. FALSE when the VM has ended, or its agent does not
 * answer for 30 s; STASIS_ERROR_BUSY when somebody serves it already. The VM is not held between
 * checkpoints; its agent's channel is, for half a second at a time, after which others have their
 * turn. Whoever serves next continues where this one ended, or was killed.
 */
STASIS_API gboolean stasis_vm_serve(StasisVm *vm, StasisStore *store,
                                    const StasisServeOptions *options, GCancellable *cancellable,
                                    GError **error);

G_END_DECLS
