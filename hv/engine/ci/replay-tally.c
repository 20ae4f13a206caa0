/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/ci/replay-tally.h"

#include <string.h>

#include "engine/ci/outcome.h"

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
    g_free(replay->output_error);
    g_free(replay->not_run_error);
    g_ptr_array_unref(replay->images);
    g_free(replay);
}

StasisReplay *stasis_replay_new(const StasisReplaySource *source)
{
    StasisReplay *replay = g_new0(StasisReplay, 1);
    replay->argv = source->test->argv != NULL ? g_strdupv(source->test->argv) : g_new0(char *, 1);
    replay->failure = source->test->outcome;
    replay->images = g_ptr_array_new_with_free_func(runs_free);
    replay->inevitable = replay->open = -1;
    return replay;
}

StasisReplayRuns *stasis_replay_add_image(StasisReplay *replay, const StasisReplaySource *source,
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

/* Of our patience with a busy host, or of our sight of the guest; not of the test. */
static gboolean is_unknown(const StasisOutcome *outcome)
{
    return outcome->kind == STASIS_OUTCOME_LOST || outcome->kind == STASIS_OUTCOME_TIMEOUT;
}

void stasis_replay_count(const StasisReplay *replay, StasisReplayRuns *runs,
                         const StasisOutcome *outcome)
{
    gboolean same = strcmp(outcome->name, replay->failure.name) == 0;
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
    runs->n_same += same;
    runs->n_unknown += !same && is_unknown(outcome);
    g_ptr_array_sort(runs->outcomes, by_count);
}

gint stasis_replay_find_inevitable(const StasisReplay *replay, gint *ret_open)
{
    gint first = -1, i = (gint)replay->images->len;
    while (--i >= 0) {
        const StasisReplayRuns *runs = g_ptr_array_index(replay->images, (guint)i);
        if (runs->n_same + runs->n_unknown < runs->n_runs)
            break;
        if (runs->n_same > 0)
            first = i;
    }
    *ret_open = i;
    return first;
}
