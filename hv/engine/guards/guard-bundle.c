/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Of a failure a file is left (bundle-create.c, by the ring), under a name that tells which VM's,
 * why and when. Where it can't go there, it is kept in memory and moved later (kept.c). Once it is
 * durable older ones of the same writer may go (bundle-prune.c).
 */
#include <errno.h>
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/io.h"
#include "engine/guards/bundle-place.h"
#include "engine/guards/bundle-prune.h"
#include "engine/guards/guard-internal.h"

/* Until a bundle is tried again for the first time. */
#define AGAIN_US 1000000u

/* ---- where, and under what name ---- */

const char *stasis_guard_bundle_dir(const StasisGuard *guard)
{
    return guard->options->dir != NULL ? guard->options->dir : ".";
}

/* For bundles. A directory that is not there is a mistake; one that can't be written to now may be
 * different when there is a failure. */
gboolean stasis_guard_bundle_find_place(StasisGuard *guard, GError **error)
{
    if (!guard->options->capture)
        return TRUE;
    if (!g_file_test(stasis_guard_bundle_dir(guard), G_FILE_TEST_IS_DIR))
        return stasis_set_errno(error, ENOENT, "the directory for bundles, %s",
                                stasis_guard_bundle_dir(guard));
    stasis_bundle_sweep(stasis_guard_bundle_dir(guard));
    guard->kept.path = stasis_kept_find(guard->memory->dir);
    return TRUE;
}

static char *bundle_name(const StasisGuard *guard, const StasisFailure *failure)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_local();
    g_autofree char *time = g_date_time_format(now, "%Y%m%d-%H%M%S");
    return g_strdup_printf("%s-%s-%s-%03d.bundle", guard->name, failure->kind, time,
                           g_date_time_get_microsecond(now) / 1000);
}

/* ---- those that are there ---- */

/* By whom a bundle may be removed again. */
static const char *bundle_mark(const StasisGuard *guard)
{
    return guard->options->by_policy ? "policy" : guard->options->max_bundles > 0 ? "guard" : NULL;
}

/* Those that are too many, when one has come. @newest: that one, whatever the clock says; NULL: it
 * is of an earlier failure. */
static void prune_bundles(StasisGuard *guard, const char *newest)
{
    g_auto(GStrv) removed = NULL;
    g_autoptr(GError) why = NULL;
    StasisGuardEvent event = { .what = "bundle-removed" };
    guint at;
    if (!guard->options->capture || guard->options->max_bundles == 0)
        return;
    stasis_bundle_prune(stasis_guard_bundle_dir(guard), bundle_mark(guard), guard->name,
                        guard->options->max_bundles, newest, &removed, &why);
    for (char **path = removed; *path != NULL; path++) {
        guard->result->n_removed++;
        event.path = *path;
        stasis_guard_tell(guard, &event);
        if (g_ptr_array_find_with_equal_func(guard->bundles, *path, g_str_equal, &at))
            g_ptr_array_remove_index(guard->bundles, at);
    }
    if (why == NULL)
        return;
    event.path = NULL;
    event.reason = why;
    stasis_guard_tell(guard, &event);
}

/* ---- one more ---- */

static gboolean write_bundle(StasisGuard *guard, const StasisFailure *failure,
                             const StasisGuardEvidence *evidence, const char *path, GError **error)
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
    options.on = stasis_guard_get_words(guard);
    options.by = bundle_mark(guard);
    options.name = name;
    return stasis_ring_bundle(guard->ring, path, &options, NULL, error);
}

/* Takes @path. It is durable, so older ones may go. @failure NULL: of an earlier one, kept till
 * now. */
static void tell_captured(StasisGuard *guard, const StasisFailure *failure, char *path,
                          guint64 seen_us)
{
    g_autofree char *name = g_path_get_basename(path);
    StasisGuardEvent event = { .what = "captured",
                               .failure = failure,
                               .path = path,
                               .took_us = seen_us != 0 ? stasis_now_us() - seen_us : 0 };
    stasis_guard_tell(guard, &event);
    g_ptr_array_add(guard->bundles, path);
    prune_bundles(guard, failure != NULL ? name : NULL);
}

static void tell_failed(StasisGuard *guard, const StasisFailure *failure, const GError *why,
                        const char *path, guint n_tries)
{
    StasisGuardEvent event = {
        .what = "bundle-failed", .failure = failure, .reason = why, .path = path, .n_tries = n_tries
    };
    stasis_guard_tell(guard, &event);
}

/* The first that could not be written is kept, for as long as it has to be. */
static gboolean keep(StasisGuard *guard, const StasisFailure *failure,
                     const StasisGuardEvidence *evidence, const char *name, GError **error)
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
static gboolean move_kept(StasisGuard *guard, GError **error)
{
    g_autoptr(GError) local = NULL;
    guint64 seen_us = guard->kept.seen_us;
    char *path = NULL;
    if (!stasis_kept_move(&guard->kept, stasis_guard_bundle_dir(guard), &path, &local)) {
        tell_failed(guard, NULL, local, guard->kept.path, guard->kept.n_failed);
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    if (path != NULL)
        tell_captured(guard, NULL, path, seen_us);
    return TRUE;
}

gboolean stasis_guard_bundle_capture(StasisGuard *guard, const StasisFailure *failure,
                                     const StasisGuardEvidence *evidence, guint64 seen_us,
                                     GError **error)
{
    if (!guard->options->capture)
        return TRUE;
    g_autoptr(GError) why = NULL, kept = NULL;
    g_autofree char *name = bundle_name(guard, failure);
    g_autofree char *path = g_build_filename(stasis_guard_bundle_dir(guard), name, NULL);
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

/* The images are all that there is of it. */
void stasis_guard_bundle_keep_ring(StasisGuard *guard, const GError *lost, GError **error)
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

void stasis_guard_bundle_try_kept(StasisGuard *guard)
{
    if (guard->options->capture && stasis_kept_is_due(&guard->kept))
        move_kept(guard, NULL);
}

void stasis_guard_bundle_end(StasisGuard *guard)
{
    if (!guard->options->capture || guard->kept.path == NULL)
        return;
    g_autoptr(GError) why = NULL;
    if (move_kept(guard, &why))
        return;
    guard->result->kept = g_steal_pointer(&guard->kept.path);
    guard->result->kept_error = g_strdup(why->message);
}

void stasis_guard_evidence_clear(StasisGuardEvidence *evidence)
{
    g_clear_pointer(&evidence->console, g_bytes_unref);
    g_clear_pointer(&evidence->events, g_bytes_unref);
}
