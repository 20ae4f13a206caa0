/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One test in one machine: boot it (or go on from an image), run the test as a job of its agent,
 * take the ring meanwhile, keep what is needed of a failure, and leave nothing else behind.
 */
#include <errno.h>
#include <stasis/agent.h>
#include <stasis/checkpoint.h>
#include <stasis/error.h>
#include <stasis/maintenance.h>
#include <stasis/restore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/options.h"
#include "engine/ci/bound.h"
#include "engine/ci/ci-bundle.h"
#include "engine/ci/ci-copy.h"
#include "engine/ci/ci-machine.h"
#include "engine/ci/ci-record.h"
#include "engine/ci/trial.h"
#include "engine/guards/watch-console.h"
#include "engine/guards/watch.h"
#include "engine/vm/session.h"
#include "vmm/agent-channel.h"

#define DEFAULT_BOOT_US ((guint64)300 * 1000000)
#define DEFAULT_TEST_US ((guint64)600 * 1000000)
#define DEFAULT_KEEP 10
/* How long the agent has to answer: more each time, as on a busy host the first may be too short
 * for any. What fails at once is not asked again at once. */
#define PING_MS 2000
#define MAX_PING_MS 20000
#define PACE_US 100000
#define LOOK_MS 50
#define WARM_NOTE "booted for ci-run: "
#define KEEP_OTHERS 2
#define RING_NOTE "ci-run"

typedef struct {
    const StasisCiOptions *options;
    StasisStore *store; /* of the images that machines begin from; or NULL */
    GCancellable *cancellable;
    StasisNursery *nursery; /* ends the machine and removes the directory, whatever becomes of us */
    char *dir;              /* scratch */
    StasisVm *vm;
    StasisRing *ring;       /* or NULL; holds the VM … */
    StasisSession *session; /* … else this does, once the test runs */
    char *channel;
    GBytes *events; /* what QEMU told while the test ran */
    StasisCiResult *result;
} Ci;

static void ci_clear(Ci *ci)
{
    g_clear_pointer(&ci->ring, stasis_ring_free);
    g_clear_pointer(&ci->session, stasis_session_free);
    if (ci->vm != NULL)
        stasis_vm_end_bound(ci->vm, ci->nursery);
    g_clear_pointer(&ci->vm, stasis_vm_unref);
    g_clear_pointer(&ci->nursery, stasis_nursery_free);
    g_free(ci->dir);
    g_free(ci->channel);
    g_clear_pointer(&ci->events, g_bytes_unref);
    g_clear_pointer(&ci->result, stasis_ci_result_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Ci, ci_clear)

void stasis_ci_result_free(StasisCiResult *result)
{
    if (result == NULL)
        return;
    g_free(result->console);
    g_free(result->ring_error);
    g_free(result->bundle_error);
    g_free(result->bundle_kept);
    g_free(result->copy_error);
    g_free(result);
}

static char *scratch_dir(const Ci *ci)
{
    const char *scratch = ci->options->scratch != NULL ? ci->options->scratch : "/var/tmp";
    return g_canonicalize_filename(scratch, NULL);
}

static gboolean make_dir(Ci *ci, GError **error)
{
    g_autofree char *parent = scratch_dir(ci);
    ci->dir = g_build_filename(parent, "stasis-ci-XXXXXX", NULL);
    if (g_mkdtemp(ci->dir) != NULL)
        return stasis_nursery_add_dir(ci->nursery, ci->dir, error);
    int saved = errno;
    g_autofree char *dir = g_steal_pointer(&ci->dir);
    return stasis_set_errno(error, saved, "make %s", dir);
}

/* ---- the machine ---- */

static gboolean restore(Ci *ci, const char *id, const char *name, GError **error)
{
    StasisRestoreOptions options = STASIS_RESTORE_OPTIONS_INIT;
    options.name = name;
    options.disk_dir = ci->dir;
    ci->vm = stasis_restore_bound(ci->store, id, &options, ci->nursery, ci->cancellable, error);
    return ci->vm != NULL;
}

/* A VM that was paused when its image was taken is paused in it: no agent would ever answer. */
static gboolean go_on_from(Ci *ci, const char *name, GError **error)
{
    g_autoptr(StasisImageInfo) info = stasis_store_get_image(ci->store, ci->options->from, error);
    return info != NULL && restore(ci, ci->options->from, name, error) &&
           (!info->paused || stasis_vm_resume(ci->vm, error));
}

static gboolean boot(Ci *ci, const char *name, GError **error)
{
    StasisRunOptions run = STASIS_RUN_OPTIONS_INIT;
    run.agent = TRUE;
    run.accel = ci->options->accel;
    run.cwd = "/";
    g_auto(GStrv) argv = stasis_ci_machine_argv(ci->options, ci->dir, ci->cancellable, error);
    if (argv == NULL)
        return FALSE;
    ci->vm = stasis_vm_run_bound(name, &run, (const char *const *)argv, ci->nursery,
                                 ci->cancellable, error);
    return ci->vm != NULL;
}

/* The image of the machine as @key names it, or NULL. */
static char *find_warm(Ci *ci, const char *key, GError **error)
{
    g_autoptr(GPtrArray) images = stasis_store_list(ci->store, error);
    g_autofree char *note = g_strconcat(WARM_NOTE, key, NULL);
    for (guint i = images != NULL ? images->len : 0; i-- > 0;) {
        const StasisImageInfo *info = g_ptr_array_index(images, i);
        if (g_strcmp0(info->note, note) == 0)
            return g_strdup(info->id);
    }
    return NULL;
}

/* Those of what the machine was before: but for the last few, which other branches may be at. */
static void drop_older(Ci *ci, const char *key)
{
    g_autoptr(GPtrArray) images = stasis_store_list(ci->store, NULL);
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    guint n_others = 0;
    for (guint i = images != NULL ? images->len : 0; i-- > 0;) {
        const StasisImageInfo *info = g_ptr_array_index(images, i);
        const char *note = info->note != NULL ? info->note : "";
        if (g_str_has_prefix(note, WARM_NOTE) &&
            stasis_ci_machine_is_other_state(note + strlen(WARM_NOTE), key) &&
            ++n_others > KEEP_OTHERS)
            g_ptr_array_add(ids, info->id);
    }
    g_ptr_array_add(ids, NULL);
    /* One that can't go is in nobody's way. */
    if (ids->len > 1)
        stasis_store_delete_images(ci->store, (const char *const *)ids->pdata, NULL, NULL, NULL,
                                   NULL);
}

static gboolean keep_warm(Ci *ci, const char *key, GError **error)
{
    StasisCheckpointOptions options = STASIS_CHECKPOINT_OPTIONS_INIT;
    g_autofree char *note = g_strconcat(WARM_NOTE, key, NULL);
    options.note = note;
    options.full = TRUE;
    g_autoptr(StasisImageInfo) info =
        stasis_checkpoint_create(ci->vm, ci->store, &options, ci->cancellable, error);
    if (info == NULL)
        return FALSE;
    drop_older(ci, key);
    return TRUE;
}

static gboolean find_agent(Ci *ci, GError **error)
{
    g_autoptr(StasisSession) session =
        stasis_session_open(stasis_vm_get_name(ci->vm), STASIS_LOCK_WAIT_MS, error);
    g_autoptr(StasisAgentChannel) channel =
        session != NULL ? stasis_agent_channel_find(session->qmp, session->record->pid, error)
                        : NULL;
    if (channel == NULL)
        return FALSE;
    ci->channel = g_strdup(channel->path);
    return TRUE;
}

/* Until the agent answers: a kernel that gives up, or a QEMU that ends, is not waited for. The
 * monitor is whose asks for the agent. */
static gboolean wait_ready(Ci *ci, GError **error)
{
    static const char *const on[] = { "panic", NULL };
    guint64 start_us = stasis_now_us(), took_us;
    guint64 limit_us =
        ci->options->boot_timeout_us != 0 ? ci->options->boot_timeout_us : DEFAULT_BOOT_US;
    g_autoptr(StasisRecord) record = stasis_record_load(stasis_vm_get_name(ci->vm), error);
    g_autoptr(StasisWatch) watch =
        record != NULL ? stasis_watch_new(record, NULL, on, /* whole_console= */ TRUE, error)
                       : NULL;
    if (watch == NULL)
        return FALSE;
    for (guint ms = PING_MS;; ms = MIN(ms * 3 / 2, MAX_PING_MS)) {
        g_autoptr(GError) why = NULL;
        if (stasis_vm_agent_ping(ci->vm, ms, &took_us, ci->cancellable, &why))
            break;
        /* An agent of another version, say. */
        if (g_error_matches(why, STASIS_ERROR, STASIS_ERROR_CANCELLED) ||
            g_error_matches(why, STASIS_ERROR, STASIS_ERROR_NOT_FOUND) ||
            g_error_matches(why, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED)) {
            g_propagate_error(error, g_steal_pointer(&why));
            return FALSE;
        }
        g_usleep(PACE_US);
        g_autoptr(StasisFailure) failure = stasis_watch_look(watch);
        if (failure != NULL) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "the guest does not boot: %s",
                        failure->detail);
            return FALSE;
        }
        if (stasis_now_us() - start_us >= limit_us) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "no agent answered within %" G_GUINT64_FORMAT
                        " s of the machine's start; is stasis-agent in the guest? (%s)",
                        limit_us / 1000000, why->message);
            return FALSE;
        }
    }
    ci->result->ready_us = stasis_now_us() - start_us;
    return TRUE;
}

/* FALSE without an error: there is no such image, or not any more. */
static gboolean restore_warm(Ci *ci, const char *key, const char *name, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autofree char *id = find_warm(ci, key, NULL);
    if (id == NULL || (ci->result->warm = restore(ci, id, name, &why)))
        return id != NULL;
    if (!g_error_matches(why, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
        g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

static gboolean begin(Ci *ci, const char *key, const char *name, GError **error)
{
    g_autoptr(GError) why = NULL;
    if (ci->options->from != NULL)
        return go_on_from(ci, name, error);
    if (key != NULL && restore_warm(ci, key, name, &why))
        return TRUE;
    if (why == NULL)
        return boot(ci, name, error);
    g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

static gboolean start_machine(Ci *ci, GError **error)
{
    const StasisCiOptions *options = ci->options;
    gboolean warm = options->warm && options->from == NULL;
    g_autofree char *name = g_strdup_printf("ci-%08x", g_random_int());
    g_autofree char *key = warm ? stasis_ci_machine_key(options, error) : NULL;
    if ((warm && key == NULL) || !begin(ci, key, name, error) || !find_agent(ci, error) ||
        !wait_ready(ci, error))
        return FALSE;
    return !warm || ci->result->warm || keep_warm(ci, key, error);
}

/* ---- the test ---- */

/* The first image is from before the test's start. */
static gboolean start_ring(Ci *ci, GError **error)
{
    const StasisCiOptions *options = ci->options;
    g_autofree char *path = g_build_filename(ci->dir, "store", NULL);
    g_autoptr(StasisStore) store = stasis_store_open(path, STASIS_STORE_CREATE, error);
    if (store == NULL)
        return FALSE;
    ci->ring = stasis_ring_new(store, /* memory= */ NULL, stasis_vm_get_name(ci->vm), RING_NOTE,
                               options->keep != 0 ? options->keep : DEFAULT_KEEP);
    return stasis_ring_start(ci->ring, ci->vm, STASIS_DISKS_COPY, ci->cancellable, error) &&
           stasis_ring_take(ci->ring, ci->cancellable, error) != NULL;
}

static gboolean hold(Ci *ci, GError **error)
{
    if (ci->options->every_us != 0)
        return start_ring(ci, error);
    ci->session = stasis_session_open(stasis_vm_get_name(ci->vm), STASIS_LOCK_WAIT_MS, error);
    return ci->session != NULL;
}

static StasisSession *session(const Ci *ci)
{
    return ci->ring != NULL ? stasis_ring_get_session(ci->ring) : ci->session;
}

/* How the test comes out is worth more than its images: where there can't be more of them, it goes
 * on with those that are there. One that the guest outran is left out only. TRUE: it is over. */
static gboolean take_image(Ci *ci, StasisTrial *trial)
{
    g_autoptr(GError) why = NULL;
    if (stasis_ring_take(ci->ring, ci->cancellable, &why) != NULL)
        return FALSE;
    if (stasis_ring_may_skip(why)) {
        ci->result->n_skipped++;
        return FALSE;
    }
    /* Perhaps because the VM has just come to its end. */
    if (stasis_trial_look(trial, &ci->result->outcome))
        return TRUE;
    if (!g_error_matches(why, STASIS_ERROR, STASIS_ERROR_CANCELLED))
        ci->result->ring_error = g_strdup(why->message);
    return FALSE;
}

static gboolean watch(Ci *ci, StasisTrial *trial, GError **error)
{
    guint64 next_us = stasis_now_us() + ci->options->every_us;
    while (!stasis_trial_look(trial, &ci->result->outcome)) {
        if (g_cancellable_is_cancelled(ci->cancellable))
            return stasis_set_cancelled(error);
        guint64 now_us = stasis_now_us();
        if (ci->ring == NULL || ci->result->ring_error != NULL || !stasis_trial_has_begun(trial) ||
            now_us < next_us) {
            stasis_trial_wait(trial, LOOK_MS);
            continue;
        }
        if (take_image(ci, trial))
            break;
        next_us = now_us + ci->options->every_us;
    }
    return TRUE;
}

static void read_console(Ci *ci)
{
    g_autoptr(GBytes) said = stasis_watch_read_console(session(ci)->record, STASIS_CI_MAX_CONSOLE);
    gsize len;
    const char *text = g_bytes_get_data(said, &len);
    ci->result->console = g_utf8_make_valid(text != NULL ? text : "", (gssize)len);
}

/* From a guest that there is still: what it left says why it failed. */
static void fetch(Ci *ci)
{
    const StasisOutcome *outcome = &ci->result->outcome;
    g_autoptr(GError) why = NULL;
    if (ci->options->n_copy_out == 0)
        return;
    if (outcome->kind == STASIS_OUTCOME_PANIC || outcome->kind == STASIS_OUTCOME_VM_END)
        ci->result->copy_error = g_strdup_printf("the guest is gone (%s)", outcome->name);
    else if (!stasis_ci_copy_out(ci->options, stasis_vm_get_name(ci->vm), ci->channel,
                                 &ci->result->copied_out, ci->cancellable, &why))
        ci->result->copy_error = g_strdup(why->message);
}

static guint64 test_timeout_us(const StasisCiOptions *options)
{
    return options->timeout_us != 0 ? options->timeout_us : DEFAULT_TEST_US;
}

static gboolean run_test(Ci *ci, GError **error)
{
    const StasisCiOptions *o = ci->options;
    StasisTrialOptions options = { .channel = ci->channel,
                                   .job = { .name = STASIS_CI_JOB,
                                            .argv = o->argv,
                                            .dir = o->dir,
                                            .env = o->env,
                                            .max_bytes = o->max_output_bytes },
                                   .timeout_us = test_timeout_us(o),
                                   .on = o->on,
                                   .output = o->output,
                                   .output_data = o->output_data };
    if (!hold(ci, error))
        return FALSE;
    options.session = session(ci);
    g_autoptr(StasisTrial) trial = stasis_trial_new(&options, error);
    if (trial == NULL || !watch(ci, trial, error))
        return FALSE;
    ci->events = stasis_event_log_get(stasis_trial_get_log(trial));
    if (ci->ring == NULL)
        return TRUE;
    g_autoptr(GError) why = NULL;
    if (!stasis_ring_trim(ci->ring, &why) && ci->result->ring_error == NULL)
        ci->result->ring_error = g_strdup(why->message);
    ci->result->n_images = stasis_ring_get_n_images(ci->ring);
    return TRUE;
}

static gboolean write_bundle(Ci *ci, const StasisCiTest *test, const char *path, GError **error)
{
    return stasis_ci_bundle_write(path, stasis_vm_get_name(ci->vm), test, ci->ring,
                                  ci->result->console, ci->events, ci->cancellable, error);
}

/* The images lie in the scratch directory anyhow: where the bundle can't be written, it stays
 * there. Not for a name that is taken: that would leave a file for each run. */
static void keep_aside(Ci *ci, const StasisCiTest *test)
{
    const char *wanted = ci->options->bundle;
    if (g_file_test(wanted, G_FILE_TEST_EXISTS) || g_cancellable_is_cancelled(ci->cancellable))
        return;
    g_autofree char *base = g_path_get_basename(wanted), *dir = scratch_dir(ci);
    g_autofree char *name = g_strdup_printf("%s-%s", stasis_vm_get_name(ci->vm), base);
    g_autofree char *path = g_build_filename(dir, name, NULL);
    if (write_bundle(ci, test, path, NULL))
        ci->result->bundle_kept = g_steal_pointer(&path);
}

/* That it can't be kept does not change how the test came out. */
static void keep_failure(Ci *ci)
{
    const StasisCiOptions *options = ci->options;
    g_autoptr(GError) error = NULL;
    if (options->bundle == NULL || stasis_outcome_is_good(&ci->result->outcome))
        return;
    StasisCiTest test = { .argv = (char **)options->argv,
                          .dir = (char *)options->dir,
                          .env = (char **)options->env,
                          .timeout_us = test_timeout_us(options),
                          .max_output_bytes = options->max_output_bytes,
                          .on = (char **)options->on,
                          .outcome = ci->result->outcome };
    ci->result->bundled = write_bundle(ci, &test, options->bundle, &error);
    if (ci->result->bundled)
        return;
    ci->result->bundle_error = g_strdup(error->message);
    keep_aside(ci, &test);
}

/* That a bundle can't be made there is known before the test, too. */
static gboolean check_bundle(const char *path, GError **error)
{
    g_autofree char *dir = path != NULL ? g_path_get_dirname(path) : NULL;
    struct stat st;
    if (path == NULL)
        return TRUE;
    if (lstat(path, &st) == 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "bundle %s: a file of that name exists; name a new one, or remove it", path);
        return FALSE;
    }
    if (access(dir, W_OK | X_OK) == 0)
        return TRUE;
    int saved = errno;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "bundle %s: its directory: %s", path,
                g_strerror(saved));
    return FALSE;
}

/* What could not be read again is found before a machine is started for it. */
static gboolean check_words(const StasisCiOptions *options, GError **error)
{
    return options->bundle == NULL ||
           (stasis_ci_words_check("the test's command", options->argv, error) &&
            stasis_ci_words_check("environment", options->env, error) &&
            stasis_ci_words_check("what is watched for", options->on, error));
}

static gboolean check(StasisStore *store, const StasisCiOptions *options, GError **error)
{
    const char *what = NULL;
    if (options->argv == NULL || options->argv[0] == NULL)
        what = "no test to run";
    else if (options->from == NULL && options->kernel == NULL && options->image == NULL)
        what = "nothing to boot: a kernel (--kernel), a disk (--image) or an image of a store "
               "(--from) is needed";
    else if (options->from != NULL && (options->kernel != NULL || options->image != NULL))
        what = "either an image of a store or a machine to boot, not both";
    else if ((options->from != NULL || options->warm) && store == NULL)
        what = "a store is needed for images to begin from";
    else if (options->bundle != NULL && options->every_us == 0 && !options->deterministic)
        what = "a bundle needs a ring of images";
    for (guint i = 0; options->on != NULL && options->on[i] != NULL; i++)
        if (g_str_has_prefix(options->on[i], "agent-lost"))
            what = "that the agent is lost always counts, and needs no watching for";
    /* An expression that is none is found before a machine is started for it. */
    if (what == NULL)
        return check_bundle(options->bundle, error) && stasis_ci_copy_check(options, error) &&
               stasis_ci_env_check(options->env, error) && check_words(options, error) &&
               (options->on == NULL || stasis_watch_check(options->on, error));
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE, what);
    return FALSE;
}

StasisCiResult *stasis_ci_run(StasisStore *store, const StasisCiOptions *given,
                              GCancellable *cancellable, GError **error)
{
    StasisCiOptions own = STASIS_CI_OPTIONS_INIT;
    const StasisCiOptions *options = stasis_own_options(&own, given, sizeof own);
    g_auto(Ci) ci = { .options = options, .store = store, .cancellable = cancellable };
    if (!check(store, options, error))
        return NULL;
    ci.result = g_new0(StasisCiResult, 1);
    /* It is forked: before there are threads. */
    ci.nursery = stasis_nursery_new(error);
    if (ci.nursery == NULL || !make_dir(&ci, error))
        return NULL;
    if (options->deterministic) {
        gboolean ok = stasis_ci_record(options, ci.dir, test_timeout_us(options), ci.nursery,
                                       ci.result, cancellable, error);
        return ok ? g_steal_pointer(&ci.result) : NULL;
    }
    if (!start_machine(&ci, error) ||
        !stasis_ci_copy_in(options, stasis_vm_get_name(ci.vm), ci.channel, cancellable, error) ||
        !run_test(&ci, error))
        return NULL;
    read_console(&ci);
    keep_failure(&ci);
    fetch(&ci);
    return g_steal_pointer(&ci.result);
}
