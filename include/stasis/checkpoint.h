/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Taking a checkpoint: RAM and devices of a VM at one instant, into a store. */
#pragma once

#include <stasis/store.h>
#include <stasis/vm.h>

G_BEGIN_DECLS

typedef enum {
    STASIS_MODE_LIVE, /* pre-copy while it runs, a short pause for what remains */
    STASIS_MODE_COW,  /* the instant of the call: protect all, save originals before first write */
    STASIS_MODE_STOP, /* stop, copy, go on: the reference */
} StasisMode;

typedef enum {
    STASIS_CODEC_LZ4, /* default */
    STASIS_CODEC_ZSTD,
    STASIS_CODEC_NONE,
} StasisCodec;

typedef enum {
    STASIS_DISKS_COPY, /* the content of every writable disk, as of the same instant */
    STASIS_DISKS_NONE, /* leave them out: a restored VM opens the disks as they are then */
    /* The image refers to the files that the disks lie in, which nobody may write to from the
     * instant on; the VM goes on to a new qcow2 file on top of each, PATH.stasis-ID. */
    STASIS_DISKS_OVERLAY,
} StasisDisks;

typedef struct {
    size_t struct_size;
    StasisMode mode;
    StasisCodec codec;
    gboolean full;            /* don't make it incremental, even where that is possible */
    guint64 max_pause_us;     /* 0: no limit. Else the pause stays within it or the call fails with
                                 STASIS_ERROR_BUDGET, and the VM runs on */
    guint64 max_buffer_bytes; /* memory for pages saved ahead of the disk; 0: 1/4 of free memory */
    guint n_threads;          /* pipeline threads; 0: the CPUs that the guest leaves, at most 8 */
    const char *tracker;      /* NULL or "auto"; "kvm-log", "uffd-async", "uffd-sync" */
    const char *note;         /* description kept in the image, or NULL */
    StasisDisks disks;
    StasisProgressFunc progress;
    gpointer progress_data;
    gboolean quiesce; /* the guest's file systems are frozen at the instant, or the call fails */
    /*
     * PCI devices (QEMU's ids, or QOM paths; NULL-terminated, 16 at most) that their drivers in the
     * guest suspend for the instant, by the agent, or the call fails. What the machine knows of
     * them is left out of the image: all there is of them is in the guest's memory, and the guest
     * gives it back when it goes on, here or from the image. NULL: none. One that writes memory
     * without a trace (passed through, vhost-user), which is refused otherwise, is suspended for as
     * long as memory is read, and makes the image a full one.
     */
    const char *const *guest_suspend;
    /*
     * Guest-physical address of an aligned word of 8 bytes in RAM that the guest changes at the end
     * of each control cycle: the VM is stopped when it does, and so for a time in which the guest
     * has nothing to do. Without a change for cycle_wait_us (0: a second) the call fails with
     * STASIS_ERROR_BUDGET. 0: there is none.
     */
    guint64 cycle_word;
    guint64 cycle_wait_us;
    /* The same of a word in which the guest counts deadlines that it has missed: what is added to
     * it over the checkpoint is kept in the image (StasisCost). 0: there is none. */
    guint64 missed_word;
    /*
     * For a series, from its first image on: no packet that the guest sends through its network
     * interfaces leaves the host before an image that remembers it is durable: the first one whose
     * instant came after it, or the one after that. Each image has to be durable within ten
     * minutes of the instant before it, or the series fails: QEMU lets go then. When the series
     * ends, however it ends, what is held is let go and nothing is held any more; what QEMU holds
     * as it is killed is lost. STASIS_ERROR_UNSUPPORTED: the VM has no interface, or one that is
     * not QEMU's (vhost).
     */
    gboolean hold_output;
    gboolean by_policy; /* mark the image as a policy's (StasisImageInfo) */
    /* hold_output only of these: QEMU's names of interfaces or of their back ends, NULL-terminated;
     * what the others send leaves the host at once. NULL or none: of all. */
    const char *const *hold_interfaces;
} StasisCheckpointOptions;
#define STASIS_CHECKPOINT_OPTIONS_INIT                 \
    {                                                  \
        .struct_size = sizeof(StasisCheckpointOptions) \
    }

/*
 * Take a checkpoint of @vm into @store. Returns what the image is and what it cost, after the
 * image is durable; or NULL, with the VM in the state it was in before and nothing new in the
 * store. If the calling process is killed at any point, the VM runs on.
 */
STASIS_API StasisImageInfo *stasis_checkpoint_create(StasisVm *vm, StasisStore *store,
                                                     const StasisCheckpointOptions *options,
                                                     GCancellable *cancellable, GError **error);

/*
 * Many checkpoints of one VM, one after the other: what is costly to find out about it is found out
 * once, and a small increment then takes a few milliseconds besides writing it. The object holds
 * the VM (others get STASIS_ERROR_BUSY); the store is held only during each take. Borrows nothing
 * but options->progress_data. Each take is as stasis_checkpoint_create().
 */
typedef struct _StasisSeries StasisSeries;

STASIS_API StasisSeries *stasis_series_new(StasisVm *vm, StasisStore *store,
                                           const StasisCheckpointOptions *options,
                                           GCancellable *cancellable, GError **error);
STASIS_API StasisImageInfo *stasis_series_take(StasisSeries *series, GCancellable *cancellable,
                                               GError **error);
/* QEMU's names of the network back ends whose output is held, NULL-terminated, as of the last
 * image; NULL: of none. */
STASIS_API const char *const *stasis_series_get_held(StasisSeries *series);
STASIS_API void stasis_series_free(StasisSeries *series);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisSeries, stasis_series_free)

/* "live", "cow", "stop"; -1 when unknown. */
STASIS_API int stasis_mode_from_string(const char *name);
/* "copy", "none", "overlay"; -1 when unknown. */
STASIS_API int stasis_disks_from_string(const char *name);
/* "lz4", "zstd", "none"; -1 when unknown. */
STASIS_API int stasis_codec_from_string(const char *name);

G_END_DECLS
