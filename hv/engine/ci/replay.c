/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Many runs, counted; the first image from which on all fail. */
#include <errno.h>
#include <stasis/error.h>
#include <stasis/replay.h>
#include <unistd.h>

#include "base/io.h"
#include "base/options.h"
#include "engine/ci/ci-record.h"
#include "engine/ci/replay-run.h"
#include "engine/ci/replay-tally.h"

#define LOOK_US 10000
#define DEFAULT_BISECT_TIMES 5
#define MAX_JOBS 256u

/* ---- many runs ---- */

typedef struct {
    const StasisReplaySource *source;
    const StasisReplayOptions *options;
    StasisReplay *replay;
    guint perturb;
    GCancellable *cancellable;
} Replaying;

static StasisReplayVm *start(const Replaying *r, guint index, GError **error)
{
    guint64 timeout_us = r->options->timeout_us != 0
                             ? r->options->timeout_us
                             : stasis_replay_source_timeout_us(r->source, index);
    g_autoptr(StasisReplayVm) vm =
        stasis_replay_vm_new(r->source, index, r->perturb, r->cancellable, error);
    if (vm == NULL)
        return NULL;
    stasis_replay_vm_set_output(vm, r->options->output, r->options->output_data);
    if (r->options->output_dir != NULL)
        stasis_replay_vm_keep_output(vm);
    if (!stasis_replay_vm_follow(vm, timeout_us, error) || !stasis_replay_vm_go(vm, error))
        return NULL;
    return g_steal_pointer(&vm);
}

/* What can't be written is not a reason to know nothing of all that ran, and will run. */
static void keep(const Replaying *r, guint index, guint run, StasisReplayVm *vm,
                 const StasisOutcome *outcome)
{
    const char *dir = r->options->output_dir;
    g_autoptr(GError) why = NULL;
    if (dir == NULL)
        return;
    g_autofree char *name = g_strdup_printf("image-%u-run-%u-%s", index + 1, run, outcome->name);
    g_strdelimit(name, " ", '-');
    g_autofree char *base = g_build_filename(dir, name, NULL);
    if (stasis_replay_vm_write(vm, base, &why))
        return;
    if (r->replay->n_unwritten++ == 0)
        r->replay->output_error = g_strdup(why->message);
}

/* Take down those that are over. */
static void reap(const Replaying *r, guint index, GPtrArray *vms, StasisReplayRuns *runs)
{
    for (guint i = vms->len; i-- > 0;) {
        StasisOutcome outcome;
        if (!stasis_replay_vm_look(g_ptr_array_index(vms, i), &outcome))
            continue;
        stasis_replay_count(r->replay, runs, &outcome);
        runs->n_pauses += stasis_replay_vm_get_n_pauses(g_ptr_array_index(vms, i));
        keep(r, index, runs->n_runs, g_ptr_array_index(vms, i), &outcome);
        g_ptr_array_remove_index_fast(vms, i);
        if (r->options->ran != NULL)
            r->options->ran(index, &outcome, r->options->ran_data);
    }
}

/* One could not be started: those that run are waited for, and more are not tried. */
static void leave_out(const Replaying *r, guint n, GError *why)
{
    r->replay->n_not_run += n;
    if (r->replay->not_run_error == NULL)
        r->replay->not_run_error = g_strdup(why->message);
}

/* @times runs from image @index, as many at once as wanted. FALSE only where none could be had. */
static gboolean run_all(const Replaying *r, guint index, guint times, StasisReplayRuns *runs,
                        GError **error)
{
    guint jobs = CLAMP(r->options->jobs, 1, MAX_JOBS), started = 0;
    g_autoptr(GPtrArray) vms =
        g_ptr_array_new_with_free_func((GDestroyNotify)stasis_replay_vm_free);
    g_autoptr(GError) why = NULL;
    while (started < times || vms->len > 0) {
        if (g_cancellable_is_cancelled(r->cancellable))
            return stasis_set_cancelled(error);
        if (started < times && vms->len < jobs) {
            StasisReplayVm *vm = start(r, index, &why);
            if (vm != NULL) {
                g_ptr_array_add(vms, vm);
                started++;
            } else if (vms->len == 0 && runs->n_runs == 0) {
                g_propagate_error(error, g_steal_pointer(&why));
                return FALSE;
            } else if (!g_cancellable_is_cancelled(r->cancellable)) {
                leave_out(r, times - started, why);
                times = started;
            }
        }
        reap(r, index, vms, runs);
        if (vms->len == jobs || started == times)
            g_usleep(LOOK_US);
    }
    return TRUE;
}

/* Of a machine that was recorded: one after the other, in the one directory. */
static gboolean run_recorded(const Replaying *r, guint times, StasisReplayRuns *runs,
                             GError **error)
{
    for (guint i = 0; i < times; i++) {
        StasisOutcome outcome;
        if (!stasis_ci_record_replay(r->source, NULL, &outcome, r->cancellable, error))
            return FALSE;
        stasis_replay_count(r->replay, runs, &outcome);
        if (r->options->ran != NULL)
            r->options->ran(0, &outcome, r->options->ran_data);
    }
    return TRUE;
}

/* Before anything is run for it. */
static gboolean make_output_dir(const StasisReplayOptions *options, GError **error)
{
    const char *dir = options->output_dir;
    if (dir == NULL || (g_mkdir_with_parents(dir, 0777) == 0 && access(dir, W_OK | X_OK) == 0))
        return TRUE;
    return stasis_set_errno(error, errno, "write to %s", dir);
}

/* What is recorded has one way to go. */
static gboolean check_recorded(const char *path, const StasisReplayOptions *options, GError **error)
{
    if (options->output_dir != NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s was recorded: it writes what it wrote then, and there is no --output of it",
                    path);
        return FALSE;
    }
    if (options->from == NULL && options->perturb == 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "%s was recorded: it is replayed from its beginning, as it was", path);
    return FALSE;
}

StasisReplay *stasis_replay(const char *path, const StasisReplayOptions *given,
                            GCancellable *cancellable, GError **error)
{
    StasisReplayOptions own = STASIS_REPLAY_OPTIONS_INIT;
    const StasisReplayOptions *options = stasis_own_options(&own, given, sizeof own);
    guint index;
    g_autoptr(StasisReplaySource) source =
        stasis_replay_source_open(path, options->scratch, cancellable, error);
    if (source == NULL || (source->bundle != NULL && !check_recorded(path, options, error)) ||
        !stasis_replay_source_find(source, options->from, &index, error) ||
        !make_output_dir(options, error))
        return NULL;
    g_autoptr(StasisReplay) replay = stasis_replay_new(source);
    Replaying replaying = { source, options, replay, options->perturb, cancellable };
    StasisReplayRuns *runs = stasis_replay_add_image(replay, source, index);
    guint times = MAX(options->times, 1);
    gboolean ok = source->bundle != NULL ? run_recorded(&replaying, times, runs, error)
                                         : run_all(&replaying, index, times, runs, error);
    return ok ? g_steal_pointer(&replay) : NULL;
}

/* ---- bisect ---- */

/* What is still open may have failed each time by chance, so the first image that counts is asked
 * as often again; those behind it say more the nearer they are. */
static gboolean confirm(const Replaying *r, StasisReplay *replay, guint times, GError **error)
{
    gint open;
    for (gint asked = -1, first; (first = stasis_replay_find_inevitable(replay, &open)) > asked;
         asked = first)
        if (!run_all(r, (guint)first, times, g_ptr_array_index(replay->images, (guint)first),
                     error))
            return FALSE;
    return TRUE;
}

StasisReplay *stasis_replay_bisect(const char *path, const StasisReplayOptions *given,
                                   GCancellable *cancellable, GError **error)
{
    StasisReplayOptions own = STASIS_REPLAY_OPTIONS_INIT;
    const StasisReplayOptions *options = stasis_own_options(&own, given, sizeof own);
    guint all = 1u << STASIS_PERTURB_SEED | 1u << STASIS_PERTURB_TIMING;
    g_autoptr(StasisReplaySource) source =
        stasis_replay_source_open(path, options->scratch, cancellable, error);
    if (source == NULL)
        return NULL;
    if (source->bundle != NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s was recorded and always goes the same way; there is nothing to bisect",
                    path);
        return NULL;
    }
    if (!make_output_dir(options, error))
        return NULL;
    g_autoptr(StasisReplay) replay = stasis_replay_new(source);
    Replaying replaying = { source, options, replay, options->perturb != 0 ? options->perturb : all,
                            cancellable };
    guint times = options->times != 0 ? options->times : DEFAULT_BISECT_TIMES;
    for (guint i = 0; i < source->images->len; i++)
        if (!run_all(&replaying, i, times, stasis_replay_add_image(replay, source, i), error))
            return NULL;
    if (!confirm(&replaying, replay, times, error))
        return NULL;
    replay->inevitable = stasis_replay_find_inevitable(replay, &replay->open);
    return g_steal_pointer(&replay);
}
