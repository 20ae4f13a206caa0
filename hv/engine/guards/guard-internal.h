/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of a guard share: guard.c watches and takes images, guard-bundle.c leaves a file
 * of a failure, guard-back.c has the VM go on from before it. One thread; what is `const` here is
 * the caller's of stasis_guard_run().
 */
#pragma once

#include <stasis/guard.h>

#include "engine/guards/kept.h"
#include "engine/guards/memory-store.h"
#include "engine/guards/ring.h"
#include "engine/guards/watch.h"

G_BEGIN_DECLS

typedef struct {
    StasisVm *vm;
    const char *name;
    char *uri; /* of its libvirtd, or NULL */
    const StasisGuardOptions *options;
    guint64 every_us;
    guint max_tries, max_skips;
    StasisMemory *memory;
    StasisStore *store;
    gboolean in_memory; /* it is the VM's own there */
    StasisRing *ring;
    StasisWatch *watch; /* NULL: not between a failure and the VM's going on */
    guint n_tries;
    guint n_skipped; /* images on end that could not be taken */
    guint64 back_us; /* when the VM was last taken back; 0: never */
    gint64 armed_us; /* Unix time: what began before was there when the guard was begun */
    GPtrArray *bundles;
    StasisKept kept;
    gboolean
        keep_ring; /* it is all that is left of a failure, or the VM is half rolled back to it */
    StasisGuardResult *result;
    GCancellable *cancellable;
} StasisGuard;

/* What a bundle has beside the ring; NULL: nothing. */
typedef struct {
    GBytes *console, *events;
} StasisGuardEvidence;

/* ---- guard.c ---- */

void stasis_guard_tell(const StasisGuard *guard, const StasisGuardEvent *event);
gboolean stasis_guard_is_cancelled(const StasisGuard *guard);
/* What it watches for. */
const char *const *stasis_guard_get_words(const StasisGuard *guard);

/* ---- guard-bundle.c; without options->capture nothing of it does anything ---- */

/* The directory for bundles. */
const char *stasis_guard_bundle_dir(const StasisGuard *guard);
/* See to that directory, and find a bundle that a guard before us has kept in memory. A directory
 * that is not there is an error; one that can't be written to is none yet. */
gboolean stasis_guard_bundle_find_place(StasisGuard *guard, GError **error);
/* Make a bundle of the ring and @evidence, there or in memory, and tell of it. @seen_us: when the
 * failure was seen (stasis_now_us()). FALSE: nothing has it but the ring. */
gboolean stasis_guard_bundle_capture(StasisGuard *guard, const StasisFailure *failure,
                                     const StasisGuardEvidence *evidence, guint64 seen_us,
                                     GError **error);
/* Leave the ring when we end, since a bundle was @lost. *@error says so, unless there is something
 * worse in it already. */
void stasis_guard_bundle_keep_ring(StasisGuard *guard, const GError *lost, GError **error);
/* Try again to put the one in memory where it was to go, if it is time to. */
void stasis_guard_bundle_try_kept(StasisGuard *guard);
/* … in any case, for the last time. Where it is then is said in the result. */
void stasis_guard_bundle_end(StasisGuard *guard);

void stasis_guard_evidence_clear(StasisGuardEvidence *evidence);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(StasisGuardEvidence, stasis_guard_evidence_clear)

/* ---- guard-back.c ---- */

/* Is the VM to be taken back? Counts the failures on end; says in the result when it gives up. */
gboolean stasis_guard_back_may(StasisGuard *guard, guint64 seen_us);
/* Take it back to an image from before @failure, which is returned and is the ring's: the ring
 * still has what came after it. Neither the watch nor the VM is held afterwards. */
const StasisImageInfo *stasis_guard_back_go(StasisGuard *guard, const StasisFailure *failure,
                                            guint64 seen_us, GError **error);
/* Was the VM left in the middle of going back? Whoever completes that needs the image. */
gboolean stasis_guard_back_is_half(const StasisGuard *guard);

/* ---- guard-left.c; of a guard that is no policy's nothing of it does anything ---- */

/* The VM, whose QEMU is @record's, stays as it is after @failure. */
void stasis_guard_left_note(StasisGuard *guard, const StasisRecord *record,
                            const StasisFailure *failure);
/* It does not any more. */
void stasis_guard_left_forget(StasisGuard *guard);
/* FALSE, STASIS_ERROR_FAILED: @failure was there when the guard was begun, and one before has left
 * that QEMU with a failure of that kind. */
gboolean stasis_guard_left_check(const StasisGuard *guard, const StasisFailure *failure,
                                 GError **error);

G_END_DECLS
