/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/ci/trial.h"

#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "engine/ci/outcome.h"
#include "engine/guards/watch.h"
#include "engine/guest/agent-vm.h"
#include "engine/guest/awaken.h"

#define FOR_EVER_US (G_GUINT64_CONSTANT(24) * 3600 * 1000000)
/* The agent's own time limit is the longer one: the outcome is the same wherever it is seen. */
#define GUEST_SLACK_MS 5000
#define STATE_LOOK_US 100000
/* The agent may go before it shows why: a guest shuts down from the top. */
#define LOST_US 2000000
/* QEMU takes what is sent at once, whether the VM runs or not: a hang limit. */
#define TOLD_US 10000000

struct _StasisTrial {
    StasisTrialOptions options;
    guint64 start_us, end_us;
    guint64 state_looked_us, lost_us;
    StasisWatch *watch;
    GCancellable *cancellable;
    GThread *thread;
    /* Below the lock: what the thread has to say. */
    GMutex lock;
    GCond changed;
    gboolean told, begun, done;
    StasisJobEnd end;
    GError *error; /* why there is no end */
};

static void set(StasisTrial *trial, gboolean *flag)
{
    g_mutex_lock(&trial->lock);
    *flag = TRUE;
    g_cond_signal(&trial->changed);
    g_mutex_unlock(&trial->lock);
}

static gboolean has_test(const StasisTrial *trial)
{
    return trial->options.job.argv != NULL;
}

static gboolean follow(StasisTrial *trial, GError **error)
{
    const StasisTrialOptions *o = &trial->options;
    StasisAgentWait wait = { trial->end_us, trial->cancellable };
    const char *vm = o->session->record->name;
    gboolean old;
    guint64 offset = 0, awakening = 0;
    g_autoptr(StasisAgent) agent = stasis_agent_connect(vm, o->channel, &wait, error);
    /* A guest that is to be told that it goes on from an image hears of it first of all. */
    if (agent == NULL || !stasis_awaken_send(agent, vm, &awakening, &wait, error))
        return FALSE;
    set(trial, &trial->told);
    if (!stasis_awaken_settle(agent, vm, awakening, &wait, error) || !has_test(trial) ||
        !stasis_agent_job_start(agent, &o->job, &old, &wait, error))
        return FALSE;
    set(trial, &trial->begun);
    return stasis_agent_job_follow(agent, &o->job, &offset, o->output, o->output_data, &trial->end,
                                   &wait, error);
}

static gpointer run_thread(gpointer data)
{
    StasisTrial *trial = data;
    g_autoptr(GError) error = NULL;
    if (trial->options.channel != NULL)
        follow(trial, &error);
    g_mutex_lock(&trial->lock);
    trial->error = g_steal_pointer(&error);
    trial->done = TRUE;
    g_cond_signal(&trial->changed);
    g_mutex_unlock(&trial->lock);
    return NULL;
}

/* What is asked for first: a line of the kernel's last words may be one of those. */
static StasisWatch *watch_for(const StasisTrialOptions *options, GError **error)
{
    static const char *const always[] = { "panic", "exit", NULL };
    const StasisSession *session = options->session;
    g_autoptr(GPtrArray) on = g_ptr_array_new();
    for (guint i = 0; options->on != NULL && options->on[i] != NULL; i++)
        g_ptr_array_add(on, (gpointer)options->on[i]);
    for (guint i = 0; always[i] != NULL; i++)
        g_ptr_array_add(on, (gpointer)always[i]);
    g_ptr_array_add(on, NULL);
    return stasis_watch_new(session->record, session->qmp, (const char *const *)on->pdata,
                            /* whole_console= */ TRUE, error);
}

StasisTrial *stasis_trial_new(const StasisTrialOptions *options, GError **error)
{
    g_autoptr(StasisWatch) watch = watch_for(options, error);
    if (watch == NULL)
        return NULL;
    StasisTrial *trial = g_new0(StasisTrial, 1);
    trial->options = *options;
    trial->start_us = stasis_now_us();
    trial->end_us =
        trial->start_us + (options->timeout_us != 0 ? options->timeout_us : FOR_EVER_US);
    if (options->timeout_us != 0)
        trial->options.job.timeout_ms = options->timeout_us / 1000 + GUEST_SLACK_MS;
    trial->watch = g_steal_pointer(&watch);
    trial->cancellable = g_cancellable_new();
    g_mutex_init(&trial->lock);
    g_cond_init(&trial->changed);
    trial->thread = g_thread_new("stasis-trial", run_thread, trial);
    return trial;
}

void stasis_trial_free(StasisTrial *trial)
{
    if (trial == NULL)
        return;
    g_cancellable_cancel(trial->cancellable);
    g_thread_join(trial->thread);
    g_object_unref(trial->cancellable);
    stasis_watch_free(trial->watch);
    g_clear_error(&trial->error);
    g_mutex_clear(&trial->lock);
    g_cond_clear(&trial->changed);
    g_free(trial);
}

void stasis_trial_wait_told(StasisTrial *trial)
{
    gint64 until_us = g_get_monotonic_time() + TOLD_US;
    g_mutex_lock(&trial->lock);
    while (!trial->told && !trial->done &&
           g_cond_wait_until(&trial->changed, &trial->lock, until_us))
        ;
    g_mutex_unlock(&trial->lock);
}

gboolean stasis_trial_has_begun(StasisTrial *trial)
{
    g_mutex_lock(&trial->lock);
    gboolean begun = trial->begun || trial->done;
    g_mutex_unlock(&trial->lock);
    return begun;
}

void stasis_trial_wait(StasisTrial *trial, guint ms)
{
    gint64 until_us = g_get_monotonic_time() + (gint64)ms * 1000;
    g_mutex_lock(&trial->lock);
    gboolean begun = trial->begun, done = trial->done;
    while (trial->done == done && trial->begun == begun &&
           g_cond_wait_until(&trial->changed, &trial->lock, until_us))
        ;
    g_mutex_unlock(&trial->lock);
}

static gboolean conclude(StasisTrial *trial, StasisOutcome *ret, StasisOutcomeKind kind, int number,
                         const char *detail)
{
    *ret = (StasisOutcome){ kind, number, .took_us = stasis_now_us() - trial->start_us };
    stasis_outcome_name(ret);
    g_strlcpy(ret->detail, detail != NULL ? detail : "", sizeof ret->detail);
    return TRUE;
}

static gboolean look_at_watch(StasisTrial *trial, StasisOutcome *ret)
{
    g_autoptr(StasisFailure) failure = stasis_watch_look(trial->watch);
    return failure != NULL &&
           conclude(trial, ret, stasis_outcome_kind(failure->kind), 0, failure->detail);
}

/* What no watcher tells: a QEMU that could not go on, or does not answer. */
static gboolean look_at_machine(StasisTrial *trial, StasisOutcome *ret)
{
    guint64 now = stasis_now_us();
    if (now - trial->state_looked_us < STATE_LOOK_US)
        return FALSE;
    trial->state_looked_us = now;
    g_autoptr(GError) error = NULL;
    g_autofree char *state = stasis_qmp_run_state(trial->options.session->qmp, &error);
    /* It may have told why just before. */
    if (state == NULL)
        return look_at_watch(trial, ret) ||
               conclude(trial, ret, STASIS_OUTCOME_VM_END, 0, error->message);
    if (strcmp(state, "internal-error") == 0 || strcmp(state, "io-error") == 0)
        return conclude(trial, ret, STASIS_OUTCOME_VM_END, 0, state);
    return FALSE;
}

/* What the thread says is final, and it is not heard any more. */
static gboolean look_at_job(StasisTrial *trial, StasisOutcome *ret)
{
    g_mutex_lock(&trial->lock);
    gboolean done = trial->done;
    g_mutex_unlock(&trial->lock);
    if (!done || !has_test(trial))
        return FALSE;
    if (trial->error != NULL && stasis_now_us() >= trial->end_us)
        return conclude(trial, ret, STASIS_OUTCOME_TIMEOUT, 0, NULL);
    if (trial->error != NULL)
        return conclude(trial, ret, STASIS_OUTCOME_LOST, 0, trial->error->message);
    if (trial->end.timed_out)
        return conclude(trial, ret, STASIS_OUTCOME_TIMEOUT, 0, NULL);
    if (trial->end.signal != 0)
        return conclude(trial, ret, STASIS_OUTCOME_SIGNAL, trial->end.signal, NULL);
    return conclude(trial, ret, STASIS_OUTCOME_EXIT, trial->end.exit_status, NULL);
}

gboolean stasis_trial_look(StasisTrial *trial, StasisOutcome *ret)
{
    StasisOutcome job;
    guint64 now = stasis_now_us();
    /* First, so that what the console says of a test's end is there when that is known. */
    gboolean ended = look_at_job(trial, &job);
    if (look_at_watch(trial, ret) || look_at_machine(trial, ret))
        return TRUE;
    if (ended && job.kind == STASIS_OUTCOME_LOST && trial->lost_us == 0)
        trial->lost_us = now;
    if (ended && (trial->lost_us == 0 || now - trial->lost_us >= LOST_US)) {
        *ret = job;
        return TRUE;
    }
    StasisOutcomeKind late = has_test(trial) ? STASIS_OUTCOME_TIMEOUT : STASIS_OUTCOME_SURVIVED;
    return now >= trial->end_us && conclude(trial, ret, late, 0, NULL);
}

StasisEventLog *stasis_trial_get_log(StasisTrial *trial)
{
    return stasis_watch_get_log(trial->watch);
}
