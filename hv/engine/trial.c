/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/trial.h"

#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "engine/agent-vm.h"
#include "engine/awaken.h"
#include "engine/console-watch.h"
#include "engine/outcome.h"

#define FOR_EVER_US (G_GUINT64_CONSTANT(24) * 3600 * 1000000)
/* The agent's own time limit is the longer one: the outcome is the same wherever it is seen. */
#define GUEST_SLACK_MS 5000
#define STATE_LOOK_US 100000

struct _StasisTrial {
    StasisTrialOptions options;
    guint64 start_us, end_us;
    guint64 state_looked_us;
    StasisConsoleWatch *console;
    GCancellable *cancellable;
    GThread *thread;
    /* Below the lock: what the thread has to say. */
    GMutex lock;
    GCond changed;
    gboolean begun, done;
    StasisJobEnd end;
    GError *error; /* why there is no end */
};

static gboolean follow(StasisTrial *trial, GError **error)
{
    const StasisTrialOptions *o = &trial->options;
    StasisAgentWait wait = { trial->end_us, trial->cancellable };
    gboolean old;
    guint64 offset = 0;
    g_autoptr(StasisAgent) agent = stasis_agent_connect(o->vm, o->channel, &wait, error);
    /* A guest that is to be told that it goes on from an image hears of it first of all. */
    if (agent == NULL || !stasis_awaken_now(agent, o->vm, &wait, error) ||
        !stasis_agent_job_start(agent, &o->job, &old, &wait, error))
        return FALSE;
    g_mutex_lock(&trial->lock);
    trial->begun = TRUE;
    g_cond_signal(&trial->changed);
    g_mutex_unlock(&trial->lock);
    return stasis_agent_job_follow(agent, &o->job, &offset, o->output, o->output_data, &trial->end,
                                   &wait, error);
}

static gpointer run_thread(gpointer data)
{
    StasisTrial *trial = data;
    g_autoptr(GError) error = NULL;
    follow(trial, &error);
    g_mutex_lock(&trial->lock);
    trial->error = g_steal_pointer(&error);
    trial->done = TRUE;
    g_cond_signal(&trial->changed);
    g_mutex_unlock(&trial->lock);
    return NULL;
}

StasisTrial *stasis_trial_new(const StasisTrialOptions *options, GError **error)
{
    g_autoptr(StasisConsoleWatch) console =
        stasis_console_watch_new(options->console_path, options->on_log, error);
    if (console == NULL)
        return NULL;
    StasisTrial *trial = g_new0(StasisTrial, 1);
    trial->options = *options;
    trial->start_us = stasis_now_us();
    trial->end_us =
        trial->start_us + (options->timeout_us != 0 ? options->timeout_us : FOR_EVER_US);
    if (options->timeout_us != 0)
        trial->options.job.timeout_ms = options->timeout_us / 1000 + GUEST_SLACK_MS;
    trial->console = g_steal_pointer(&console);
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
    stasis_console_watch_free(trial->console);
    g_clear_error(&trial->error);
    g_mutex_clear(&trial->lock);
    g_cond_clear(&trial->changed);
    g_free(trial);
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
    gboolean begun = trial->begun;
    while (!trial->done && trial->begun == begun &&
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

static gboolean look_at_console(StasisTrial *trial, StasisOutcome *ret)
{
    g_autofree char *line = NULL;
    switch (stasis_console_watch_look(trial->console, &line)) {
    case STASIS_CONSOLE_PANIC:
        return conclude(trial, ret, STASIS_OUTCOME_PANIC, 0, line);
    case STASIS_CONSOLE_MATCH:
        return conclude(trial, ret, STASIS_OUTCOME_LOG, 0, line);
    default:
        return FALSE;
    }
}

static gboolean look_at_machine(StasisTrial *trial, StasisQmp *qmp, StasisOutcome *ret)
{
    guint64 now = stasis_now_us();
    if (now - trial->state_looked_us < STATE_LOOK_US)
        return FALSE;
    trial->state_looked_us = now;
    g_autoptr(GError) error = NULL;
    g_autofree char *state = stasis_qmp_run_state(qmp, &error);
    if (state == NULL)
        return conclude(trial, ret, STASIS_OUTCOME_VM_END, 0, error->message);
    if (strcmp(state, "guest-panicked") == 0)
        return conclude(trial, ret, STASIS_OUTCOME_PANIC, 0, "QEMU: guest-panicked");
    if (strcmp(state, "shutdown") == 0 || strcmp(state, "internal-error") == 0 ||
        strcmp(state, "io-error") == 0)
        return conclude(trial, ret, STASIS_OUTCOME_VM_END, 0, state);
    return FALSE;
}

/* What the thread says is final, and it is not heard any more. */
static gboolean look_at_job(StasisTrial *trial, StasisOutcome *ret)
{
    g_mutex_lock(&trial->lock);
    gboolean done = trial->done;
    g_mutex_unlock(&trial->lock);
    if (!done)
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

gboolean stasis_trial_look(StasisTrial *trial, StasisQmp *qmp, StasisOutcome *ret)
{
    StasisOutcome job;
    /* First, so that what the console says of a test's end is there when that is known. */
    gboolean ended = look_at_job(trial, &job);
    if (look_at_console(trial, ret))
        return TRUE;
    if (ended && job.kind == STASIS_OUTCOME_LOST) {
        trial->state_looked_us = 0;
        if (look_at_machine(trial, qmp, ret))
            return TRUE;
    }
    if (ended) {
        *ret = job;
        return TRUE;
    }
    if (look_at_machine(trial, qmp, ret))
        return TRUE;
    return stasis_now_us() >= trial->end_us &&
           conclude(trial, ret, STASIS_OUTCOME_TIMEOUT, 0, NULL);
}
