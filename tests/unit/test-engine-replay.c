/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: replays are counted by how they came out, and failure is inevitable from the first image
 * on from which, and from all later ones, every run failed as the bundle's did; another failure is
 * not taken for it, and a run that was lost, or out of time, tells nothing. */
#include <glib/gstdio.h>
#include <stasis/ci.h>
#include <stasis/error.h>
#include <string.h>

#include "engine/ci/outcome.h"
#include "engine/ci/replay-tally.h"

static StasisReplaySource *new_source(StasisOutcomeKind kind, int number)
{
    static char *argv[] = { (char *)"test", NULL };
    static StasisCiTest test = { .argv = argv };
    static StasisImageInfo images[8];
    static char ids[8][2];
    StasisReplaySource *source = g_new0(StasisReplaySource, 1);
    source->test = &test;
    test.outcome = (StasisOutcome){ .kind = kind, .number = number };
    stasis_outcome_name(&test.outcome);
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

static void add_runs(const StasisReplay *replay, StasisReplayRuns *runs, StasisOutcomeKind kind,
                     int number, guint n)
{
    StasisOutcome outcome = { .kind = kind, .number = number };
    stasis_outcome_name(&outcome);
    for (guint i = 0; i < n; i++)
        stasis_replay_count(replay, runs, &outcome);
}

static void test_histogram(void)
{
    StasisReplaySource *source = new_source(STASIS_OUTCOME_SIGNAL, 11);
    g_autoptr(StasisReplay) replay = stasis_replay_new(source);
    StasisReplayRuns *runs = stasis_replay_add_image(replay, source, 2);
    g_assert_cmpstr(runs->id, ==, "c");
    g_assert_cmpint(runs->created_us, ==, 1002);
    add_runs(replay, runs, STASIS_OUTCOME_EXIT, 0, 2);
    add_runs(replay, runs, STASIS_OUTCOME_SIGNAL, 11, 3);
    add_runs(replay, runs, STASIS_OUTCOME_EXIT, 1, 1);
    add_runs(replay, runs, STASIS_OUTCOME_EXIT, 0, 2);
    add_runs(replay, runs, STASIS_OUTCOME_TIMEOUT, 0, 1);
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
    g_assert_cmpuint(runs->n_same, ==, 3);
    g_assert_cmpuint(runs->n_unknown, ==, 1);
    free_source(source);
}

/* Of four runs from each image so many failed. */
static void test_inevitable(void)
{
    static const struct {
        guint n_bad[8], n;
        gint first, open;
    } cases[] = {
        { { 0 }, 0, -1, -1 },
        { { 0 }, 1, -1, 0 },
        { { 3 }, 1, -1, 0 },
        { { 4 }, 1, 0, -1 },
        { { 1, 2, 4, 4 }, 4, 2, 1 },
        { { 4, 4, 4 }, 3, 0, -1 },
        { { 1, 2, 3 }, 3, -1, 2 },
        /* By chance all failed from one that was still open. */
        { { 1, 4, 2, 4, 4 }, 5, 3, 2 },
        { { 4, 4, 4, 3 }, 4, -1, 3 },
    };
    gint open;
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        StasisReplaySource *source = new_source(STASIS_OUTCOME_PANIC, 0);
        g_autoptr(StasisReplay) replay = stasis_replay_new(source);
        for (guint k = 0; k < cases[i].n; k++) {
            StasisReplayRuns *runs = stasis_replay_add_image(replay, source, k);
            add_runs(replay, runs, STASIS_OUTCOME_EXIT, 0, 4 - cases[i].n_bad[k]);
            add_runs(replay, runs, STASIS_OUTCOME_PANIC, 0, cases[i].n_bad[k]);
        }
        g_test_message("case %u", i);
        g_assert_cmpint(stasis_replay_find_inevitable(replay, &open), ==, cases[i].first);
        g_assert_cmpint(open, ==, cases[i].open);
        free_source(source);
    }
}

/* What else came out, of images from each of which one run failed (but where that has 0). */
static void test_others(void)
{
    enum { IMAGES = 4 };
    static const struct {
        StasisOutcomeKind failure, kind; /* "exit 3" and "exit 4" if those are exits */
        guint n_same[IMAGES], n_others[IMAGES];
        gint first, open;
    } cases[] = {
        /* Another failure is a run without this one, … */
        { STASIS_OUTCOME_PANIC, STASIS_OUTCOME_SIGNAL, { 1, 1, 1, 1 }, { 1, 1, 0, 0 }, 2, 1 },
        { STASIS_OUTCOME_EXIT, STASIS_OUTCOME_EXIT, { 1, 1, 1, 1 }, { 0, 0, 0, 1 }, -1, 3 },
        { STASIS_OUTCOME_LOST, STASIS_OUTCOME_PANIC, { 1, 1, 1, 1 }, { 1, 0, 0, 0 }, 1, 0 },
        /* … one whose end was not seen is none, … */
        { STASIS_OUTCOME_PANIC, STASIS_OUTCOME_LOST, { 1, 1, 1, 1 }, { 0, 1, 2, 1 }, 0, -1 },
        { STASIS_OUTCOME_PANIC, STASIS_OUTCOME_TIMEOUT, { 1, 1, 1, 1 }, { 9, 0, 0, 1 }, 0, -1 },
        /* … also where no other was, … */
        { STASIS_OUTCOME_PANIC, STASIS_OUTCOME_LOST, { 0, 1, 0, 1 }, { 1, 0, 1, 0 }, 1, -1 },
        { STASIS_OUTCOME_PANIC, STASIS_OUTCOME_LOST, { 0, 0, 0, 0 }, { 1, 1, 1, 1 }, -1, -1 },
        /* … but where that is the failure. */
        { STASIS_OUTCOME_TIMEOUT, STASIS_OUTCOME_TIMEOUT, { 0, 0, 0, 0 }, { 1, 1, 1, 1 }, 0, -1 },
    };
    gint open;
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        StasisReplaySource *source = new_source(cases[i].failure, 3);
        g_autoptr(StasisReplay) replay = stasis_replay_new(source);
        for (guint k = 0; k < IMAGES; k++) {
            StasisReplayRuns *runs = stasis_replay_add_image(replay, source, k);
            add_runs(replay, runs, cases[i].failure, 3, cases[i].n_same[k]);
            add_runs(replay, runs, cases[i].kind, 4, cases[i].n_others[k]);
        }
        g_test_message("case %u", i);
        g_assert_cmpint(stasis_replay_find_inevitable(replay, &open), ==, cases[i].first);
        g_assert_cmpint(open, ==, cases[i].open);
        free_source(source);
    }
}

/* Of a VM that is only watched. */
static void test_watched(void)
{
    StasisOutcome outcome = { .kind = STASIS_OUTCOME_SURVIVED };
    stasis_outcome_name(&outcome);
    g_assert_cmpstr(outcome.name, ==, "survived");
    g_assert_true(stasis_outcome_is_good(&outcome));
    g_assert_cmpint(stasis_outcome_exit_code(&outcome), ==, 0);
    g_assert_cmpint(stasis_outcome_kind("agent-lost"), ==, STASIS_OUTCOME_LOST);
    g_assert_cmpint(stasis_outcome_kind("crash"), ==, STASIS_OUTCOME_VM_END);
    g_assert_cmpint(stasis_outcome_kind("hang"), ==, STASIS_OUTCOME_HANG);
    g_assert_cmpint(stasis_outcome_kind("survived"), ==, STASIS_OUTCOME_VM_END);
}

static StasisCiTest *test_of(guint n_words, GError **error)
{
    g_autoptr(GString) text = g_string_new("{\"format\": 2, \"outcome\": 0, \"on\": [], "
                                           "\"argv\": [");
    for (guint i = 0; i < n_words; i++)
        g_string_append(text, i == 0 ? "\"a\"" : ", \"a\"");
    g_string_append(text, "]}");
    return stasis_ci_test_from_text(text->str, text->len, error);
}

/* What is not taken whole is not taken. */
static void test_words(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisCiTest) most = test_of(256, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(g_strv_length(most->argv), ==, 256);
    g_assert_null(test_of(257, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

static void check_refused(StasisCiOptions options, const char *bundle)
{
    g_autoptr(GError) error = NULL;
    options.struct_size = sizeof options;
    options.kernel = "/nonexistent";
    options.every_us = 1;
    options.bundle = bundle;
    g_assert_null(stasis_ci_run(NULL, &options, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_assert_nonnull(strstr(error->message, "UTF-8"));
    g_assert_nonnull(strstr(error->message, "\\377"));
}

/* What could not be read again from a bundle is not run for one. */
static void test_said(void)
{
    static const char *const good[] = { "a", NULL }, *const bad[] = { "a", "b\377", NULL };
    static const char *const env[] = { "A=\377", NULL }, *const on[] = { "log=\377", NULL };
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_dir_make_tmp("said-XXXXXX", &error);
    g_assert_no_error(error);
    g_autofree char *bundle = g_build_filename(dir, "x.bundle", NULL);
    check_refused((StasisCiOptions){ .argv = bad }, bundle);
    check_refused((StasisCiOptions){ .argv = good, .env = env }, bundle);
    check_refused((StasisCiOptions){ .argv = good, .on = on }, bundle);
    g_assert_true(stasis_ci_words_check("x", good, &error) &&
                  stasis_ci_words_check("x", NULL, &error));
    g_rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/replay/histogram", test_histogram);
    g_test_add_func("/replay/inevitable", test_inevitable);
    g_test_add_func("/replay/others", test_others);
    g_test_add_func("/replay/watched", test_watched);
    g_test_add_func("/replay/words", test_words);
    g_test_add_func("/replay/said", test_said);
    return g_test_run();
}
