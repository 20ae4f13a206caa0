/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VM is a clone: its RAM is the image's until it writes, its disks are overlays, and it has no
 * network, so that many can run side by side and none leaves a trace. Where nothing is to be
 * perturbed it does not learn that it goes on from an image.
 */
#include "engine/ci/replay-run.h"

#include <errno.h>
#include <stasis/clone.h>
#include <stasis/error.h>
#include <stasis/watch.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/io.h"
#include "engine/ci/bound.h"
#include "engine/ci/ci-record.h"
#include "engine/ci/outcome.h"
#include "engine/guards/bundle-internal.h"
#include "engine/guards/watch-console.h"
#include "store/image.h"
#include "vmm/agent-channel.h"

/* How timing is disturbed: the VM runs for up to so long, and stands still for up to so long. */
#define RUN_US 40000
#define STAND_US 15000
/* A guest that had a failure ahead of it and no test has at least so long for it. */
#define WATCH_MORE_US 5000000u
#define MAX_TOOK_US (G_GUINT64_CONSTANT(12) * 3600 * 1000000)
#define MAX_WORDS 256u /* to watch for */

/* ---- the bundle ---- */

void stasis_replay_source_free(StasisReplaySource *source)
{
    if (source == NULL)
        return;
    g_clear_pointer(&source->images, g_ptr_array_unref);
    g_clear_pointer(&source->test, stasis_ci_test_free);
    g_clear_pointer(&source->bundle, stasis_bundle_free);
    g_clear_pointer(&source->store, stasis_store_unref);
    g_clear_pointer(&source->nursery, stasis_nursery_free);
    g_free(source->dir);
    g_free(source->boot_dir);
    g_free(source);
}

static gboolean make_dir(StasisReplaySource *source, const char *scratch, GError **error)
{
    g_autofree char *parent = g_canonicalize_filename(scratch != NULL ? scratch : "/var/tmp", NULL);
    g_autofree char *dir = g_build_filename(parent, "stasis-replay-XXXXXX", NULL);
    if (g_mkdtemp(dir) == NULL)
        return stasis_set_errno(error, errno, "make %s", dir);
    source->dir = g_steal_pointer(&dir);
    return stasis_nursery_add_dir(source->nursery, source->dir, error);
}

/* What a guard's bundle has instead of a test. One from before they named what they watched for has
 * the failure's kind, and what else makes a watcher is not known. */
static StasisCiTest *watch_instead(const StasisBundleInfo *info, GError **error)
{
    g_autoptr(StasisCiTest) test = g_new0(StasisCiTest, 1);
    const char *kind = info->kind != NULL ? info->kind : "", *const fallback[] = { kind, NULL };
    test->on = g_strdupv(info->on != NULL ? info->on : (char **)fallback);
    if (info->at_us <= 0 || g_strv_length(test->on) > MAX_WORDS ||
        !stasis_watch_check((const char *const *)test->on, NULL)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "there is no test in it to run again, and nothing to watch for (it is of "
                    "\"%.80s\"); bundle-import puts its images into a store, and restore brings "
                    "them back",
                    kind[0] != '\0' ? kind : "-");
        return NULL;
    }
    test->outcome.kind = stasis_outcome_kind(kind);
    stasis_outcome_name(&test->outcome);
    if (info->detail != NULL)
        g_strlcpy(test->outcome.detail, info->detail, sizeof test->outcome.detail);
    return g_steal_pointer(&test);
}

static StasisCiTest *read_test(StasisBundle *bundle, GError **error)
{
    gsize len;
    g_autoptr(GError) why = NULL;
    g_autoptr(GBytes) text = stasis_bundle_read(bundle, STASIS_CI_TEST_FILE, &why);
    if (g_error_matches(why, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
        return watch_instead(stasis_bundle_get_info(bundle), error);
    if (text == NULL) {
        g_propagate_error(error, g_steal_pointer(&why));
        return NULL;
    }
    const char *data = g_bytes_get_data(text, &len);
    return stasis_ci_test_from_text(data, len, error);
}

/* What a guard took once it had failed shows how it is then, and nothing fails after it. */
static void leave_failed_ones(StasisReplaySource *source)
{
    GPtrArray *images = source->images;
    const StasisImageInfo *last;
    while (source->test->argv == NULL && images->len > 0 &&
           (last = images->pdata[images->len - 1])->created_us >= source->at_us)
        g_ptr_array_set_size(images, (gint)images->len - 1);
}

/* A replay's VMs are ended with us, whatever becomes of us: they are none of libvirtd's. */
static gboolean check_bare(StasisReplaySource *source, const char *path, GError **error)
{
    const StasisImageInfo *image = g_ptr_array_index(source->images, 0);
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(source->store, image->id, error);
    if (reader == NULL)
        return FALSE;
    g_autoptr(GBytes) xml = stasis_image_reader_get_part(reader, STASIS_PART_DOMAIN_XML, NULL);
    if (xml == NULL)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "%s is of a libvirt domain, which can't be replayed; bundle-import puts its images "
                "into a store, and restore or clone --connect brings them back",
                path);
    return FALSE;
}

static gboolean unpack(StasisReplaySource *source, StasisBundle *bundle, const char *path,
                       GCancellable *cancellable, GError **error)
{
    g_autofree char *boot_dir = g_build_filename(source->dir, "boot", NULL);
    gboolean has_boot_files;
    if (!stasis_bundle_extract_boot_files(bundle, boot_dir, &has_boot_files, error))
        return FALSE;
    if (has_boot_files)
        source->boot_dir = g_steal_pointer(&boot_dir);
    g_autofree char *store = g_build_filename(source->dir, "store", NULL);
    source->store = stasis_bundle_extract(bundle, store, cancellable, error);
    source->images = source->store != NULL ? stasis_store_list(source->store, error) : NULL;
    if (source->images == NULL)
        return FALSE;
    leave_failed_ones(source);
    if (source->images->len > 0)
        return check_bare(source, path, error);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "%s: there is no image in it from before the failure", path);
    return FALSE;
}

StasisReplaySource *stasis_replay_source_open(const char *path, const char *scratch,
                                              GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisReplaySource) source = g_new0(StasisReplaySource, 1);
    g_autoptr(StasisBundle) bundle = stasis_bundle_open(path, error);
    source->test = bundle != NULL ? read_test(bundle, error) : NULL;
    if (source->test == NULL) {
        if (bundle != NULL)
            g_prefix_error(error, "%s: ", path);
        return NULL;
    }
    source->at_us = stasis_bundle_get_info(bundle)->at_us;
    source->nursery = stasis_nursery_new(error);
    if (source->nursery == NULL || !make_dir(source, scratch, error))
        return NULL;
    if (source->test->append == NULL)
        return unpack(source, bundle, path, cancellable, error) ? g_steal_pointer(&source) : NULL;
    source->images = g_ptr_array_new();
    source->bundle = g_steal_pointer(&bundle);
    return stasis_ci_record_extract(source->bundle, source->dir, error) ? g_steal_pointer(&source)
                                                                        : NULL;
}

guint64 stasis_replay_source_timeout_us(const StasisReplaySource *source, guint index)
{
    const StasisImageInfo *image = g_ptr_array_index(source->images, index);
    guint64 from_us = (guint64)MAX(image->created_us, 0), to_us = (guint64)MAX(source->at_us, 0);
    /* Whatever the clocks said, or the bundle says that they did. */
    guint64 took_us = MIN(to_us > from_us ? to_us - from_us : 0, MAX_TOOK_US);
    return source->test->argv != NULL ? source->test->timeout_us : 2 * took_us + WATCH_MORE_US;
}

gboolean stasis_replay_source_find(const StasisReplaySource *source, const char *from,
                                   guint *ret_index, GError **error)
{
    guint n = source->images->len;
    guint64 number;
    if (n == 0) {
        *ret_index = 0;
        return TRUE;
    }
    if (from == NULL || strcmp(from, "latest") == 0) {
        *ret_index = n - 1;
        return TRUE;
    }
    if (strlen(from) <= 4 && g_ascii_string_to_unsigned(from, 10, 1, n, &number, NULL)) {
        *ret_index = (guint)number - 1;
        return TRUE;
    }
    g_autofree char *id = stasis_store_resolve(source->store, from, error);
    for (guint i = 0; id != NULL && i < n; i++)
        if (strcmp(((StasisImageInfo *)g_ptr_array_index(source->images, i))->id, id) == 0) {
            *ret_index = i;
            return TRUE;
        }
    g_prefix_error(error, "images of the ring are 1 to %u, or their IDs: ", n);
    return FALSE;
}

/* ---- a VM ---- */

struct _StasisReplayVm {
    const StasisReplaySource *source;
    StasisVm *vm;
    StasisSession *session;
    char *channel;
    StasisTrial *trial; /* or NULL: not followed yet */
    gboolean jitter, standing;
    guint64 change_us;       /* when it is stopped, or goes on, next */
    guint n_pauses;          /* so far */
    StasisOutputFunc output; /* or NULL */
    gpointer output_data;
    GString *kept[2]; /* stdout and stderr, the trial's thread's until that has ended; or NULL */
};

void stasis_replay_vm_free(StasisReplayVm *vm)
{
    if (vm == NULL)
        return;
    g_clear_pointer(&vm->trial, stasis_trial_free);
    g_clear_pointer(&vm->session, stasis_session_free);
    if (vm->vm != NULL)
        stasis_vm_end_bound(vm->vm, vm->source->nursery);
    g_clear_pointer(&vm->vm, stasis_vm_unref);
    for (guint i = 0; i < G_N_ELEMENTS(vm->kept); i++)
        if (vm->kept[i] != NULL)
            g_string_free(vm->kept[i], TRUE);
    g_free(vm->channel);
    g_free(vm);
}

static gboolean make_clone(StasisReplayVm *vm, guint index, gboolean seed,
                           GCancellable *cancellable, GError **error)
{
    const StasisImageInfo *image = g_ptr_array_index(vm->source->images, index);
    g_autofree char *name = g_strdup_printf("replay-%08x", g_random_int());
    StasisCloneOptions options = STASIS_CLONE_OPTIONS_INIT;
    options.name = name;
    options.paused = TRUE;
    options.keep_identity = TRUE;
    options.unaware = !seed;
    options.boot_dir = vm->source->boot_dir;
    g_autoptr(StasisClones) clones = stasis_clone_bound(vm->source->store, image->id, &options,
                                                        vm->source->nursery, cancellable, error);
    if (clones == NULL)
        return FALSE;
    StasisClone *first = g_ptr_array_index(clones->clones, 0);
    if (first->error != NULL) {
        g_propagate_error(error, g_error_copy(first->error));
        return FALSE;
    }
    vm->vm = stasis_vm_open(name, error);
    return vm->vm != NULL;
}

StasisReplayVm *stasis_replay_vm_new(const StasisReplaySource *source, guint index, guint perturb,
                                     GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisReplayVm) vm = g_new0(StasisReplayVm, 1);
    vm->source = source;
    vm->jitter = (perturb & 1u << STASIS_PERTURB_TIMING) != 0;
    if (!make_clone(vm, index, (perturb & 1u << STASIS_PERTURB_SEED) != 0, cancellable, error))
        return NULL;
    vm->session = stasis_session_open(stasis_vm_get_name(vm->vm), STASIS_LOCK_WAIT_MS, error);
    if (vm->session == NULL)
        return NULL;
    g_autoptr(GError) why = NULL;
    g_autoptr(StasisAgentChannel) channel =
        stasis_agent_channel_find(vm->session->qmp, vm->session->record->pid, &why);
    if (channel == NULL && source->test->argv != NULL) {
        g_propagate_error(error, g_steal_pointer(&why));
        return NULL;
    }
    vm->channel = channel != NULL ? g_strdup(channel->path) : NULL;
    if (vm->jitter)
        setpriority(PRIO_PROCESS, (id_t)vm->session->record->pid, g_random_int_range(0, 10));
    return g_steal_pointer(&vm);
}

StasisVm *stasis_replay_vm_get(StasisReplayVm *vm)
{
    return vm->vm;
}

StasisQmp *stasis_replay_vm_get_qmp(StasisReplayVm *vm)
{
    return vm->session->qmp;
}

void stasis_replay_vm_set_output(StasisReplayVm *vm, StasisOutputFunc output, gpointer user_data)
{
    vm->output = output;
    vm->output_data = user_data;
}

void stasis_replay_vm_keep_output(StasisReplayVm *vm)
{
    for (guint i = 0; i < G_N_ELEMENTS(vm->kept); i++)
        vm->kept[i] = g_string_new(NULL);
}

/* Bounded by what a job may write (agent-job.c). */
static void hear(gboolean is_error, const guint8 *bytes, gsize n, gpointer user_data)
{
    StasisReplayVm *vm = user_data;
    GString *kept = vm->kept[is_error ? 1 : 0];
    if (kept != NULL)
        g_string_append_len(kept, (const char *)bytes, (gssize)n);
    if (vm->output != NULL)
        vm->output(is_error, bytes, n, vm->output_data);
}

static gboolean write_file(const char *base, const char *end, const char *bytes, gsize n,
                           GError **error)
{
    g_autofree char *path = g_strconcat(base, end, NULL);
    return g_file_set_contents(path, bytes != NULL ? bytes : "", (gssize)n, error);
}

gboolean stasis_replay_vm_write(StasisReplayVm *vm, const char *base, GError **error)
{
    gsize n;
    g_clear_pointer(&vm->trial, stasis_trial_free);
    g_autoptr(GBytes) console =
        stasis_watch_read_console(vm->session->record, STASIS_CI_MAX_CONSOLE);
    const char *said = g_bytes_get_data(console, &n);
    gboolean has_test = vm->source->test->argv != NULL;
    return (!has_test ||
            (write_file(base, ".stdout", vm->kept[0]->str, vm->kept[0]->len, error) &&
             write_file(base, ".stderr", vm->kept[1]->str, vm->kept[1]->len, error))) &&
           write_file(base, ".console", said, n, error);
}

gboolean stasis_replay_vm_follow(StasisReplayVm *vm, guint64 timeout_us, GError **error)
{
    const StasisCiTest *test = vm->source->test;
    StasisTrialOptions options = { .session = vm->session,
                                   .channel = vm->channel,
                                   .job = { .name = STASIS_CI_JOB,
                                            .argv = (const char *const *)test->argv,
                                            .dir = test->dir,
                                            .env = (const char *const *)test->env,
                                            .max_bytes = test->max_output_bytes },
                                   .timeout_us = timeout_us,
                                   .on = (const char *const *)test->on,
                                   .output = hear,
                                   .output_data = vm };
    vm->trial = stasis_trial_new(&options, error);
    return vm->trial != NULL;
}

static gboolean tell(StasisReplayVm *vm, const char *command, GError **error)
{
    g_autoptr(JsonNode) answer = stasis_qmp_execute(vm->session->qmp, command, NULL, -1, 0, error);
    return answer != NULL;
}

static guint64 soon(guint64 most_us)
{
    return stasis_now_us() + (guint64)g_random_int_range(0, (gint32)most_us);
}

gboolean stasis_replay_vm_go(StasisReplayVm *vm, GError **error)
{
    stasis_trial_wait_told(vm->trial);
    vm->change_us = soon(RUN_US);
    return tell(vm, "cont", error);
}

gboolean stasis_replay_vm_look(StasisReplayVm *vm, StasisOutcome *ret)
{
    if (stasis_trial_look(vm->trial, ret))
        return TRUE;
    if (vm->jitter && stasis_now_us() >= vm->change_us) {
        /* If that fails the next look tells why. */
        gboolean done = tell(vm, vm->standing ? "cont" : "stop", NULL);
        vm->standing = !vm->standing;
        vm->n_pauses += done && vm->standing;
        vm->change_us = soon(vm->standing ? STAND_US : RUN_US);
    }
    return FALSE;
}

guint stasis_replay_vm_get_n_pauses(const StasisReplayVm *vm)
{
    return vm->n_pauses;
}
