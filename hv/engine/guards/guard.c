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
#include <errno.h>
#include <poll.h>
#include <stasis/error.h>
#include <stasis/guard.h>
#include <stasis/maintenance.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/io.h"
#include "engine/guards/bundle-place.h"
#include "engine/guards/bundle-prune.h"
#include "engine/guards/kept.h"
#include "engine/guards/memory-store.h"
#include "engine/guards/ring.h"
#include "engine/guards/watch-console.h"
#include "engine/guards/watch.h"
#include "engine/rollback/rollback-internal.h"
#include "engine/rollback/rollback-mark.h"
#include "engine/transactions/undo.h"
#include "store/image.h"

#define NOTE "guard"
#define WAIT_MS 10000
#define DEFAULT_EVERY_US 500000u
#define DEFAULT_KEEP 10u
#define DEFAULT_TRIES 3u
#define DEFAULT_SKIPS 20u
/* A VM that lives so long is well again. */
#define WELL_US 10000000u
#define FIRST_PAUSE_US 100000u
#define MAX_PAUSE_US 10000000u
#define ENDING_US 2000000u
/* Until a bundle is tried again for the first time. */
#define AGAIN_US 1000000u
#define CONSOLE_BYTES ((gsize)4 << 20)

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
    StasisWatch *watch;
    guint n_tries;
    guint n_skipped; /* images on end that could not be taken */
    guint64 back_us; /* when the VM was last taken back; 0: never */
    GPtrArray *bundles;
    StasisKept kept;
    gboolean
        keep_ring; /* it is all that is left of a failure, or the VM is half rolled back to it */
    StasisGuardResult *result;
    GCancellable *cancellable;
} Guard;

/* What a bundle has beside the ring; NULL: nothing. */
typedef struct {
    GBytes *console, *events;
} Evidence;

static void evidence_clear(Evidence *evidence)
{
    g_clear_pointer(&evidence->console, g_bytes_unref);
    g_clear_pointer(&evidence->events, g_bytes_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Evidence, evidence_clear)

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

static void tell(const Guard *guard, const StasisGuardEvent *event)
{
    if (guard->options->func != NULL)
        guard->options->func(event, guard->options->func_data);
}

static gboolean is_cancelled(const Guard *guard)
{
    return guard->cancellable != NULL && g_cancellable_is_cancelled(guard->cancellable);
}

/* ---- beginning and ending ---- */

static void stop_watching(Guard *guard)
{
    g_clear_pointer(&guard->watch, stasis_watch_free);
    if (guard->ring != NULL)
        stasis_ring_stop(guard->ring);
}

static const char *const *words(const Guard *guard)
{
    static const char *const fallback[] = { "panic", "watchdog", "crash", NULL };
    return guard->options->on != NULL ? guard->options->on : fallback;
}

static gboolean start_watching(Guard *guard, GError **error)
{
    const char *const *on = words(guard);
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
    if (guard->watch != NULL)
        stasis_watch_follow_end(guard->watch);
    return guard->watch != NULL;
}

static void guard_clear(Guard *guard)
{
    StasisSession *session = guard->ring != NULL ? stasis_ring_get_session(guard->ring) : NULL;
    if (session != NULL)
        stasis_watch_keep_ended(session->qmp, session->record, STASIS_KEEP_NONE);
    stop_watching(guard);
    if (guard->store != NULL && !guard->keep_ring)
        stasis_memory_prune(guard->store, guard->name, NOTE, 0, NULL);
    if (guard->memory != NULL)
        stasis_memory_close(guard->memory, guard->in_memory && !guard->keep_ring);
    g_clear_pointer(&guard->store, stasis_store_unref);
    g_clear_pointer(&guard->uri, g_free);
    g_clear_pointer(&guard->ring, stasis_ring_free);
    g_clear_pointer(&guard->bundles, g_ptr_array_unref);
    stasis_kept_clear(&guard->kept);
    g_clear_pointer(&guard->result, stasis_guard_result_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Guard, guard_clear)

/* ---- the ring ---- */

static gboolean take_image(Guard *guard, GError **error)
{
    const StasisImageInfo *image = stasis_ring_take(guard->ring, guard->cancellable, error);
    if (image == NULL)
        return FALSE;
    guard->n_skipped = 0;
    guard->result->n_images++;
    StasisGuardEvent event = { .what = "image", .image = image };
    tell(guard, &event);
    return TRUE;
}

/* The guest noticed nothing of an image that it outran, and is guarded by those from before.
 * Without one for too long it is not, and somebody has to know. Takes @why. */
static gboolean leave_out(Guard *guard, GError *why, GError **error)
{
    StasisGuardEvent event = { .what = "skipped", .reason = why, .n_skipped = ++guard->n_skipped };
    guard->result->n_skipped++;
    tell(guard, &event);
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

static const char *bundle_dir(const Guard *guard)
{
    return guard->options->dir != NULL ? guard->options->dir : ".";
}

static char *bundle_name(const Guard *guard, const StasisFailure *failure)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_local();
    g_autofree char *time = g_date_time_format(now, "%Y%m%d-%H%M%S");
    return g_strdup_printf("%s-%s-%s-%03d.bundle", guard->name, failure->kind, time,
                           g_date_time_get_microsecond(now) / 1000);
}

/* What there is of a failure but the ring. The VM as it is now belongs to that, if there is still
 * one. */
static void gather(Guard *guard, Evidence *evidence)
{
    StasisRecord *record = stasis_ring_get_session(guard->ring)->record;
    StasisEventLog *log = stasis_watch_get_log(guard->watch);
    if (!guard->options->capture)
        return;
    stasis_ring_begin_bundle(guard->ring, bundle_dir(guard));
    if (stasis_record_is_alive(record)) {
        g_autoptr(GError) local = NULL;
        if (!take_image(guard, &local))
            stasis_event_log_note(log, "no last image", local->message);
    }
    evidence->console = stasis_watch_read_console(record, CONSOLE_BYTES);
    evidence->events = stasis_event_log_get(log);
}

/* By whom a bundle may be removed again. */
static const char *bundle_mark(const Guard *guard)
{
    return guard->options->by_policy ? "policy" : guard->options->max_bundles > 0 ? "guard" : NULL;
}

/* Those that are too many, when one has come. @newest: that one, whatever the clock says; NULL: it
 * is of an earlier failure. */
static void prune_bundles(Guard *guard, const char *newest)
{
    g_auto(GStrv) removed = NULL;
    g_autoptr(GError) why = NULL;
    StasisGuardEvent event = { .what = "bundle-removed" };
    guint at;
    if (!guard->options->capture || guard->options->max_bundles == 0)
        return;
    stasis_bundle_prune(bundle_dir(guard), bundle_mark(guard), guard->name,
                        guard->options->max_bundles, newest, &removed, &why);
    for (char **path = removed; *path != NULL; path++) {
        guard->result->n_removed++;
        event.path = *path;
        tell(guard, &event);
        if (g_ptr_array_find_with_equal_func(guard->bundles, *path, g_str_equal, &at))
            g_ptr_array_remove_index(guard->bundles, at);
    }
    if (why == NULL)
        return;
    event.path = NULL;
    event.reason = why;
    tell(guard, &event);
}

static gboolean write_bundle(Guard *guard, const StasisFailure *failure, const Evidence *evidence,
                             const char *path, GError **error)
{
    g_autofree char *name = g_path_get_basename(path);
    StasisBundleOptions options = STASIS_BUNDLE_OPTIONS_INIT;
    options.kind = failure->kind;
    options.detail = failure->detail;
    options.at_us = failure->since_us;
    options.domain = guard->name;
    options.command = guard->options->command;
    options.console = evidence->console;
    options.events = evidence->events;
    options.on = words(guard);
    options.by = bundle_mark(guard);
    options.name = name;
    return stasis_ring_bundle(guard->ring, path, &options, NULL, error);
}

/* Takes @path. It is durable, so older ones may go. @failure NULL: of an earlier one, kept till
 * now. */
static void tell_captured(Guard *guard, const StasisFailure *failure, char *path, guint64 seen_us)
{
    g_autofree char *name = g_path_get_basename(path);
    StasisGuardEvent event = { .what = "captured",
                               .failure = failure,
                               .path = path,
                               .took_us = seen_us != 0 ? stasis_now_us() - seen_us : 0 };
    tell(guard, &event);
    g_ptr_array_add(guard->bundles, path);
    prune_bundles(guard, failure != NULL ? name : NULL);
}

static void tell_failed(Guard *guard, const StasisFailure *failure, const GError *why,
                        const char *path, guint n_tries)
{
    StasisGuardEvent event = {
        .what = "bundle-failed", .failure = failure, .reason = why, .path = path, .n_tries = n_tries
    };
    tell(guard, &event);
}

/* The first that could not be written is kept, for as long as it has to be. */
static gboolean keep(Guard *guard, const StasisFailure *failure, const Evidence *evidence,
                     const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(guard->memory->dir, name, NULL);
    if (guard->kept.path != NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "%s is kept there still",
                    guard->kept.path);
        return FALSE;
    }
    if (!write_bundle(guard, failure, evidence, path, error))
        return FALSE;
    guard->kept.path = g_steal_pointer(&path);
    return TRUE;
}

/* To where it was to go. */
static gboolean move_kept(Guard *guard, GError **error)
{
    g_autoptr(GError) local = NULL;
    guint64 seen_us = guard->kept.seen_us;
    char *path = NULL;
    if (!stasis_kept_move(&guard->kept, bundle_dir(guard), &path, &local)) {
        tell_failed(guard, NULL, local, guard->kept.path, guard->kept.n_failed);
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    if (path != NULL)
        tell_captured(guard, NULL, path, seen_us);
    return TRUE;
}

/* FALSE: nothing has it but the ring. */
static gboolean capture(Guard *guard, const StasisFailure *failure, const Evidence *evidence,
                        guint64 seen_us, GError **error)
{
    if (!guard->options->capture)
        return TRUE;
    g_autoptr(GError) why = NULL, kept = NULL;
    g_autofree char *name = bundle_name(guard, failure);
    g_autofree char *path = g_build_filename(bundle_dir(guard), name, NULL);
    if (write_bundle(guard, failure, evidence, path, &why)) {
        tell_captured(guard, failure, g_steal_pointer(&path), seen_us);
        guard->kept.next_us = 0;
        return TRUE;
    }
    if (keep(guard, failure, evidence, name, &kept)) {
        guard->kept.seen_us = seen_us;
        guard->kept.n_failed = 1;
        guard->kept.next_us = stasis_now_us() + AGAIN_US;
        tell_failed(guard, failure, why, guard->kept.path, 1);
        return TRUE;
    }
    g_prefix_error(&why, "not in memory either (%s): ", kept->message);
    tell_failed(guard, failure, why, NULL, 1);
    g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

/* The images are all that there is of it: they stay until the next guard or transaction of the VM.
 * *@error says so, unless there is something worse in it already. */
static void keep_ring(Guard *guard, const GError *lost, GError **error)
{
    guard->keep_ring = TRUE;
    if (*error != NULL)
        return;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "the bundle could not be written (%s); its images are in the store %s until the "
                "next guard or try of VM %s: `stasis bundle-export FILE ID… --store` of it makes a "
                "bundle of them",
                lost->message, stasis_store_get_path(guard->store), guard->name);
}

/* Something that comes back each time is not helped by being quick. */
static void pause_before(const Guard *guard)
{
    if (guard->n_tries < 2)
        return;
    guint64 pause_us = MIN((guint64)FIRST_PAUSE_US << MIN(guard->n_tries - 2, 16u), MAX_PAUSE_US);
    guint64 until = stasis_now_us() + pause_us;
    while (!is_cancelled(guard) && stasis_now_us() < until)
        g_usleep(10000);
}

/* By what the ring knows of the VM; it does not hold it any more then. NULL when that can't be:
 * whoever gets ready again says why, or finds that QEMU has ended. */
static StasisRollback *get_ready(Guard *guard, const char *image)
{
    StasisRollbackOptions options = STASIS_ROLLBACK_OPTIONS_INIT;
    options.force = TRUE;
    StasisHeldFlags flags = STASIS_HELD_FAILED | STASIS_HELD_SWEPT;
    if (guard->in_memory && stasis_memory_is_ram(guard->memory))
        flags |= STASIS_HELD_TRUSTED;
    return stasis_rollback_prepare_held(stasis_ring_release(guard->ring), guard->store, image,
                                        flags, &options, NULL, NULL);
}

/* To the image from before, which is returned: the ring still has what came after it. */
static const StasisImageInfo *go_back(Guard *guard, const StasisFailure *failure, guint64 seen_us,
                                      GError **error)
{
    const StasisImageInfo *image =
        stasis_ring_find_before(guard->ring, failure->since_us, guard->n_tries - 1);
    gboolean restart = guard->options->then == STASIS_GUARD_RESTART;
    if (image == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "VM %s failed (%s) before there was an image", guard->name, failure->kind);
        return NULL;
    }
    g_clear_pointer(&guard->watch, stasis_watch_free);
    pause_before(guard);
    StasisRollback *ready = restart ? NULL : get_ready(guard, image->id);
    stop_watching(guard);
    g_autoptr(StasisUndone) undone =
        stasis_undo(guard->name, guard->uri, ready, guard->store, image->id, restart, NULL, error);
    if (undone == NULL)
        return NULL;
    guard->back_us = stasis_now_us();
    StasisGuardEvent event = { .what = undone->restarted ? "restarted" : "rolled-back",
                               .failure = failure,
                               .id = image->id,
                               .undone = undone,
                               .n_tries = guard->n_tries,
                               .took_us = guard->back_us - seen_us };
    if (undone->restarted)
        guard->result->n_restarts++;
    else
        guard->result->n_rollbacks++;
    tell(guard, &event);
    return image;
}

/* Is it to be taken back? */
static gboolean may_go_back(Guard *guard, const StasisFailure *failure, guint64 seen_us)
{
    if (guard->options->then == STASIS_GUARD_END)
        return FALSE;
    gboolean was_well = guard->back_us == 0 || seen_us - guard->back_us > WELL_US;
    guard->n_tries = was_well ? 1 : guard->n_tries + 1;
    guard->result->gave_up = guard->n_tries > guard->max_tries;
    return !guard->result->gave_up;
}

/* It was left in the middle of going back: whoever completes that needs the image. */
static gboolean is_half_back(const Guard *guard)
{
    g_autoptr(StasisRollbackMark) mark = stasis_rollback_mark_get(guard->name);
    return mark != NULL;
}

/* With each failure on end one image older. Service comes first: the bundle is written when the VM
 * runs again. *ret_on: it is guarded further. */
static gboolean handle(Guard *guard, StasisFailure *failure, gboolean *ret_on, GError **error)
{
    guint64 seen_us = stasis_now_us();
    StasisGuardEvent event = { .what = "failure", .failure = failure };
    g_clear_pointer(&guard->result->last, stasis_failure_free);
    guard->result->last = failure;
    guard->result->n_failures++;
    tell(guard, &event);
    g_auto(Evidence) evidence = { NULL };
    g_autoptr(GError) local = NULL, lost = NULL;
    gather(guard, &evidence);
    *ret_on = may_go_back(guard, failure, seen_us);
    const StasisImageInfo *image = *ret_on ? go_back(guard, failure, seen_us, &local) : NULL;
    if (!capture(guard, failure, &evidence, seen_us, &lost) && (!*ret_on || local != NULL))
        keep_ring(guard, lost, &local);
    if (local != NULL) {
        guard->keep_ring |= is_half_back(guard);
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    if (guard->result->gave_up) {
        event.what = "gave-up";
        tell(guard, &event);
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
static StasisFailure *look_again(Guard *guard)
{
    return stasis_watch_wait(guard->watch, stasis_now_us() + ENDING_US, -1, NULL);
}

/* It has been shut down: nothing is left to guard. */
static gboolean has_ended(Guard *guard)
{
    const char *end = stasis_watch_get_end(guard->watch);
    if (end == NULL)
        return FALSE;
    StasisGuardEvent event = { .what = "ended", .detail = end };
    tell(guard, &event);
    guard->result->ended = g_strdup(end);
    return TRUE;
}

/* The next of the ring, unless *ret_failure is why there is none. */
static gboolean take_next(Guard *guard, StasisFailure **ret_failure, GError **error)
{
    g_autoptr(GError) local = NULL;
    if (take_image(guard, &local))
        return TRUE;
    if (stasis_ring_may_skip(local))
        return leave_out(guard, g_steal_pointer(&local), error);
    *ret_failure = is_cancelled(guard) ? NULL : look_again(guard);
    if (*ret_failure != NULL || is_cancelled(guard) || stasis_watch_get_end(guard->watch) != NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

static gboolean loop(Guard *guard, GError **error)
{
    guint64 next_us = stasis_now_us();
    while (!is_cancelled(guard)) {
        StasisFailure *failure = stasis_watch_wait(guard->watch, next_us, -1, guard->cancellable);
        if (failure == NULL && (is_cancelled(guard) || has_ended(guard)))
            break;
        if (failure == NULL && !take_next(guard, &failure, error))
            return FALSE;
        gboolean on = TRUE;
        if (failure != NULL && !handle(guard, failure, &on, error))
            return FALSE;
        if (!on)
            break;
        /* Late for one is no reason to be early for the next. */
        guint64 now = stasis_now_us();
        next_us = failure != NULL || now > next_us + guard->every_us ? now + guard->every_us
                                                                     : next_us + guard->every_us;
        if (guard->options->capture && stasis_kept_is_due(&guard->kept))
            move_kept(guard, NULL);
    }
    return TRUE;
}

/* For bundles. A directory that is not there is a mistake; one that can't be written to now may be
 * different when there is a failure. */
static gboolean find_place(Guard *guard, GError **error)
{
    if (!guard->options->capture)
        return TRUE;
    if (!g_file_test(bundle_dir(guard), G_FILE_TEST_IS_DIR))
        return stasis_set_errno(error, ENOENT, "the directory for bundles, %s", bundle_dir(guard));
    stasis_bundle_sweep(bundle_dir(guard));
    guard->kept.path = stasis_kept_find(guard->memory->dir);
    return TRUE;
}

/* What is in memory alone is tried once more. */
static void end(Guard *guard)
{
    if (!guard->options->capture || guard->kept.path == NULL)
        return;
    g_autoptr(GError) why = NULL;
    if (move_kept(guard, &why))
        return;
    guard->result->kept = g_steal_pointer(&guard->kept.path);
    guard->result->kept_error = g_strdup(why->message);
}

static gboolean begin(Guard *guard, StasisStore *store, GError **error)
{
    if (guard->options->on != NULL && !stasis_watch_check(guard->options->on, error))
        return FALSE;
    guard->memory = stasis_memory_open(guard->name, "a guard", WAIT_MS, error);
    if (guard->memory == NULL || !find_place(guard, error))
        return FALSE;
    /* Whoever completes that needs its image, which may be of the guard before. */
    guard->keep_ring = is_half_back(guard);
    if (!stasis_rollback_check_whole(guard->name, error))
        return FALSE;
    guard->in_memory = store == NULL;
    guard->store =
        store != NULL ? stasis_store_ref(store) : stasis_memory_get_store(guard->memory, error);
    if (guard->store == NULL || !stasis_memory_prune(guard->store, guard->name, NOTE, 1, error))
        return FALSE;
    guint keep = guard->options->keep != 0 ? guard->options->keep : DEFAULT_KEEP;
    guard->ring = stasis_ring_new(guard->store, guard->name, NOTE, keep);
    if (!start_watching(guard, error))
        return FALSE;
    StasisGuardEvent event = { .what = "armed" };
    tell(guard, &event);
    return TRUE;
}

StasisGuardResult *stasis_guard_run(StasisVm *vm, StasisStore *store,
                                    const StasisGuardOptions *options, GCancellable *cancellable,
                                    GError **error)
{
    g_auto(Guard) guard = {
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
    end(&guard);
    if (!ok)
        return NULL;
    g_ptr_array_add(guard.bundles, NULL);
    guard.result->bundles = (char **)g_ptr_array_steal(guard.bundles, NULL);
    return g_steal_pointer(&guard.result);
}
