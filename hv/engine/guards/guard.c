/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 *     hold the VM's directory in memory
 *     begin: series of checkpoints (holds the VM), watch over its monitor
 *     until it is time for an image   watch
 *     image, into the ring; what is too old is folded into its heir; or none, if the guest writes
 *                too much for one, as long as that does not go on and on
 *     an end of QEMU that was asked for: that is all
 *     a failure: for a capture one more image; end the series and the watch; take the VM back;
 *                the ring becomes a bundle; begin again
 *
 * A bundle that can't be put where it was to go is kept in memory (kept.c) and moved there when
 * that can be, by us or by the next guard of the VM; guarding goes on meanwhile.
 *
 * Killed, it leaves the VM running and the ring in memory, which the next guard or transaction of
 * the VM takes over, and which goes with the VM.
 */
#include <stasis/error.h>
#include <stasis/maintenance.h>

#include "base/clock.h"
#include "base/options.h"
#include "engine/devices/device-load.h"
#include "engine/guards/guard-internal.h"
#include "engine/guards/made.h"
#include "engine/guards/watch-console.h"
#include "engine/rollback/rollback-mark.h"
#include "store/image.h"

#define NOTE "guard"
#define WAIT_MS 10000
#define DEFAULT_EVERY_US 500000u
#define DEFAULT_KEEP 10u
#define DEFAULT_TRIES 3u
#define DEFAULT_SKIPS 20u
#define ENDING_US 2000000u
#define CONSOLE_BYTES ((gsize)4 << 20)

void stasis_guard_result_free(StasisGuardResult *result)
{
    if (result == NULL)
        return;
    g_clear_pointer(&result->last, stasis_failure_free);
    g_strfreev(result->bundles);
    g_free(result->ended);
    g_free(result->kept);
    g_free(result->kept_error);
    g_free(result);
}

void stasis_guard_tell(const StasisGuard *guard, const StasisGuardEvent *event)
{
    if (guard->options->func != NULL)
        guard->options->func(event, guard->options->func_data);
}

gboolean stasis_guard_is_cancelled(const StasisGuard *guard)
{
    return guard->cancellable != NULL && g_cancellable_is_cancelled(guard->cancellable);
}

/* ---- beginning and ending ---- */

static void stop_watching(StasisGuard *guard)
{
    g_clear_pointer(&guard->watch, stasis_watch_free);
    if (guard->ring != NULL)
        stasis_ring_stop(guard->ring);
}

const char *const *stasis_guard_get_words(const StasisGuard *guard)
{
    static const char *const fallback[] = { "panic", "watchdog", "crash", NULL };
    return guard->options->on != NULL ? guard->options->on : fallback;
}

static gboolean start_watching(StasisGuard *guard, GError **error)
{
    const char *const *on = stasis_guard_get_words(guard);
    if (!stasis_ring_start(guard->ring, guard->vm, guard->options->disks, guard->cancellable,
                           error))
        return FALSE;
    StasisSession *session = stasis_ring_get_session(guard->ring);
    g_free(guard->uri);
    guard->uri = g_strdup(session->record->uri);
    /* What is to end without us is not kept from it. */
    stasis_watch_keep_ended(session->qmp, session->record,
                            stasis_watch_has(on, "exit") ? STASIS_KEEP_ALL : STASIS_KEEP_PANICKED);
    if (!stasis_device_load_sweep(session->qmp, error))
        return FALSE;
    guard->watch =
        stasis_watch_new(session->record, session->qmp, on, /* whole_console= */ FALSE, error);
    if (guard->watch == NULL)
        return FALSE;
    stasis_watch_follow_end(guard->watch);
    if (guard->armed_us == 0)
        guard->armed_us = g_get_real_time();
    return TRUE;
}

/* QEMU does at its end what it would have done. After a rollback that failed the VM is not held. */
static void let_end(StasisGuard *guard)
{
    g_autoptr(StasisSession) opened = NULL;
    StasisSession *session = guard->ring != NULL ? stasis_ring_get_session(guard->ring) : NULL;
    if (session == NULL && guard->armed_us != 0)
        session = opened = stasis_session_open(guard->name, STASIS_LOCK_WAIT_MS, NULL);
    if (session != NULL)
        stasis_watch_keep_ended(session->qmp, session->record, STASIS_KEEP_NONE);
}

static void guard_clear(StasisGuard *guard)
{
    let_end(guard);
    stop_watching(guard);
    if (guard->store != NULL && !guard->keep_ring)
        stasis_made_prune(guard->memory, guard->store, guard->name, NOTE, 0, NULL);
    if (guard->memory != NULL)
        stasis_memory_close(guard->memory, guard->in_memory && !guard->keep_ring);
    g_clear_pointer(&guard->store, stasis_store_unref);
    g_clear_pointer(&guard->uri, g_free);
    g_clear_pointer(&guard->ring, stasis_ring_free);
    g_clear_pointer(&guard->bundles, g_ptr_array_unref);
    stasis_kept_clear(&guard->kept);
    g_clear_pointer(&guard->result, stasis_guard_result_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(StasisGuard, guard_clear)

/* ---- the ring ---- */

static gboolean take_image(StasisGuard *guard, GError **error)
{
    const StasisImageInfo *image = stasis_ring_take(guard->ring, guard->cancellable, error);
    if (image == NULL)
        return FALSE;
    guard->n_skipped = 0;
    guard->result->n_images++;
    StasisGuardEvent event = { .what = "image", .image = image };
    stasis_guard_tell(guard, &event);
    return TRUE;
}

/* The guest noticed nothing of an image that it outran, and is guarded by those from before.
 * Without one for too long it is not, and somebody has to know. Takes @why. */
static gboolean leave_out(StasisGuard *guard, GError *why, GError **error)
{
    StasisGuardEvent event = { .what = "skipped", .reason = why, .n_skipped = ++guard->n_skipped };
    guard->result->n_skipped++;
    stasis_guard_tell(guard, &event);
    if (guard->n_skipped < guard->max_skips) {
        g_error_free(why);
        return TRUE;
    }
    g_propagate_prefixed_error(
        error, why, "VM %s is not guarded: %u images on end could not be taken: ", guard->name,
        guard->n_skipped);
    return FALSE;
}

/* ---- a failure ---- */

/* What there is of a failure but the ring. The VM as it is now belongs to that, if there is still
 * one. */
static void gather(StasisGuard *guard, StasisGuardEvidence *evidence)
{
    StasisRecord *record = stasis_ring_get_session(guard->ring)->record;
    StasisEventLog *log = stasis_watch_get_log(guard->watch);
    if (!guard->options->capture)
        return;
    stasis_ring_begin_bundle(guard->ring, stasis_guard_bundle_dir(guard));
    if (stasis_record_is_alive(record)) {
        g_autoptr(GError) local = NULL;
        if (!take_image(guard, &local))
            stasis_event_log_note(log, "no last image", local->message);
    }
    evidence->console = stasis_watch_read_console(record, CONSOLE_BYTES);
    evidence->events = stasis_event_log_get(log);
}

/* With each failure on end one image older. Service comes first: the bundle is written when the VM
 * runs again. *ret_on: it is guarded further. */
static gboolean handle(StasisGuard *guard, StasisFailure *failure, gboolean *ret_on, GError **error)
{
    guint64 seen_us = stasis_now_us();
    StasisGuardEvent event = { .what = "failure", .failure = failure };
    StasisRecord failed = { .pid = stasis_ring_get_session(guard->ring)->record->pid,
                            .start_time =
                                stasis_ring_get_session(guard->ring)->record->start_time };
    g_clear_pointer(&guard->result->last, stasis_failure_free);
    guard->result->last = failure;
    guard->result->n_failures++;
    stasis_guard_tell(guard, &event);
    g_auto(StasisGuardEvidence) evidence = { NULL };
    g_autoptr(GError) local = NULL, lost = NULL;
    gather(guard, &evidence);
    *ret_on = stasis_guard_back_may(guard, seen_us);
    const StasisImageInfo *image =
        *ret_on ? stasis_guard_back_go(guard, failure, seen_us, &local) : NULL;
    gboolean captured = stasis_guard_bundle_capture(guard, failure, &evidence, seen_us, &lost);
    if (!captured && (!*ret_on || local != NULL))
        stasis_guard_bundle_keep_ring(guard, lost, &local);
    if (image != NULL)
        stasis_guard_left_forget(guard);
    else if (captured)
        stasis_guard_left_note(guard, &failed, failure);
    if (local != NULL) {
        guard->keep_ring |= stasis_guard_back_is_half(guard);
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    if (guard->result->gave_up) {
        event.what = "gave-up";
        stasis_guard_tell(guard, &event);
    }
    if (image == NULL)
        return TRUE;
    stasis_ring_forget_after(guard->ring, image);
    return start_watching(guard, error);
}

/* ---- together ---- */

/* An image could not be taken: QEMU may be ending (its sockets close before it is gone), and
 * whoever watches for that sees it; or the VM has failed in a way that is seen now. Else that is an
 * error. */
static StasisFailure *look_again(StasisGuard *guard)
{
    return stasis_watch_wait(guard->watch, stasis_now_us() + ENDING_US, -1, NULL);
}

/* It has been shut down: nothing is left to guard. */
static gboolean has_ended(StasisGuard *guard)
{
    const char *end = stasis_watch_get_end(guard->watch);
    if (end == NULL)
        return FALSE;
    StasisGuardEvent event = { .what = "ended", .detail = end };
    stasis_guard_tell(guard, &event);
    guard->result->ended = g_strdup(end);
    return TRUE;
}

/* The next of the ring, unless *ret_failure is why there is none. */
static gboolean take_next(StasisGuard *guard, StasisFailure **ret_failure, GError **error)
{
    g_autoptr(GError) local = NULL;
    if (take_image(guard, &local))
        return TRUE;
    if (stasis_ring_may_skip(local))
        return leave_out(guard, g_steal_pointer(&local), error);
    *ret_failure = stasis_guard_is_cancelled(guard) ? NULL : look_again(guard);
    if (*ret_failure != NULL || stasis_guard_is_cancelled(guard) ||
        stasis_watch_get_end(guard->watch) != NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

static gboolean loop(StasisGuard *guard, GError **error)
{
    guint64 next_us = stasis_now_us();
    while (!stasis_guard_is_cancelled(guard)) {
        StasisFailure *failure = stasis_watch_wait(guard->watch, next_us, -1, guard->cancellable);
        if (failure == NULL && (stasis_guard_is_cancelled(guard) || has_ended(guard)))
            break;
        if (failure == NULL && !take_next(guard, &failure, error))
            return FALSE;
        gboolean on = TRUE;
        if (failure != NULL && !stasis_guard_left_check(guard, failure, error)) {
            stasis_failure_free(failure);
            return FALSE;
        }
        if (failure != NULL && !handle(guard, failure, &on, error))
            return FALSE;
        if (!on)
            break;
        /* Late for one is no reason to be early for the next. */
        guint64 now = stasis_now_us();
        next_us = failure != NULL || now > next_us + guard->every_us ? now + guard->every_us
                                                                     : next_us + guard->every_us;
        stasis_guard_bundle_try_kept(guard);
    }
    return TRUE;
}

static gboolean begin(StasisGuard *guard, StasisStore *store, GError **error)
{
    if (guard->options->on != NULL && !stasis_watch_check(guard->options->on, error))
        return FALSE;
    guard->memory = stasis_memory_open(guard->name, "a guard", WAIT_MS, error);
    if (guard->memory == NULL || !stasis_guard_bundle_find_place(guard, error))
        return FALSE;
    /* Whoever completes that needs its image, which may be of the guard before. */
    guard->keep_ring = stasis_guard_back_is_half(guard);
    if (!stasis_rollback_check_whole(guard->name, error))
        return FALSE;
    guard->in_memory = store == NULL;
    guard->store =
        store != NULL ? stasis_store_ref(store) : stasis_memory_get_store(guard->memory, error);
    if (guard->store == NULL ||
        !stasis_made_prune(guard->memory, guard->store, guard->name, NOTE, 1, error))
        return FALSE;
    guint keep = guard->options->keep != 0 ? guard->options->keep : DEFAULT_KEEP;
    guard->ring = stasis_ring_new(guard->store, guard->memory, guard->name, NOTE, keep);
    if (!start_watching(guard, error))
        return FALSE;
    StasisGuardEvent event = { .what = "armed" };
    stasis_guard_tell(guard, &event);
    return TRUE;
}

StasisGuardResult *stasis_guard_run(StasisVm *vm, StasisStore *store,
                                    const StasisGuardOptions *given, GCancellable *cancellable,
                                    GError **error)
{
    StasisGuardOptions own = STASIS_GUARD_OPTIONS_INIT;
    const StasisGuardOptions *options = stasis_own_options(&own, given, sizeof own);
    g_auto(StasisGuard) guard = {
        .vm = vm,
        .name = stasis_vm_get_name(vm),
        .options = options,
        .every_us = options->every_us != 0 ? options->every_us : DEFAULT_EVERY_US,
        .max_tries = options->max_tries != 0 ? options->max_tries : DEFAULT_TRIES,
        .max_skips = options->max_skips != 0 ? options->max_skips : DEFAULT_SKIPS,
        .bundles = g_ptr_array_new_with_free_func(g_free),
        .result = g_new0(StasisGuardResult, 1),
        .cancellable = cancellable,
    };
    gboolean ok = begin(&guard, store, error) && loop(&guard, error);
    stasis_guard_bundle_end(&guard);
    if (!ok)
        return NULL;
    g_ptr_array_add(guard.bundles, NULL);
    guard.result->bundles = (char **)g_ptr_array_steal(guard.bundles, NULL);
    return g_steal_pointer(&guard.result);
}
