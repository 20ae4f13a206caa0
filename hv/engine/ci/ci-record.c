/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/ci/ci-record.h"

#include <stasis/error.h>
#include <string.h>

#include "engine/ci/outcome.h"
#include "engine/ci/recorded.h"
#include "engine/guards/bundle-internal.h"

#define KERNEL "kernel"
#define INITRD "initrd"
#define DEFAULT_APPEND "console=ttyS0"
#define DEFAULT_MEMORY "512M"

/* What goes into a bundle of what lies in the directory; all but the console, which has a place. */
static const char *const files[] = { STASIS_RECORDED_LOG, STASIS_RECORDED_DISK,
                                     STASIS_RECORDED_ANSWER };

static gboolean check(const StasisCiOptions *options, guint64 timeout_us, GError **error)
{
    const char *what = NULL;
    if (options->kernel == NULL || options->image != NULL || options->from != NULL)
        what = "a machine that is recorded is booted from a kernel and an initrd";
    else if (options->n_vcpus > 1 || (options->accel != NULL && strcmp(options->accel, "kvm") == 0))
        what = "a machine that is recorded is emulated, with one CPU";
    else if (options->qemu_args != NULL && options->qemu_args[0] != NULL)
        what = "a machine that is recorded can't have further arguments";
    else if (options->warm)
        what = "what is recorded begins with the machine's start, not with an image";
    else if (timeout_us > STASIS_RECORDED_MAX_US)
        what = "a test that is recorded ends within 10 minutes (--timeout)";
    for (guint i = 0; options->on != NULL && options->on[i] != NULL; i++)
        if (!g_str_has_prefix(options->on[i], "log="))
            what = "of a machine that is recorded only the console is watched: --on log=REGEX";
    if (what == NULL)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE, what);
    return FALSE;
}

/* ---- the bundle ---- */

static gboolean add_file(GArray *list, const char *name, const char *path, GError **error)
{
    g_autofree char *full = g_canonicalize_filename(path, NULL);
    g_autoptr(GMappedFile) mapped = g_mapped_file_new(full, FALSE, error);
    if (mapped == NULL)
        return FALSE;
    StasisBundleFile file = { g_strconcat(STASIS_CI_RECORDED, name, NULL),
                              g_mapped_file_get_bytes(mapped) };
    g_array_append_val(list, file);
    return TRUE;
}

static void file_clear(gpointer data)
{
    StasisBundleFile *file = data;
    g_free((char *)file->name);
    g_bytes_unref(file->data);
}

static GArray *list_files(const StasisCiOptions *options, const StasisCiTest *test, const char *dir,
                          GError **error)
{
    g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(StasisBundleFile));
    g_array_set_clear_func(list, file_clear);
    char *text = stasis_ci_test_to_text(test);
    StasisBundleFile described = { g_strdup(STASIS_CI_TEST_FILE),
                                   g_bytes_new_take(text, strlen(text)) };
    g_array_append_val(list, described);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = g_build_filename(dir, files[i], NULL);
        if (!add_file(list, files[i], path, error))
            return NULL;
    }
    if (!add_file(list, KERNEL, options->kernel, error) ||
        (options->initrd != NULL && !add_file(list, INITRD, options->initrd, error)))
        return NULL;
    return g_steal_pointer(&list);
}

static gboolean write_bundle(const StasisCiOptions *options, const StasisCiTest *test,
                             const char *dir, const char *qemu_version, GCancellable *cancellable,
                             GError **error)
{
    static const char *const none[] = { NULL };
    g_autofree char *console = g_build_filename(dir, STASIS_RECORDED_CONSOLE, NULL);
    g_autofree char *place = g_build_filename(dir, "store", NULL);
    g_autoptr(GArray) list = list_files(options, test, dir, error);
    g_autoptr(GMappedFile) said = list != NULL ? g_mapped_file_new(console, FALSE, error) : NULL;
    g_autoptr(GBytes) bytes = said != NULL ? g_mapped_file_get_bytes(said) : NULL;
    g_autoptr(StasisStore) store =
        bytes != NULL ? stasis_store_open(place, STASIS_STORE_CREATE, error) : NULL;
    if (store == NULL)
        return FALSE;
    StasisBundleOptions bundle = STASIS_BUNDLE_OPTIONS_INIT;
    bundle.kind = "test";
    bundle.detail = test->outcome.name;
    bundle.at_us = g_get_real_time();
    bundle.domain = "recorded";
    bundle.qemu_version = qemu_version;
    bundle.command = (const char *const *)test->argv;
    bundle.console = bytes;
    bundle.files = (const StasisBundleFile *)(void *)list->data;
    bundle.n_files = list->len;
    return stasis_bundle_create(store, none, options->bundle, &bundle, cancellable, error);
}

static void read_console(const char *dir, StasisCiResult *result)
{
    g_autofree char *path = g_build_filename(dir, STASIS_RECORDED_CONSOLE, NULL);
    g_autoptr(GMappedFile) said = g_mapped_file_new(path, FALSE, NULL);
    gsize size = said != NULL ? g_mapped_file_get_length(said) : 0;
    gsize len = MIN(size, STASIS_CI_MAX_CONSOLE);
    const char *text = len > 0 ? g_mapped_file_get_contents(said) + (size - len) : "";
    result->console = g_utf8_make_valid(text, (gssize)len);
}

gboolean stasis_ci_record(const StasisCiOptions *options, const char *dir, guint64 timeout_us,
                          StasisNursery *nursery, StasisCiResult *result, GCancellable *cancellable,
                          GError **error)
{
    StasisCiTest test = { .argv = (char **)options->argv,
                          .dir = (char *)options->dir,
                          .env = (char **)options->env,
                          .timeout_us = timeout_us,
                          .max_output_bytes = options->max_output_bytes,
                          .on = (char **)options->on,
                          .memory = (char *)(options->memory != NULL ? options->memory
                                                                     : DEFAULT_MEMORY) };
    if (!check(options, timeout_us, error))
        return FALSE;
    g_autofree char *append = stasis_recorded_append(
        options->append != NULL ? options->append : DEFAULT_APPEND, &test, error);
    test.append = append;
    g_autofree char *qemu_version = NULL;
    StasisRecorded recorded = { .dir = dir,
                                .nursery = nursery,
                                .test = &test,
                                .qemu = options->qemu,
                                .kernel = options->kernel,
                                .initrd = options->initrd,
                                .record = TRUE,
                                .output = options->output,
                                .output_data = options->output_data,
                                .ret_qemu_version = &qemu_version };
    if (append == NULL || !stasis_recorded_run(&recorded, &test.outcome, cancellable, error))
        return FALSE;
    result->outcome = test.outcome;
    read_console(dir, result);
    g_autoptr(GError) why = NULL;
    if (options->bundle != NULL && !stasis_outcome_is_good(&test.outcome)) {
        result->bundled = write_bundle(options, &test, dir, qemu_version, cancellable, &why);
        result->bundle_error = why != NULL ? g_strdup(why->message) : NULL;
    }
    return TRUE;
}

/* ---- again ---- */

static gboolean extract(StasisBundle *bundle, const char *name, const char *dir, GError **error)
{
    g_autofree char *member = g_strconcat(STASIS_CI_RECORDED, name, NULL);
    g_autofree char *path = g_build_filename(dir, name, NULL);
    return stasis_bundle_extract_file(bundle, member, path, error);
}

static gboolean has_member(StasisBundle *bundle, const char *name)
{
    const GPtrArray *members = stasis_bundle_get_info(bundle)->members;
    for (guint i = 0; i < members->len; i++)
        if (strcmp(((StasisBundleMember *)g_ptr_array_index(members, i))->name, name) == 0)
            return TRUE;
    return FALSE;
}

gboolean stasis_ci_record_extract(StasisBundle *bundle, const char *dir, GError **error)
{
    return extract(bundle, STASIS_RECORDED_LOG, dir, error) &&
           extract(bundle, STASIS_RECORDED_DISK, dir, error) &&
           extract(bundle, KERNEL, dir, error) &&
           (!has_member(bundle, STASIS_CI_RECORDED INITRD) || extract(bundle, INITRD, dir, error));
}

/* Did the replay write what was recorded, as far as it came? The first byte that differs, or -1. */
static gint64 differs_at(StasisBundle *bundle, const char *member, const char *dir,
                         const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autofree char *have = NULL;
    gsize n_have = 0, n_want = 0;
    g_autoptr(GBytes) bytes = stasis_bundle_read(bundle, member, NULL);
    const char *want = bytes != NULL ? g_bytes_get_data(bytes, &n_want) : NULL;
    if (!g_file_get_contents(path, &have, &n_have, NULL))
        return 0;
    for (gsize i = 0; i < MIN(n_have, n_want); i++)
        if (have[i] != want[i])
            return (gint64)i;
    return n_have > n_want ? (gint64)n_want : -1;
}

static void compare(StasisBundle *bundle, const char *dir, const StasisCiTest *test,
                    StasisOutcome *outcome)
{
    gint64 console = differs_at(bundle, STASIS_RECORDED_CONSOLE, dir, STASIS_RECORDED_CONSOLE);
    gint64 answer =
        differs_at(bundle, STASIS_CI_RECORDED STASIS_RECORDED_ANSWER, dir, STASIS_RECORDED_ANSWER);
    if (console < 0 && answer < 0 && strcmp(outcome->name, test->outcome.name) == 0)
        return;
    g_autoptr(GString) detail = g_string_new("not as recorded: ");
    g_string_append_printf(detail, "%s instead of %s", outcome->name, test->outcome.name);
    if (console >= 0 || answer >= 0)
        g_string_append_printf(detail, "; the %s differs at byte %" G_GINT64_FORMAT,
                               console >= 0 ? "console" : "agent's answer",
                               console >= 0 ? console : answer);
    g_strlcpy(outcome->detail, detail->str, sizeof outcome->detail);
    outcome->kind = STASIS_OUTCOME_LOST;
    stasis_outcome_name(outcome);
}

/* @initrd: where that is, if it has one. Valid as long as @kernel and @initrd. */
static StasisRecorded describe(const StasisReplaySource *source, const char *kernel,
                               const char *initrd)
{
    return (StasisRecorded){ .dir = source->dir,
                             .nursery = source->nursery,
                             .test = source->test,
                             .kernel = kernel,
                             .initrd = g_file_test(initrd, G_FILE_TEST_EXISTS) ? initrd : NULL };
}

gboolean stasis_ci_record_replay(const StasisReplaySource *source, GPtrArray *images,
                                 StasisOutcome *ret_outcome, GCancellable *cancellable,
                                 GError **error)
{
    g_autofree char *kernel = g_build_filename(source->dir, KERNEL, NULL);
    g_autofree char *initrd = g_build_filename(source->dir, INITRD, NULL);
    StasisRecorded recorded = describe(source, kernel, initrd);
    recorded.images = images;
    if (!stasis_recorded_run(&recorded, ret_outcome, cancellable, error))
        return FALSE;
    compare(source->bundle, source->dir, source->test, ret_outcome);
    return TRUE;
}

/* Not compared: who goes back in it has the guest write things twice. */
gboolean stasis_ci_record_debug(const StasisReplaySource *source, const StasisCiRecordDebug *debug,
                                StasisOutcome *ret_outcome, GCancellable *cancellable,
                                GError **error)
{
    g_autofree char *kernel = g_build_filename(source->dir, KERNEL, NULL);
    g_autofree char *initrd = g_build_filename(source->dir, INITRD, NULL);
    StasisRecorded recorded = describe(source, kernel, initrd);
    recorded.from = debug->from;
    recorded.gdb = debug->gdb;
    recorded.ready = debug->ready;
    recorded.ready_data = debug->user_data;
    return stasis_recorded_run(&recorded, ret_outcome, cancellable, error);
}
