/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An agent that does not answer. Asked by a thread of its own, once a second, over a connection for
 * each question: its channel serves one client at a time, and others want to speak to it, too.
 * While another one has it (a command in the guest may take minutes) the question waits; then what
 * that one hears counts.
 */
#include <stasis/error.h>

#include "base/clock.h"
#include "engine/guards/watch.h"
#include "engine/guest/agent-vm.h"
#include "vmm/agent-channel.h"

#define DEFAULT_SECONDS 5.0
#define INTERVAL_US 1000000u
#define STEP_US 50000u

typedef struct {
    char *name, *path;
    guint limit_ms;
    GCancellable *cancellable;
    GThread *thread;
    GMutex mutex; /* guards what follows */
    guint64 heard_us;
    char *why;
} Agent;

static gboolean ping(Agent *agent, GError **error)
{
    StasisAgentWait wait = stasis_agent_wait_until(agent->limit_ms, agent->cancellable);
    g_autoptr(StasisAgent) client = stasis_agent_connect(agent->name, agent->path, &wait, error);
    if (client == NULL || !stasis_agent_greet(client, &wait, error))
        return FALSE;
    g_autoptr(GBytes) answer = stasis_agent_call(client, STASIS_AGENT_OP_PING, NULL, &wait, error);
    return answer != NULL;
}

static gpointer ask(gpointer data)
{
    Agent *agent = data;
    while (!g_cancellable_is_cancelled(agent->cancellable)) {
        g_autoptr(GError) error = NULL;
        gboolean answers = ping(agent, &error);
        g_mutex_lock(&agent->mutex);
        if (answers)
            agent->heard_us = stasis_now_us();
        g_free(agent->why);
        agent->why = error != NULL ? g_strdup(error->message) : NULL;
        g_mutex_unlock(&agent->mutex);
        for (guint us = 0; us < INTERVAL_US; us += STEP_US)
            if (!g_cancellable_is_cancelled(agent->cancellable))
                g_usleep(STEP_US);
    }
    return NULL;
}

static void close_agent(gpointer data)
{
    Agent *agent = data;
    g_cancellable_cancel(agent->cancellable);
    if (agent->thread != NULL)
        g_thread_join(agent->thread);
    g_object_unref(agent->cancellable);
    g_mutex_clear(&agent->mutex);
    g_free(agent->name);
    g_free(agent->path);
    g_free(agent->why);
    g_free(agent);
}

static gpointer open_agent(const StasisWatcherOps *ops, StasisWatched *vm, const char *text,
                           double seconds, GError **error)
{
    g_autoptr(StasisAgentChannel) channel =
        stasis_agent_channel_find(vm->qmp, vm->record->pid, error);
    if (channel == NULL)
        return NULL;
    Agent *agent = g_new0(Agent, 1);
    agent->name = g_strdup(vm->record->name);
    agent->path = g_strdup(channel->path);
    agent->limit_ms = (guint)((seconds > 0 ? seconds : DEFAULT_SECONDS) * 1e3);
    agent->cancellable = g_cancellable_new();
    agent->heard_us = stasis_now_us();
    g_mutex_init(&agent->mutex);
    agent->thread = g_thread_try_new("agent-watch", ask, agent, error);
    if (agent->thread != NULL)
        return agent;
    close_agent(agent);
    return NULL;
}

/* What others heard of it. A clock that was set back says nothing. */
static void ask_others(Agent *agent)
{
    gint64 ago_us = g_get_real_time() - stasis_agent_heard_at_us(agent->name);
    guint64 now = stasis_now_us();
    if (ago_us >= 0 && (guint64)ago_us < now - agent->heard_us)
        agent->heard_us = now - (guint64)ago_us;
}

static gboolean look_for_silence(gpointer data, StasisWatched *vm, char **ret_detail)
{
    Agent *agent = data;
    guint64 limit_us = agent->limit_ms * G_GUINT64_CONSTANT(1000);
    g_mutex_lock(&agent->mutex);
    if (stasis_now_us() - agent->heard_us > limit_us)
        ask_others(agent);
    gboolean lost = stasis_now_us() - agent->heard_us > limit_us;
    vm->since_us = g_get_real_time() - (gint64)(stasis_now_us() - agent->heard_us);
    if (lost)
        *ret_detail = g_strdup(agent->why != NULL ? agent->why : "no answer");
    g_mutex_unlock(&agent->mutex);
    return lost;
}

const StasisWatcherOps stasis_watch_agent = {
    .name = "agent-lost",
    .value = "seconds, 0.1 to 3600",
    .needs_monitor = TRUE,
    .open = open_agent,
    .look = look_for_silence,
    .close = close_agent,
};
