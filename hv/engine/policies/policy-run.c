/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A policy carried out once: an image with the policies' mark, then what is no longer wanted of the
 * images with that mark goes. The mark is in the image, so that whoever is killed in between, no
 * image is forgotten; and nobody else can set it, so that none that somebody else has made is ever
 * taken for one of ours.
 */
#include <stasis/checkpoint.h>
#include <stasis/error.h>
#include <stasis/policy.h>
#include <stasis/process-image.h>
#include <stasis/serve.h>

/* An end of a cycle is waited for over so many, and for a second at least; the agent waits for 30
 * s. */
#define WAIT_CYCLES 20u
#define MIN_WAIT_US ((guint64)G_TIME_SPAN_SECOND)
#define MAX_AGENT_WAIT_US ((guint64)30 * G_TIME_SPAN_SECOND)

static StasisVm *open_vm(const StasisPolicy *policy, GCancellable *cancellable, GError **error)
{
    return policy->connect != NULL
               ? stasis_vm_open_domain(policy->connect, policy->vm, cancellable, error)
               : stasis_vm_open(policy->vm, error);
}

static StasisPruneOptions prune_options_of(const StasisPolicy *policy, const char *vm)
{
    return (StasisPruneOptions){
        .struct_size = sizeof(StasisPruneOptions),
        .vm = vm,
        .by_policy = TRUE,
        .keep_last = policy->keep_last,
        .keep_hourly = policy->keep_hourly,
        .keep_daily = policy->keep_daily,
        .keep_weekly = policy->keep_weekly,
        .keep_monthly = policy->keep_monthly,
        .keep_yearly = policy->keep_yearly,
        .keep_within_us = policy->keep_within_us,
        .quota_bytes = policy->quota_bytes,
        .keep_newest = TRUE,
    };
}

/* One that says nothing of what to keep keeps all. */
static gboolean says_what_stays(const StasisPolicy *policy)
{
    return policy->keep_last != 0 || policy->keep_hourly != 0 || policy->keep_daily != 0 ||
           policy->keep_weekly != 0 || policy->keep_monthly != 0 || policy->keep_yearly != 0 ||
           policy->keep_within_us != 0 || policy->quota_bytes != 0;
}

StasisPruneResult *stasis_policy_preview(const StasisPolicy *policy, GCancellable *cancellable,
                                         GError **error)
{
    g_autoptr(StasisStore) store = stasis_store_open(policy->store, STASIS_STORE_EXISTING, error);
    if (store == NULL)
        return NULL;
    /* A domain's images may bear another name; one that does not run has its own, most likely. */
    g_autoptr(StasisVm) vm = open_vm(policy, cancellable, NULL);
    StasisPruneOptions options =
        prune_options_of(policy, vm != NULL ? stasis_vm_get_name(vm) : policy->vm);
    options.dry_run = TRUE;
    if (!says_what_stays(policy))
        options.keep_last = G_MAXUINT;
    return policy->watch != NULL
               ? stasis_store_prune_processes(store, &options, NULL, cancellable, error)
               : stasis_store_prune(store, &options, cancellable, error);
}

/* ---- deadlines ---- */

/* The stop begins at the end of a cycle, and is over before the next one, or there is none. */
static void place_in_slack(const StasisPolicy *policy, StasisCheckpointOptions *options)
{
    guint64 most = options->max_pause_us;
    options->max_pause_us = most == 0 ? policy->slack_us : MIN(most, policy->slack_us);
    options->cycle_word = policy->cycle_word;
    options->missed_word = policy->missed_word;
    options->cycle_wait_us = MAX(policy->period_us * WAIT_CYCLES, MIN_WAIT_US);
}

typedef struct {
    char *id;
    guint n_cycles;
    guint64 n_missed;
    gboolean counted;
    GError *error;
} Taken;

static void taken_clear(Taken *taken)
{
    g_free(taken->id);
    g_clear_error(&taken->error);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Taken, taken_clear)

static void on_served(const StasisServed *served, gpointer data)
{
    Taken *taken = data;
    if (served->kind != STASIS_SERVED_PERIOD)
        return;
    taken->id = g_strdup(served->id);
    taken->n_cycles = served->n_cycles;
    taken->n_missed = served->n_missed;
    taken->counted = served->deadlines_counted;
    taken->error = served->error != NULL ? g_error_copy(served->error) : NULL;
}

/* The guest's count came when the image was there already: it is told, and not in it. */
static StasisImageInfo *get_taken(StasisStore *store, const Taken *taken, GError **error)
{
    StasisImageInfo *image = stasis_store_get_image(store, taken->id, error);
    if (image != NULL) {
        image->cost.deadlines_counted = taken->counted;
        image->cost.missed_deadlines = taken->n_missed;
    }
    return image;
}

/* One by the agent in the guest, which is told by programs when a cycle ends; it is due at once. */
static StasisImageInfo *take_at_cycle_end(StasisVm *vm, StasisStore *store,
                                          const StasisCheckpointOptions *options,
                                          GCancellable *cancellable, GError **error)
{
    g_auto(Taken) taken = { 0 };
    StasisServeOptions serve = STASIS_SERVE_OPTIONS_INIT;
    serve.every_us = 1;
    serve.cycle_end = serve.cycle_needed = TRUE;
    serve.cycle_wait_us = MIN(options->cycle_wait_us, MAX_AGENT_WAIT_US);
    serve.max_checkpoints = 1;
    serve.note = options->note;
    serve.checkpoint = options;
    serve.served = on_served;
    serve.served_data = &taken;
    if (!stasis_vm_serve(vm, store, &serve, cancellable, error) ||
        g_cancellable_set_error_if_cancelled(cancellable, error))
        return NULL;
    if (taken.id != NULL)
        return get_taken(store, &taken, error);
    if (taken.error != NULL)
        g_propagate_error(error, g_steal_pointer(&taken.error));
    else
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                    "a program in the guest wished for something else first; try again");
    return NULL;
}

static gboolean take(const StasisPolicy *policy, StasisVm *vm, StasisStore *store,
                     StasisPolicyResult *result, const StasisPruneOptions *prune,
                     GCancellable *cancellable, GError **error)
{
    StasisCheckpointOptions options = STASIS_CHECKPOINT_OPTIONS_INIT;
    options.note = STASIS_POLICY_NOTE;
    options.by_policy = TRUE;
    options.max_pause_us = policy->max_pause_us;
    options.quiesce = policy->quiesce;
    options.disks =
        policy->disk != NULL ? (StasisDisks)stasis_disks_from_string(policy->disk) : options.disks;
    options.progress = prune->progress;
    options.progress_data = prune->progress_data;
    if (policy->period_us > 0)
        place_in_slack(policy, &options);
    result->image = policy->period_us > 0 && policy->cycle_word == 0
                        ? take_at_cycle_end(vm, store, &options, cancellable, error)
                        : stasis_checkpoint_create(vm, store, &options, cancellable, error);
    return result->image != NULL;
}

/* What keeps old images from going is told, and no failure: the new one is there. */
static void tidy(const StasisPolicy *policy, StasisStore *store, StasisPolicyResult *result,
                 const StasisPruneOptions *options, GCancellable *cancellable)
{
    g_autoptr(GError) error = NULL;
    if (says_what_stays(policy)) {
        g_autoptr(StasisPruneResult) pruned =
            stasis_store_prune(store, options, cancellable, &error);
        if (pruned != NULL) {
            result->n_removed = pruned->n_removed;
            result->freed_bytes = pruned->freed_bytes;
        }
    }
    guint depth = 0;
    StasisFoldOptions fold = STASIS_FOLD_OPTIONS_INIT;
    fold.id = result->image->id;
    if (error == NULL && stasis_store_get_depth(store, fold.id, &depth, &error) &&
        depth > STASIS_DEFAULT_MAX_DEPTH) {
        StasisFoldResult folded;
        stasis_store_fold(store, &fold, &folded, cancellable, &error);
    }
    result->left = error != NULL ? g_strdup(error->message) : NULL;
}

StasisPolicyResult *stasis_policy_run(const StasisPolicy *policy, StasisProgressFunc progress,
                                      gpointer user_data, GCancellable *cancellable, GError **error)
{
    if (policy->guard != NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "the policy of VM \"%s\" is a guard: stasis guard, or stasisd, carries it out",
                    policy->vm);
        return NULL;
    }
    if (policy->watch != NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "the policy of VM \"%s\" is a watch: stasis proc-watch, or stasisd, carries it "
                    "out",
                    policy->vm);
        return NULL;
    }
    g_autoptr(StasisVm) vm = open_vm(policy, cancellable, error);
    g_autoptr(StasisStore) store =
        vm != NULL ? stasis_store_open(policy->store, STASIS_STORE_CREATE, error) : NULL;
    if (store == NULL)
        return NULL;
    g_autoptr(StasisPolicyResult) result = g_new0(StasisPolicyResult, 1);
    StasisPruneOptions options = prune_options_of(policy, stasis_vm_get_name(vm));
    options.progress = progress;
    options.progress_data = user_data;
    if (!take(policy, vm, store, result, &options, cancellable, error))
        return NULL;
    tidy(policy, store, result, &options, cancellable);
    return g_steal_pointer(&result);
}

void stasis_policy_result_free(StasisPolicyResult *result)
{
    if (result == NULL)
        return;
    stasis_image_info_free(result->image);
    g_free(result->left);
    g_free(result);
}
