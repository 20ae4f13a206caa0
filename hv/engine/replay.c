/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Many runs, counted; the first image from which on all fail; one run under a debugger. */
#include <stasis/error.h>
#include <stasis/replay.h>
#include <string.h>

#include "base/io.h"
#include "engine/ci-record.h"
#include "engine/replay-run.h"

#define LOOK_US 10000
#define DEFAULT_BISECT_TIMES 5
#define MAX_JOBS 256u

static void runs_free(gpointer data)
{
    StasisReplayRuns *runs = data;
    g_ptr_array_unref(runs->outcomes);
    g_free(runs->id);
    g_free(runs);
}

void stasis_replay_free(StasisReplay *replay)
{
    if (replay == NULL)
        return;
    g_strfreev(replay->argv);
    g_ptr_array_unref(replay->images);
    g_free(replay);
}

static StasisReplay *replay_new(const StasisReplaySource *source)
{
    StasisReplay *replay = g_new0(StasisReplay, 1);
    replay->argv = g_strdupv(source->test->argv);
    replay->failure = source->test->outcome;
    replay->images = g_ptr_array_new_with_free_func(runs_free);
    replay->inevitable = -1;
    return replay;
}

static StasisReplayRuns *add_image(StasisReplay *replay, const StasisReplaySource *source,
                                   guint index)
{
    StasisReplayRuns *runs = g_new0(StasisReplayRuns, 1);
    if (source->bundle == NULL) {
        const StasisImageInfo *image = g_ptr_array_index(source->images, index);
        runs->id = g_strdup(image->id);
        runs->created_us = image->created_us;
    }
    runs->outcomes = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(replay->images, runs);
    return runs;
}

static gint by_count(gconstpointer a, gconstpointer b)
{
    const StasisReplayOutcome *x = *(const StasisReplayOutcome *const *)a;
    const StasisReplayOutcome *y = *(const StasisReplayOutcome *const *)b;
    return x->count != y->count ? (x->count < y->count ? 1 : -1)
                                : strcmp(x->outcome.name, y->outcome.name);
}

static void count(StasisReplayRuns *runs, const StasisOutcome *outcome)
{
    StasisReplayOutcome *found = NULL;
    for (guint i = 0; i < runs->outcomes->len && found == NULL; i++) {
        StasisReplayOutcome *one = g_ptr_array_index(runs->outcomes, i);
        found = strcmp(one->outcome.name, outcome->name) == 0 ? one : NULL;
    }
    if (found == NULL) {
        found = g_new0(StasisReplayOutcome, 1);
        found->outcome = *outcome;
        g_ptr_array_add(runs->outcomes, found);
    }
    found->count++;
    runs->n_runs++;
    runs->n_bad += !stasis_outcome_is_good(outcome);
    g_ptr_array_sort(runs->outcomes, by_count);
}

/* ---- many runs ---- */

typedef struct {
    const StasisReplaySource *source;
    const StasisReplayOptions *options;
    guint perturb;
    GCancellable *cancellable;
} Replaying;

static StasisReplayVm *start(const Replaying *r, guint index, GError **error)
{
    guint64 timeout_us =
        r->options->timeout_us != 0 ? r->options->timeout_us : r->source->test->timeout_us;
    g_autoptr(StasisReplayVm) vm =
        stasis_replay_vm_new(r->source, index, r->perturb, r->cancellable, error);
    if (vm == NULL || !stasis_replay_vm_follow(vm, timeout_us, error) ||
        !stasis_replay_vm_go(vm, error))
        return NULL;
    return g_steal_pointer(&vm);
}

/* Take down those that are over. */
static void reap(const Replaying *r, guint index, GPtrArray *vms, StasisReplayRuns *runs)
{
    for (guint i = vms->len; i-- > 0;) {
        StasisOutcome outcome;
        if (!stasis_replay_vm_look(g_ptr_array_index(vms, i), &outcome))
            continue;
        g_ptr_array_remove_index_fast(vms, i);
        count(runs, &outcome);
        if (r->options->ran != NULL)
            r->options->ran(index, &outcome, r->options->ran_data);
    }
}

/* @times runs from image @index, as many at once as wanted. */
static gboolean run_all(const Replaying *r, guint index, guint times, StasisReplayRuns *runs,
                        GError **error)
{
    guint jobs = CLAMP(r->options->jobs, 1, MAX_JOBS), started = 0;
    g_autoptr(GPtrArray) vms =
        g_ptr_array_new_with_free_func((GDestroyNotify)stasis_replay_vm_free);
    while (started < times || vms->len > 0) {
        if (g_cancellable_is_cancelled(r->cancellable))
            return stasis_set_cancelled(error);
        if (started < times && vms->len < jobs) {
            StasisReplayVm *vm = start(r, index, error);
            if (vm == NULL)
                return FALSE;
            g_ptr_array_add(vms, vm);
            started++;
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
        if (!stasis_ci_record_replay(r->source->test, r->source->bundle, r->source->dir, NULL, NULL,
                                     NULL, &outcome, r->cancellable, error))
            return FALSE;
        count(runs, &outcome);
        if (r->options->ran != NULL)
            r->options->ran(0, &outcome, r->options->ran_data);
    }
    return TRUE;
}

StasisReplay *stasis_replay(const char *path, const StasisReplayOptions *options,
                            GCancellable *cancellable, GError **error)
{
    guint index;
    g_autoptr(StasisReplaySource) source =
        stasis_replay_source_open(path, options->scratch, cancellable, error);
    if (source == NULL || !stasis_replay_source_find(source, options->from, &index, error))
        return NULL;
    Replaying replaying = { source, options, options->perturb, cancellable };
    g_autoptr(StasisReplay) replay = replay_new(source);
    StasisReplayRuns *runs = add_image(replay, source, index);
    guint times = MAX(options->times, 1);
    gboolean ok = source->bundle != NULL ? run_recorded(&replaying, times, runs, error)
                                         : run_all(&replaying, index, times, runs, error);
    return ok ? g_steal_pointer(&replay) : NULL;
}

/* ---- bisect ---- */

/* From this image on every run failed, from that one and all later ones. */
static gint find_inevitable(const StasisReplay *replay)
{
    gint first = -1;
    for (guint i = replay->images->len; i-- > 0;) {
        const StasisReplayRuns *runs = g_ptr_array_index(replay->images, i);
        if (runs->n_bad < runs->n_runs)
            break;
        first = (gint)i;
    }
    return first;
}

/* What is still open may have failed each time by chance, so the first image that counts is asked
 * as often again; those behind it say more the nearer they are. */
static gboolean confirm(const Replaying *r, StasisReplay *replay, guint times, GError **error)
{
    for (gint asked = -1, first; (first = find_inevitable(replay)) > asked; asked = first)
        if (!run_all(r, (guint)first, times, g_ptr_array_index(replay->images, (guint)first),
                     error))
            return FALSE;
    return TRUE;
}

StasisReplay *stasis_replay_bisect(const char *path, const StasisReplayOptions *options,
                                   GCancellable *cancellable, GError **error)
{
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
    Replaying replaying = { source, options, options->perturb != 0 ? options->perturb : all,
                            cancellable };
    g_autoptr(StasisReplay) replay = replay_new(source);
    guint times = options->times != 0 ? options->times : DEFAULT_BISECT_TIMES;
    for (guint i = 0; i < source->images->len; i++)
        if (!run_all(&replaying, i, times, add_image(replay, source, i), error))
            return NULL;
    if (!confirm(&replaying, replay, times, error))
        return NULL;
    replay->inevitable = find_inevitable(replay);
    return g_steal_pointer(&replay);
}

/* ---- a debugger ---- */

/* The monitor's command, or NULL. A path must have nothing that QEMU would read as an option. */
static char *gdbserver(const char *gdb, GError **error)
{
    guint64 port;
    if (gdb[0] == '/' && strpbrk(gdb, ", \t\n\"") == NULL)
        return g_strdup_printf("gdbserver unix:path=%s,server=on,wait=off", gdb);
    if (g_ascii_string_to_unsigned(gdb, 10, 1, 65535, &port, NULL))
        return g_strdup_printf("gdbserver tcp:127.0.0.1:%u", (guint)port);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "gdbstub at \"%s\": a TCP port, or the absolute path of a socket, is meant", gdb);
    return NULL;
}

static gboolean listen_for(StasisReplayVm *vm, const char *gdb, GError **error)
{
    g_autofree char *line = gdbserver(gdb, error);
    g_autofree char *said =
        line != NULL ? stasis_qmp_human(stasis_replay_vm_get_qmp(vm), line, error) : NULL;
    if (said == NULL)
        return FALSE;
    g_strstrip(said);
    if (g_str_has_prefix(said, "Waiting for gdb"))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "gdbstub at %s: %s", gdb, said);
    return FALSE;
}

static gboolean debug_recorded(const StasisReplaySource *source, const char *gdb,
                               void (*ready)(StasisVm *vm, gpointer user_data), gpointer user_data,
                               StasisOutcome *ret, GCancellable *cancellable, GError **error)
{
    g_autofree char *line = gdbserver(gdb, error);
    return line != NULL && stasis_ci_record_replay(source->test, source->bundle, source->dir, line,
                                                   ready, user_data, ret, cancellable, error);
}

static gboolean debug_image(const StasisReplaySource *source, const StasisReplayOptions *options,
                            guint index, const char *gdb,
                            void (*ready)(StasisVm *vm, gpointer user_data), gpointer user_data,
                            StasisOutcome *ret, GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisReplayVm) vm =
        stasis_replay_vm_new(source, index, /* perturb= */ 0, cancellable, error);
    if (vm == NULL || !listen_for(vm, gdb, error) ||
        !stasis_replay_vm_follow(vm, options->timeout_us, error))
        return FALSE;
    ready(stasis_replay_vm_get(vm), user_data);
    while (!stasis_replay_vm_look(vm, ret)) {
        if (g_cancellable_is_cancelled(cancellable))
            return stasis_set_cancelled(error);
        g_usleep(LOOK_US);
    }
    return TRUE;
}

StasisReplay *stasis_replay_debug(const char *path, const StasisReplayOptions *options,
                                  const char *gdb, void (*ready)(StasisVm *vm, gpointer user_data),
                                  gpointer user_data, GCancellable *cancellable, GError **error)
{
    guint index;
    StasisOutcome outcome;
    g_autoptr(StasisReplaySource) source =
        stasis_replay_source_open(path, options->scratch, cancellable, error);
    if (source == NULL || !stasis_replay_source_find(source, options->from, &index, error))
        return NULL;
    g_autoptr(StasisReplay) replay = replay_new(source);
    StasisReplayRuns *runs = add_image(replay, source, index);
    gboolean ok = source->bundle != NULL
                      ? debug_recorded(source, gdb, ready, user_data, &outcome, cancellable, error)
                      : debug_image(source, options, index, gdb, ready, user_data, &outcome,
                                    cancellable, error);
    if (!ok)
        return NULL;
    count(runs, &outcome);
    return g_steal_pointer(&replay);
}
