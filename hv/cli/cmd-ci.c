/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A test in a VM of its own. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent-copy.h"
#include "ci.h"
#include "output.h"
#include "progress.h"
#include "report-file.h"
#include "watch.h"

/* What the test wrote, for the report. */
typedef struct {
    gboolean show;
    GString *output;
    gboolean over;        /* it was run, and its outcome is known */
    CliProgress progress; /* of what is copied before the test and after it */
} Heard;

/* From another thread; nothing else writes to stdout meanwhile, and nothing is copied. */
static void hear(gboolean is_error, const guint8 *bytes, gsize n, gpointer user_data)
{
    Heard *heard = user_data;
    g_string_append_len(heard->output, (const char *)bytes, (gssize)n);
    if (!heard->show)
        return;
    cli_progress_end(&heard->progress);
    FILE *to = is_error ? stderr : stdout;
    fwrite(bytes, 1, n, to);
    fflush(to);
}

JsonObject *cli_outcome_to_json(const StasisOutcome *outcome)
{
    JsonObject *object = json_object_new();
    gboolean numbered =
        outcome->kind == STASIS_OUTCOME_EXIT || outcome->kind == STASIS_OUTCOME_SIGNAL;
    cli_json_set_string(object, "name", outcome->name);
    if (numbered)
        json_object_set_int_member(object, "number", outcome->number);
    cli_json_set_string(object, "detail", outcome->detail);
    cli_json_set_uint(object, "took_us", outcome->took_us);
    return object;
}

static void result_to_json(CliCall *call, const StasisCiResult *result, const Heard *heard,
                           const char *bundle)
{
    JsonObject *object = json_object_new();
    g_autofree char *output = g_utf8_make_valid(heard->output->str, (gssize)heard->output->len);
    json_object_set_object_member(object, "outcome", cli_outcome_to_json(&result->outcome));
    json_object_set_boolean_member(object, "passed", stasis_outcome_is_good(&result->outcome));
    cli_json_set_uint(object, "ready_us", result->ready_us);
    json_object_set_boolean_member(object, "warm", result->warm);
    cli_json_set_uint(object, "n_images", result->n_images);
    cli_json_set_uint(object, "n_skipped", result->n_skipped);
    cli_json_set_string(object, "ring_error", result->ring_error);
    cli_json_set_string(object, "bundle", result->bundled ? bundle : NULL);
    cli_json_set_string(object, "bundle_error", result->bundle_error);
    cli_json_set_string(object, "bundle_kept", result->bundle_kept);
    cli_json_set_string(object, "copy_error", result->copy_error);
    JsonObject *copied = json_object_new();
    cli_json_set_copied(copied, &result->copied_out);
    json_object_set_object_member(object, "copied_out", copied);
    cli_json_set_string(object, "output", output);
    cli_json_set_string(object, "console", result->console);
    cli_take_object(call, object);
}

static void read_options(CliCall *call, StasisCiOptions *options, char **on)
{
    options->from = cli_text(call, "from");
    options->kernel = cli_text(call, "kernel");
    options->initrd = cli_text(call, "initrd");
    options->append = cli_text(call, "append");
    options->image = cli_text(call, "image");
    options->image_format = cli_text(call, "image-format");
    options->add_agent = cli_flag(call, "install-agent");
    options->memory = cli_text(call, "memory");
    options->n_vcpus = (guint)cli_number(call, "cpus", 0);
    options->accel = cli_text(call, "accel");
    options->qemu = cli_text(call, "qemu");
    options->boot_timeout_us = cli_number(call, "boot-timeout", 0);
    options->warm = cli_flag(call, "warm");
    options->argv = (const char *const *)call->args;
    options->dir = cli_text(call, "chdir");
    options->timeout_us = cli_number(call, "timeout", 0);
    options->max_output_bytes = cli_number(call, "max-output", 0);
    options->on = (const char *const *)on;
    options->bundle = cli_text(call, "bundle");
    options->deterministic = cli_flag(call, "deterministic");
    options->every_us = cli_number(call, "every", options->bundle != NULL ? 500000 : 0);
    options->keep = (guint)cli_number(call, "keep", 0);
    options->scratch = cli_text(call, "scratch");
}

static gboolean needs_store(const StasisCiOptions *options)
{
    return options->from != NULL || options->warm;
}

static void tell(CliCall *call, const StasisCiResult *result, const char *bundle)
{
    const StasisOutcome *outcome = &result->outcome;
    g_autofree char *took = cli_format_us(outcome->took_us);
    g_autofree char *detail = cli_printable(outcome->detail);
    if (stasis_outcome_is_good(outcome))
        cli_note(call, "passed in %s", took);
    else
        cli_note(call, "failed after %s: %s%s%s", took, outcome->name,
                 detail[0] != '\0' ? ": " : "", detail);
    if (result->copied_out.n_files + result->copied_out.n_directories > 0)
        cli_note_copied(call, &result->copied_out);
    if (result->copy_error != NULL)
        cli_note(call, "not all of --copy-out was fetched: %s", result->copy_error);
    if (result->ring_error != NULL)
        cli_note(call, "no images were taken any more: %s", result->ring_error);
    if (result->bundle_error != NULL)
        cli_note(call, "no bundle was made: %s", result->bundle_error);
    if (result->bundle_kept != NULL)
        cli_note(call, "what it was to hold is in %s", result->bundle_kept);
    if (result->bundled && result->n_images == 0)
        cli_note(call, "the recorded execution is in %s; `stasis replay` has it again", bundle);
    else if (result->bundled)
        cli_note(call, "%u images and the console are in %s; `stasis replay` runs it again",
                 result->n_images, bundle);
}

static StasisCiResult *run_test(CliCall *call, StasisCiOptions *options, GError **error)
{
    g_autoptr(StasisStore) store =
        needs_store(options)
            ? cli_open_store(
                  call, options->from != NULL ? STASIS_STORE_EXISTING : STASIS_STORE_CREATE, error)
            : NULL;
    if (store == NULL && needs_store(options))
        return NULL;
    g_autofree char *from =
        options->from != NULL ? stasis_store_resolve(store, options->from, error) : NULL;
    if (from == NULL && options->from != NULL)
        return NULL;
    options->from = from;
    StasisCiResult *result = stasis_ci_run(store, options, call->cancellable, error);
    options->from = NULL;
    return result;
}

static gboolean write_files(CliCall *call, const StasisCiResult *result, const Heard *heard,
                            GError **error)
{
    const char *junit = cli_text(call, "junit"), *console = cli_text(call, "console");
    const char *said = result->console != NULL ? result->console : "";
    /* The one is there though the other may not be. */
    gboolean ok = junit == NULL || cli_write_junit(junit, call->args, result, heard->output, error);
    return (console == NULL || cli_write_report(console, said, strlen(said), ok ? error : NULL)) &&
           ok;
}

/* "PATH:DIR" each, at the last colon; the texts are cut there. Free with g_free(). */
static StasisCiCopy *split_copies(char **words, const char *option, guint *ret_n, GError **error)
{
    guint n = words != NULL ? g_strv_length(words) : 0;
    g_autofree StasisCiCopy *copies = g_new0(StasisCiCopy, n + 1);
    for (guint i = 0; i < n; i++) {
        char *colon = strrchr(words[i], ':');
        if (colon == NULL || colon == words[i] || colon[1] == '\0') {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                        "--%s %s: PATH:DIR is meant, what and into which directory", option,
                        words[i]);
            return NULL;
        }
        *colon = '\0';
        copies[i] = (StasisCiCopy){ words[i], colon + 1 };
    }
    *ret_n = n;
    return g_steal_pointer(&copies);
}

static gboolean run_heard(CliCall *call, Heard *heard, GError **error)
{
    StasisCiOptions options = STASIS_CI_OPTIONS_INIT;
    g_auto(GStrv) on = cli_watch_words(call, error);
    if (on == NULL)
        return FALSE;
    read_options(call, &options, on);
    options.output = hear;
    options.output_data = heard;
    options.progress = cli_progress_show;
    options.progress_data = &heard->progress;
    g_autofree const char **env = cli_texts(call, "env");
    options.env = env;
    g_autofree const char **qemu_args = cli_texts(call, "qemu-arg");
    options.qemu_args = qemu_args;
    g_autofree const char **in_words = cli_texts(call, "copy-in");
    g_autofree const char **out_words = cli_texts(call, "copy-out");
    g_auto(GStrv) in = g_strdupv((char **)in_words), out = g_strdupv((char **)out_words);
    g_autofree StasisCiCopy *copy_in = split_copies(in, "copy-in", &options.n_copy_in, error);
    g_autofree StasisCiCopy *copy_out =
        copy_in != NULL ? split_copies(out, "copy-out", &options.n_copy_out, error) : NULL;
    if (copy_out == NULL)
        return FALSE;
    options.copy_in = copy_in;
    options.copy_out = copy_out;
    options.max_copy_bytes = cli_number(call, "max-copy", 0);
    g_autoptr(StasisCiResult) result = run_test(call, &options, error);
    cli_progress_end(&heard->progress);
    if (result == NULL)
        return FALSE;
    /* How it came out is told whatever becomes of the files. */
    heard->over = TRUE;
    call->exit_code = stasis_outcome_exit_code(&result->outcome);
    result_to_json(call, result, heard, options.bundle);
    tell(call, result, options.bundle);
    return write_files(call, result, heard, error);
}

/* Our own errors may have the exit status of a test: the report tells them apart. */
static gboolean run(CliCall *call, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(GError) unwritten = NULL;
    const char *junit = cli_text(call, "junit");
    if (!cli_check_report(call, "junit", error))
        return FALSE;
    Heard heard = { !call->json, g_string_new(NULL), FALSE, cli_progress_new(call) };
    if (cli_check_report(call, "console", &why) && run_heard(call, &heard, &why))
        junit = NULL;
    if (junit != NULL && !heard.over &&
        !cli_write_junit_error(junit, call->args, why, heard.output, &unwritten))
        cli_note(call, "no report: %s", unwritten->message);
    g_string_free(heard.output, TRUE);
    if (why == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

static const CliArgument arguments[] = {
    { "COMMAND", CLI_BEHIND, CLI_ARGV, "the test in the guest and its arguments" },
    { NULL },
};
static const CliOption options[] = {
    { "kernel", 0, CLI_FILE, "FILE", "boot this kernel" },
    { "initrd", 0, CLI_FILE, "FILE", "its initial RAM disk" },
    { "append", 0, CLI_TEXT, "LINE", "its command line (default: console=ttyS0)" },
    { "image", 0, CLI_FILE, "FILE", "a disk; it is not written to" },
    { "image-format", 0, CLI_CHOICE, "raw|qcow2|vmdk|vdi|vhdx|vpc",
      "of the disk (default: raw or qcow2, what it looks like)" },
    { "install-agent", 0, CLI_FLAG, NULL, "put the agent into what is used in the disk's place" },
    { "from", 0, CLI_IMAGE, "ID", "go on from this image instead of booting" },
    { "warm", 0, CLI_FLAG, NULL,
      "make an image once the machine has booted, and go on from it the next time that the "
      "machine would be the same" },
    { "memory", 0, CLI_TEXT, "SIZE", "the guest's memory, as QEMU's -m (default: 512M)" },
    { "cpus", 0, CLI_COUNT, "N", "its virtual CPUs (default: 1)" },
    { "accel", 0, CLI_CHOICE, "auto|kvm|tcg", "how it is run (default: auto)" },
    { "qemu", 0, CLI_FILE, "PROGRAM", "QEMU (default: qemu-system-x86_64)" },
    { "qemu-arg", 0, CLI_TEXT, "WORD", "one more word of QEMU's command line; may be repeated",
      .many = TRUE },
    { "boot-timeout", 0, CLI_SPAN, "TIME", "until the agent answers (default: 5min)" },
    { "chdir", 0, CLI_TEXT, "DIR", "where in the guest the test starts" },
    { "env", 0, CLI_TEXT, "NAME=VALUE",
      "put this into the test's environment, and into its replays'; may be repeated",
      .many = TRUE },
    { "copy-in", 0, CLI_TEXT, "PATH:DIR",
      "put this file or directory into the guest's directory DIR before the test; may be repeated",
      .many = TRUE },
    { "copy-out", 0, CLI_TEXT, "PATH:DIR",
      "when it is over, put the guest's file or directory PATH into the directory DIR; may be "
      "repeated",
      .many = TRUE },
    { "max-copy", 0, CLI_SIZE, "SIZE", "of what is copied out, at most (default: 1G)" },
    { "timeout", 0, CLI_SPAN, "TIME",
      "the test fails after that (default: 10min; with --deterministic at most that)" },
    { "max-output", 0, CLI_SIZE, "SIZE",
      "drop what it writes beyond that (default 1M, at most 16M)" },
    { "on", 0, CLI_TEXT, "WORDS",
      "what else is a failure: hang[=SEC], watchdog, reset, log=REGEX; with commas, log last. A "
      "panic and a VM that ends always are",
      .many = TRUE },
    { "every", 0, CLI_MS, "MS", "an image each so often (default: 500 with --bundle, else none)" },
    { "keep", 0, CLI_COUNT, "N", "the last so many of them (default: 10)" },
    { "bundle", 0, CLI_FILE, "FILE",
      "on failure, leave them and the console in this new file, which must not be there yet" },
    { "deterministic", 0, CLI_FLAG, NULL,
      "have QEMU record the machine: what --bundle keeps is the execution, instruction by "
      "instruction, instead of images" },
    { "junit", 0, CLI_FILE, "FILE",
      "write a report as JUnit's XML, also when the test could not be run" },
    { "console", 0, CLI_FILE, "FILE", "write what the guest said on its console, the last 1M" },
    { "scratch", 0, CLI_DIR, "DIR", "where images lie meanwhile (default: /var/tmp)" },
    { NULL },
};
static const CliExample examples[] = {
    { "ci-run --kernel vmlinuz --initrd initrd -- /bin/selftest", "Boot, test, exit as the test" },
    { "ci-run --image d.qcow2 --install-agent --warm --bundle fail -- make check",
      "On a disk of yours; from the second time on without booting" },
    { "ci-run --image d.qcow2 --copy-in t:/srv --copy-out /srv/t/logs:. -- /srv/t/check",
      "What is tested goes in, and the logs come out, whether it passed or failed" },
    { NULL },
};
const CliCommand cli_cmd_ci_run = {
    .group = "failure",
    .name = "ci-run",
    .summary = "run a test in a VM of its own, and keep what led to a failure",
    .description =
        "Boot a machine (or go on from an image), have the agent in it run COMMAND as root and "
        "without a shell, pass on what it writes, and end the machine. The exit status is the "
        "test's; 128 and its number more for a signal, 124 when it took too long, 125 when the "
        "guest panicked or shut down, --on saw something, or the agent was "
        "lost. When the test could not be run it is that of any stasis command, which a test "
        "may have as well: --junit and --json tell those apart.\n\n"
        "The guest needs stasis-agent: --install-agent puts it into the overlay that is used "
        "instead of the disk; a kernel with an initrd has to bring it along.\n\n"
        "The agent also copies files in before the test, and out of the guest afterwards, unless "
        "that has panicked or ended; that not all could be fetched is told, and is no failure. "
        "--progress tells how far that is.\n\n"
        "With --bundle images are taken while the test runs, the last few are kept, and on a "
        "failure they go into one file with the console and the test: `stasis replay` runs it "
        "again from any of them. Where that file can't be written it is left in --scratch's "
        "directory, and that is told. Where no more images can be had (the disk of --scratch is "
        "full, say), the test goes on without.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = run,
};
