/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: replays are counted by how they came out, and failure is inevitable from the first image
 * on from which, and from all later ones, every run failed. */
#include <string.h>

#include "engine/ci/outcome.h"
#include "engine/ci/replay-tally.h"

static StasisReplaySource *new_source(void)
{
    static char *argv[] = { (char *)"test", NULL };
    static StasisCiTest test = { .argv = argv };
    static StasisImageInfo images[8];
    static char ids[8][2];
    StasisReplaySource *source = g_new0(StasisReplaySource, 1);
    source->test = &test;
    source->images = g_ptr_array_new();
    for (guint i = 0; i < G_N_ELEMENTS(images); i++) {
        ids[i][0] = (char)('a' + i);
        images[i] = (StasisImageInfo){ .id = ids[i], .created_us = 1000 + i };
        g_ptr_array_add(source->images, &images[i]);
    }
    return source;
}

static void free_source(StasisReplaySource *source)
{
    g_ptr_array_unref(source->images);
    g_free(source);
}

static void add_runs(StasisReplayRuns *runs, StasisOutcomeKind kind, int number, guint n)
{
    StasisOutcome outcome = { .kind = kind, .number = number };
    stasis_outcome_name(&outcome);
    for (guint i = 0; i < n; i++)
        stasis_replay_count(runs, &outcome);
}

static void test_histogram(void)
{
    StasisReplaySource *source = new_source();
    g_autoptr(StasisReplay) replay = stasis_replay_new(source);
    StasisReplayRuns *runs = stasis_replay_add_image(replay, source, 2);
    g_assert_cmpstr(runs->id, ==, "c");
    g_assert_cmpint(runs->created_us, ==, 1002);
    add_runs(runs, STASIS_OUTCOME_EXIT, 0, 2);
    add_runs(runs, STASIS_OUTCOME_SIGNAL, 11, 3);
    add_runs(runs, STASIS_OUTCOME_EXIT, 1, 1);
    add_runs(runs, STASIS_OUTCOME_EXIT, 0, 2);
    add_runs(runs, STASIS_OUTCOME_TIMEOUT, 0, 1);
    static const struct {
        const char *name;
        guint count;
    } wanted[] = { { "exit 0", 4 }, { "signal 11", 3 }, { "exit 1", 1 }, { "timeout", 1 } };
    g_assert_cmpuint(runs->outcomes->len, ==, G_N_ELEMENTS(wanted));
    for (guint i = 0; i < G_N_ELEMENTS(wanted); i++) {
        const StasisReplayOutcome *one = g_ptr_array_index(runs->outcomes, i);
        g_assert_cmpstr(one->outcome.name, ==, wanted[i].name);
        g_assert_cmpuint(one->count, ==, wanted[i].count);
    }
    g_assert_cmpuint(runs->n_runs, ==, 9);
    g_assert_cmpuint(runs->n_bad, ==, 5);
    free_source(source);
}

/* Of four runs from each image so many failed. */
static void test_inevitable(void)
{
    static const struct {
        guint n_bad[8], n;
        gint first;
    } cases[] = {
        { { 0 }, 0, -1 },
        { { 0 }, 1, -1 },
        { { 3 }, 1, -1 },
        { { 4 }, 1, 0 },
        { { 1, 2, 4, 4 }, 4, 2 },
        { { 4, 4, 4 }, 3, 0 },
        { { 1, 2, 3 }, 3, -1 },
        /* By chance all failed from one that was still open. */
        { { 1, 4, 2, 4, 4 }, 5, 3 },
        { { 4, 4, 4, 3 }, 4, -1 },
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        StasisReplaySource *source = new_source();
        g_autoptr(StasisReplay) replay = stasis_replay_new(source);
        for (guint k = 0; k < cases[i].n; k++) {
            StasisReplayRuns *runs = stasis_replay_add_image(replay, source, k);
            add_runs(runs, STASIS_OUTCOME_EXIT, 0, 4 - cases[i].n_bad[k]);
            add_runs(runs, STASIS_OUTCOME_PANIC, 0, cases[i].n_bad[k]);
        }
        g_test_message("case %u", i);
        g_assert_cmpint(stasis_replay_find_inevitable(replay), ==, cases[i].first);
        free_source(source);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/replay/histogram", test_histogram);
    g_test_add_func("/replay/inevitable", test_inevitable);
    return g_test_run();
}
