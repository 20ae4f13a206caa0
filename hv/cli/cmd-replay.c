/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A failure again, from its bundle. */
#include <stdio.h>
#include <string.h>

#include "ci.h"
#include "output.h"
#include "report-file.h"
#include "table.h"

#define BAR_CELLS 40u

static void runs_to_json(JsonArray *array, const StasisReplayRuns *runs)
{
    JsonObject *object = json_object_new();
    JsonArray *outcomes = json_array_new();
    cli_json_set_string(object, "id", runs->id);
    json_object_set_int_member(object, "created_us", runs->created_us);
    cli_json_set_uint(object, "n_runs", runs->n_runs);
    cli_json_set_uint(object, "n_failed", runs->n_bad);
    cli_json_set_uint(object, "n_same", runs->n_same);
    cli_json_set_uint(object, "n_unknown", runs->n_unknown);
    cli_json_set_uint(object, "n_pauses", runs->n_pauses);
    for (guint i = 0; i < runs->outcomes->len; i++) {
        const StasisReplayOutcome *one = g_ptr_array_index(runs->outcomes, i);
        JsonObject *outcome = cli_outcome_to_json(&one->outcome);
        cli_json_set_uint(outcome, "count", one->count);
        json_array_add_object_element(outcomes, outcome);
    }
    json_object_set_array_member(object, "outcomes", outcomes);
    json_array_add_object_element(array, object);
}

static void index_to_json(JsonObject *object, const char *name, gint index)
{
    if (index >= 0)
        json_object_set_int_member(object, name, index);
    else
        json_object_set_null_member(object, name);
}

static void replay_to_json(CliCall *call, const StasisReplay *replay, gboolean bisect)
{
    JsonObject *object = json_object_new();
    JsonArray *argv = json_array_new(), *images = json_array_new();
    for (guint i = 0; replay->argv[i] != NULL; i++)
        json_array_add_string_element(argv, replay->argv[i]);
    for (guint i = 0; i < replay->images->len; i++)
        runs_to_json(images, g_ptr_array_index(replay->images, i));
    json_object_set_array_member(object, "command", argv);
    json_object_set_object_member(object, "failure", cli_outcome_to_json(&replay->failure));
    json_object_set_array_member(object, "images", images);
    cli_json_set_uint(object, "n_unwritten", replay->n_unwritten);
    if (replay->n_unwritten > 0)
        cli_note(call, "what %u runs wrote is not all in %s: %s", replay->n_unwritten,
                 cli_text(call, "output"), replay->output_error);
    cli_json_set_uint(object, "n_not_run", replay->n_not_run);
    cli_json_set_string(object, "not_run_error", replay->not_run_error);
    if (replay->n_not_run > 0)
        cli_note(call, "%u runs more were asked for, and could not be started: %s",
                 replay->n_not_run, replay->not_run_error);
    if (bisect) {
        index_to_json(object, "inevitable", replay->inevitable);
        index_to_json(object, "open", replay->open);
    }
    cli_take_object(call, object);
}

/* ---- histogram ---- */

static void print_histogram(const StasisReplayRuns *runs)
{
    g_autoptr(CliTable) table = cli_table_new("lrrl");
    for (guint i = 0; i < runs->outcomes->len; i++) {
        const StasisReplayOutcome *one = g_ptr_array_index(runs->outcomes, i);
        guint cells = (one->count * BAR_CELLS + runs->n_runs - 1) / runs->n_runs;
        g_autofree char *bar = g_strnfill(cells, '#');
        g_autofree char *count = g_strdup_printf("%u", one->count);
        g_autofree char *share = g_strdup_printf("%u %%", one->count * 100 / runs->n_runs);
        cli_table_add(table, one->outcome.name, count, share, bar);
    }
    cli_table_print(table, 0);
    printf("%u of %u runs failed\n", runs->n_bad, runs->n_runs);
}

/* ---- bisect ---- */

static char *list_outcomes(const StasisReplayRuns *runs)
{
    GString *text = g_string_new(NULL);
    for (guint i = 0; i < runs->outcomes->len; i++) {
        const StasisReplayOutcome *one = g_ptr_array_index(runs->outcomes, i);
        g_string_append_printf(text, "%s%s × %u", i > 0 ? ", " : "", one->outcome.name, one->count);
    }
    return g_string_free(text, FALSE);
}

static double since_first(const StasisReplay *replay, guint index)
{
    const StasisReplayRuns *first = g_ptr_array_index(replay->images, 0);
    const StasisReplayRuns *this = g_ptr_array_index(replay->images, index);
    return (double)(this->created_us - first->created_us) / 1e6;
}

/* Not the one that is looked for, and known to be none. */
static guint other_failures(const StasisReplayRuns *runs)
{
    guint n = 0;
    for (guint i = 0; i < runs->outcomes->len; i++) {
        const StasisReplayOutcome *one = g_ptr_array_index(runs->outcomes, i);
        n += stasis_outcome_is_good(&one->outcome) ? 0 : one->count;
    }
    return n - runs->n_same - runs->n_unknown;
}

static void print_verdict(const StasisReplay *replay)
{
    gint first = replay->inevitable, open = replay->open;
    if (first < 0)
        puts("from no image on did every run fail: it was open until the end, or it does not come "
             "from what is in the images");
    else if (open < 0)
        printf("every run from every image failed: it was inevitable before image %d\n", first + 1);
    else
        printf("it became inevitable between image %d (%.2f s) and image %d (%.2f s)\n", open + 1,
               since_first(replay, (guint)open), first + 1, since_first(replay, (guint)first));
}

static void print_bisect(const StasisReplay *replay)
{
    g_autoptr(CliTable) table = cli_table_new("rlrrl");
    guint n_others = 0, n_unknown = 0;
    cli_table_add(table, "IMAGE", "ID", "AT", "FAILED", "OUTCOMES");
    for (guint i = 0; i < replay->images->len; i++) {
        const StasisReplayRuns *runs = g_ptr_array_index(replay->images, i);
        g_autofree char *number = g_strdup_printf("%u", i + 1);
        g_autofree char *at = g_strdup_printf("%.2f s", since_first(replay, i));
        g_autofree char *failed =
            g_strdup_printf("%u/%u", runs->n_same, runs->n_runs - runs->n_unknown);
        g_autofree char *outcomes = list_outcomes(runs);
        cli_table_add(table, number, runs->id, at, failed, outcomes);
        n_others += other_failures(runs);
        n_unknown += runs->n_unknown;
    }
    cli_table_print(table, 0);
    if (n_others > 0)
        printf("other failures: %u; counted as runs without %s\n", n_others, replay->failure.name);
    if (n_unknown > 0)
        printf("runs that were lost or out of time: %u; not counted\n", n_unknown);
    print_verdict(replay);
}

static void tell_run(guint image, const StasisOutcome *outcome, gpointer user_data)
{
    CliCall *call = user_data;
    g_autofree char *took = cli_format_us(outcome->took_us);
    if (cli_flag(call, "verbose"))
        cli_note(call, "image %u: %s after %s", image + 1, outcome->name, took);
}

static gboolean bisect(CliCall *call, const StasisReplayOptions *options, GError **error)
{
    const char *plot = cli_text(call, "plot");
    if (!cli_check_report(call, "plot", error))
        return FALSE;
    g_autoptr(StasisReplay) replay =
        stasis_replay_bisect(call->args[0], options, call->cancellable, error);
    if (replay == NULL)
        return FALSE;
    replay_to_json(call, replay, TRUE);
    if (!call->json)
        print_bisect(replay);
    return plot == NULL || cli_write_bisect_svg(plot, replay, error);
}

/* ---- a debugger ---- */

static void tell_ready(StasisVm *vm, gpointer user_data)
{
    CliCall *call = user_data;
    const char *gdb = cli_text(call, "gdb");
    cli_note(call, "%s stands still at the image's instant; in gdb: target remote %s%s",
             stasis_vm_get_name(vm), gdb[0] == '/' ? "" : ":", gdb);
}

static gboolean debug(CliCall *call, const StasisReplayOptions *options, GError **error)
{
    g_autoptr(StasisReplay) replay = stasis_replay_debug(
        call->args[0], options, cli_text(call, "gdb"), tell_ready, call, call->cancellable, error);
    if (replay == NULL)
        return FALSE;
    const StasisReplayRuns *runs = g_ptr_array_index(replay->images, 0);
    const StasisReplayOutcome *one = g_ptr_array_index(runs->outcomes, 0);
    replay_to_json(call, replay, FALSE);
    if (!call->json)
        puts(one->outcome.name);
    return TRUE;
}

/* ---- replay ---- */

static gboolean read_perturb(CliCall *call, guint *ret, GError **error)
{
    g_autofree const char **words = cli_texts(call, "perturb");
    for (guint i = 0; words != NULL && words[i] != NULL; i++) {
        if (strcmp(words[i], "seed") == 0) {
            *ret |= 1u << STASIS_PERTURB_SEED;
        } else if (strcmp(words[i], "timing") == 0) {
            *ret |= 1u << STASIS_PERTURB_TIMING;
        } else {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                        "--perturb %s: seed or timing is meant", words[i]);
            return FALSE;
        }
    }
    return TRUE;
}

/* From another thread; nothing else writes to stdout meanwhile. */
static void show(gboolean is_error, const guint8 *bytes, gsize n, G_GNUC_UNUSED gpointer user_data)
{
    FILE *to = is_error ? stderr : stdout;
    fwrite(bytes, 1, n, to);
    fflush(to);
}

/* What would say nothing is not taken for something. */
static gboolean check_options(CliCall *call, GError **error)
{
    gboolean bisects = cli_flag(call, "bisect"), debugs = cli_text(call, "gdb") != NULL;
    g_autofree const char **perturb = cli_texts(call, "perturb");
    const char *what = NULL;
    if (bisects && debugs)
        what = "either --bisect or --gdb";
    else if (bisects && cli_text(call, "from") != NULL)
        what = "--bisect runs it from each image: there is no --from for it";
    else if (!bisects && cli_text(call, "plot") != NULL)
        what = "--plot draws what --bisect finds, and needs that";
    else if (debugs && (cli_number(call, "times", 0) != 0 || cli_number(call, "jobs", 0) != 0 ||
                        (perturb != NULL && perturb[0] != NULL)))
        what = "--gdb is one run, as it was: without --times, --jobs and --perturb";
    else if (debugs && cli_text(call, "output") != NULL)
        what = "--output keeps what runs write that nobody follows: it can't be had with --gdb";
    if (what == NULL)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE, what);
    return FALSE;
}

static gboolean run(CliCall *call, GError **error)
{
    StasisReplayOptions options = STASIS_REPLAY_OPTIONS_INIT;
    options.times = (guint)cli_number(call, "times", 0);
    options.jobs = (guint)cli_number(call, "jobs", 0);
    options.from = cli_text(call, "from");
    options.timeout_us = cli_number(call, "timeout", 0);
    options.scratch = cli_text(call, "scratch");
    options.output_dir = cli_text(call, "output");
    options.ran = tell_run;
    options.ran_data = call;
    if (!check_options(call, error) || !read_perturb(call, &options.perturb, error))
        return FALSE;
    if (cli_flag(call, "bisect"))
        return bisect(call, &options, error);
    if (cli_text(call, "gdb") != NULL)
        return debug(call, &options, error);
    options.output = options.times <= 1 && !call->json ? show : NULL;
    g_autoptr(StasisReplay) replay =
        stasis_replay(call->args[0], &options, call->cancellable, error);
    if (replay == NULL)
        return FALSE;
    replay_to_json(call, replay, FALSE);
    if (!call->json)
        print_histogram(g_ptr_array_index(replay->images, 0));
    return TRUE;
}

static const CliArgument arguments[] = {
    { "BUNDLE", CLI_ONE, CLI_FILE, "a bundle that ci-run or a guard left" },
    { NULL },
};
static const CliOption options[] = {
    { "times", 0, CLI_COUNT, "N", "run it so often (default: 1; with --bisect 5 from each image)" },
    { "jobs", 0, CLI_COUNT, "N", "so many VMs at once (default: 1)" },
    { "from", 0, CLI_TEXT, "IMAGE",
      "an image of the bundle: its number, 1 the oldest, or its ID (default: the newest); of what "
      "was recorded, with --gdb" },
    { "perturb", 0, CLI_TEXT, "seed|timing",
      "seed: random numbers of its own for each run; timing: stop the VM now and then for a random "
      "while; may be repeated",
      .many = TRUE },
    { "bisect", 0, CLI_FLAG, NULL,
      "run it from each image and find where the failure became inevitable" },
    { "plot", 0, CLI_FILE, "FILE", "with --bisect: draw that, as SVG" },
    { "gdb", 0, CLI_TEXT, "PORT",
      "stand still at the image's instant and wait for gdb, at this TCP port on the loopback "
      "interface or the socket of this path" },
    { "timeout", 0, CLI_SPAN, "TIME",
      "of each run (default: the test's; without one twice what it took from the image to the "
      "failure, and 5 s; with --gdb none)" },
    { "output", 0, CLI_DIR, "DIR",
      "leave what each run wrote in this directory: files image-I-run-N-OUTCOME.stdout, .stderr, "
      ".console; those of an earlier replay stay, or are replaced" },
    { "scratch", 0, CLI_DIR, "DIR", "where the bundle is unpacked (default: /var/tmp)" },
    { NULL },
};
static const CliExample examples[] = {
    { "replay fail.bundle --times 50 --jobs 4", "How often does it come out how?" },
    { "replay fail.bundle --bisect --plot fail.svg", "When did it become inevitable?" },
    { "replay fail.bundle --from 3 --gdb 1234", "Look around in that moment" },
    { "replay web-panic-20261127-101500-123.bundle --times 20", "Does it panic each time?" },
    { NULL },
};
const CliCommand cli_cmd_replay = {
    .group = "failure",
    .name = "replay",
    .summary = "run what failed again, from the moments before",
    .description =
        "Start VMs that go on from an image of the bundle's, in which the test is under way, and "
        "see how it comes out. Prints how often it came out how; of a single run that was not "
        "recorded, without --json, "
        "what "
        "the test writes before, all of it since its start. Nothing of the VMs stays.\n\n"
        "Without --perturb a guest does not learn that it goes on from an image: its random "
        "numbers and its clock are as they were, and runs differ only by what the timing of the "
        "host makes of them. --bisect perturbs both unless told what. It looks for the bundle's "
        "failure: another one "
        "counts as a run without it, and one that was lost or out of time does not "
        "count.\n\n"
        "A bundle of ci-run --deterministic holds an execution: it comes back instruction by "
        "instruction, one run after the other, and each is compared with what was recorded. With "
        "--gdb it is run once before, and images are kept every few seconds on the way: gdb begins "
        "at the newest, or --from another, and may go backwards (reverse-step, "
        "reverse-continue), which goes by the nearest image before.\n\n"
        "A guard's bundle has no test in it: the VM goes on without a network and is watched for "
        "what the guard watched for. It has survived if there was none of that in time. Images "
        "from after the failure are left out. A bundle of a libvirt domain is not replayed.\n\n"
        "The exit status says whether it could be run, not how it came out.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = run,
};
