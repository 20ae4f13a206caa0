/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty trackers: which pages of a VM's RAM were written since they were last looked at. One ops
 * table each, in one visible array (tracker.c).
 *
 * A page is dirty until a harvest with re-arming; the harvest returns it and from then on the next
 * write marks it again. A harvest without re-arming returns it and leaves it dirty.
 *
 * A synchronous tracker sees each first write before it happens: a thread of its own gets the
 * fault, may save the page, and lets the writer go on. Its protections end with our process. An
 * asynchronous one is told by the kernel afterwards; it lives inside the VM's process and goes on
 * between two checkpoints, and without us.
 */
#pragma once

#include <gio/gio.h>

#include "base/bitmap.h"
#include "vmm/qmp.h"
#include "vmm/ram.h"

G_BEGIN_DECLS

/* One bitmap for each RAM block, in the order of StasisRam.blocks, in pages of 4096 bytes. */
typedef struct {
    guint n_blocks;
    StasisBitmap **blocks;
} StasisDirty;

StasisDirty *stasis_dirty_new(const StasisRam *ram);
void stasis_dirty_free(StasisDirty *dirty);
void stasis_dirty_set_all(StasisDirty *dirty);
void stasis_dirty_clear(StasisDirty *dirty);
void stasis_dirty_or(StasisDirty *dirty, const StasisDirty *other);
/* @dirty = @a and @b;  @dirty without @other. */
void stasis_dirty_intersect(StasisDirty *dirty, const StasisDirty *a, const StasisDirty *b);
void stasis_dirty_subtract(StasisDirty *dirty, const StasisDirty *other);
guint64 stasis_dirty_count(const StasisDirty *dirty);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDirty, stasis_dirty_free)

/* Called in the fault thread before page @page of block @block may be written for the first time
 * since it was protected. Bounded and quick: a guest's write waits. It may release the page and its
 * neighbours itself; the tracker releases the page in any case. */
typedef void (*StasisBeforeWrite)(guint block, guint64 page, gpointer user_data);

typedef struct {
    guint64 n;        /* writes that waited */
    guint64 worst_us; /* from our taking the fault up to letting the writer go */
} StasisFaultStats;

typedef struct _StasisTracker StasisTracker;

typedef struct {
    const char *name;
    gboolean synchronous;
    /* May this kernel do it, and for this VM? @ram NULL: for any. */
    gboolean (*available)(const StasisRam *ram);
    /* Asynchronous only: is tracking still on in @ram's process since the moment when get_token()
     * returned @token, with all that was written since? */
    gboolean (*is_kept)(const StasisRam *ram, guint64 token);
    StasisTracker *(*open)(const StasisRam *ram, StasisQmp *qmp, GError **error);
    /* Protect all of RAM; from now on writes count. The VM may run. */
    gboolean (*arm)(StasisTracker *tracker, GError **error);
    /* OR what was written into @dirty; with @rearm protect exactly that again. */
    gboolean (*harvest)(StasisTracker *tracker, StasisDirty *dirty, gboolean rearm, GError **error);
    /* The same without re-arming, while the VM is stopped: allocates nothing; 0 or −errno. */
    int (*harvest_stopped)(StasisTracker *tracker, StasisDirty *dirty);
    /* Count the pages of @dirty as written again (a harvest that led to nothing). */
    int (*give_back)(StasisTracker *tracker, const StasisDirty *dirty);
    /* Asynchronous only: let go of [first, +n) of a block, of small pages, for another userfaultfd
     * to have it, and take it back. All of it may count as written then; nothing that was written
     * in between doesn't. What a harvest says of it meanwhile means nothing. The VM may run. 0 or
     * −errno; allocate nothing. */
    int (*lend)(StasisTracker *tracker, guint block, guint64 first, guint64 n);
    int (*take_back)(StasisTracker *tracker, guint block, guint64 first, guint64 n);
    /* Synchronous only: protect the runs of @dirty again; 0 or −errno, allocates nothing. */
    int (*protect)(StasisTracker *tracker, const StasisDirty *dirty);
    /* Release [first, +n) of a block and wake who waits for it. Any thread; allocates nothing. */
    int (*release)(StasisTracker *tracker, guint block, guint64 first, guint64 n);
    /* When it returns, no call of the function set before is under way. */
    void (*set_before_write)(StasisTracker *tracker, StasisBeforeWrite func, gpointer user_data);
    void (*get_fault_stats)(StasisTracker *tracker, StasisFaultStats *ret_stats);
    /* What tells this tracking, as it is now, from any other of that VM; 0 if NULL. It changes
     * whenever somebody takes pages from it. */
    guint64 (*get_token)(StasisTracker *tracker);
    /* The connection to the shim that it holds, or NULL; stays the tracker's. */
    struct _StasisShim *(*get_shim)(StasisTracker *tracker);
    /* Let go of @tracker. @keep: leave the tracking on in the VM, for the next checkpoint (an
     * asynchronous one); otherwise no registration, protection or descriptor remains. */
    void (*close)(StasisTracker *tracker, gboolean keep);
} StasisTrackerOps;

/* Every tracker implementation starts with this. */
struct _StasisTracker {
    const StasisTrackerOps *ops;
};

/* The token of @tracker (may be NULL), or 0. */
guint64 stasis_tracker_get_token(StasisTracker *tracker);
/* The tracker that is still on in @ram's process from an earlier checkpoint, or NULL. */
const StasisTrackerOps *stasis_tracker_kept(const StasisRam *ram, guint64 token);
/* Leave the process as it was found: drop tracking that was kept, and what a killed process of ours
 * left behind. */
gboolean stasis_tracker_sweep(pid_t pid, GError **error);

/* By name ("kvm-log", "uffd-async", "uffd-sync"), or the best for @ram and @need_sync where @name
 * is NULL or "auto". STASIS_ERROR_UNSUPPORTED when the kernel can't, or not for @ram. */
const StasisTrackerOps *stasis_tracker_choose(const StasisRam *ram, const char *name,
                                              gboolean need_sync, GError **error);

/* One line why the stop's share of a scan grows with RAM on this host under kvm-log, or NULL. */
const char *stasis_kvm_log_why_slow(void);
/* May shared memory be put in huge pages, by what the kernel says in @directory (its
 * transparent_hugepage in sysfs)? */
gboolean stasis_kvm_log_may_be_huge(const char *directory);

extern const StasisTrackerOps stasis_tracker_kvm_log;
extern const StasisTrackerOps stasis_tracker_uffd_async;
extern const StasisTrackerOps stasis_tracker_uffd_sync;

G_END_DECLS
