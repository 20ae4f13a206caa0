/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/quiesce.h"

#include <stasis/agent-protocol.h>
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "engine/agent-vm.h"
#include "engine/awaken.h"
#include "vmm/agent-channel.h"

#define ANSWER_US 5000000u
/* Writing back what is dirty, freezing, the approach, and the stop, of which the guest sees
 * nothing. */
#define FROZEN_MS 30000u

struct _StasisQuiesce {
    char *name, *path;
    StasisAgent *agent;
    guint64 frozen_since_us; /* 0: not frozen */
    guint64 frozen_us;       /* the last time */
};

/* Who is asked to freeze must run. */
static gboolean check_running(StasisSession *session, GError **error)
{
    g_autofree char *state = stasis_qmp_run_state(session->qmp, error);
    if (state == NULL)
        return FALSE;
    if (strcmp(state, "running") == 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "VM %s is %s, and a guest that does not run can't freeze its file systems "
                "(--quiesce); see stasis resume",
                session->record->name, state);
    return FALSE;
}

/* Begin a conversation; one that was under way ends by that. */
static gboolean converse(StasisQuiesce *quiesce, GCancellable *cancellable, GError **error)
{
    StasisAgentWait wait = { stasis_now_us() + ANSWER_US, cancellable };
    g_clear_pointer(&quiesce->agent, stasis_agent_free);
    quiesce->agent = stasis_agent_connect(quiesce->name, quiesce->path, &wait, error);
    return quiesce->agent != NULL && stasis_agent_greet(quiesce->agent, &wait, error);
}

static gboolean can_freeze(const StasisQuiesce *quiesce, GError **error)
{
    if (g_strv_contains(stasis_agent_get_operations(quiesce->agent), "fs-freeze"))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "VM %s: agent: version %s can't freeze file systems; install the agent of this "
                "version in the guest",
                quiesce->name, stasis_agent_get_version(quiesce->agent));
    return FALSE;
}

static StasisQuiesce *open_agent(StasisSession *session, GCancellable *cancellable, GError **error)
{
    const char *name = session->record->name;
    g_autoptr(StasisAgentChannel) channel =
        stasis_agent_channel_find(session->qmp, session->record->pid, error);
    if (channel == NULL) {
        g_prefix_error(error, "VM %s: ", name);
        return NULL;
    }
    g_autoptr(StasisQuiesce) quiesce = g_new0(StasisQuiesce, 1);
    quiesce->name = g_strdup(name);
    quiesce->path = g_strdup(channel->path);
    if (!converse(quiesce, cancellable, error) || !can_freeze(quiesce, error))
        return NULL;
    StasisAgentWait wait = { stasis_now_us() + ANSWER_US, cancellable };
    stasis_awaken_now(quiesce->agent, name, &wait, NULL);
    return g_steal_pointer(&quiesce);
}

StasisQuiesce *stasis_quiesce_open(StasisSession *session, GCancellable *cancellable,
                                   GError **error)
{
    if (!check_running(session, error))
        return NULL;
    StasisQuiesce *quiesce = open_agent(session, cancellable, error);
    if (quiesce == NULL)
        g_prefix_error(error, "nobody to freeze the guest's file systems (--quiesce): ");
    return quiesce;
}

gboolean stasis_quiesce_freeze(StasisQuiesce *quiesce, GCancellable *cancellable, GError **error)
{
    guint8 room[32];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    StasisAgentWait wait = { stasis_now_us() + FROZEN_MS * 1000u + ANSWER_US, cancellable };
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT, FROZEN_MS);
    g_autoptr(GBytes) answer =
        stasis_agent_call(quiesce->agent, STASIS_AGENT_OP_FS_FREEZE, &fields, &wait, error);
    if (answer == NULL) {
        converse(quiesce, NULL, NULL); /* it may be at it still */
        return FALSE;
    }
    if (stasis_agent_number(answer, STASIS_AGENT_TAG_N_FROZEN, 0) == 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "VM %s: agent: no file system that can be frozen is mounted for writing in "
                    "the guest; leave out --quiesce",
                    quiesce->name);
        return FALSE;
    }
    guint64 us = stasis_agent_number(answer, STASIS_AGENT_TAG_FROZEN_FOR, 0) / 1000;
    quiesce->frozen_since_us = stasis_now_us() - MIN(us, FROZEN_MS * 1000u);
    return TRUE;
}

/* Not to be called off. */
gboolean stasis_quiesce_thaw(StasisQuiesce *quiesce, GError **error)
{
    if (quiesce->frozen_since_us == 0)
        return TRUE;
    StasisAgentWait wait = { .deadline_us = stasis_now_us() + ANSWER_US };
    g_autoptr(GBytes) answer =
        stasis_agent_call(quiesce->agent, STASIS_AGENT_OP_FS_THAW, NULL, &wait, error);
    quiesce->frozen_us = stasis_now_us() - quiesce->frozen_since_us;
    quiesce->frozen_since_us = 0;
    if (answer == NULL)
        converse(quiesce, NULL, NULL);
    return answer != NULL;
}

guint64 stasis_quiesce_get_frozen_us(const StasisQuiesce *quiesce)
{
    return quiesce->frozen_us;
}

void stasis_quiesce_close(StasisQuiesce *quiesce)
{
    if (quiesce == NULL)
        return;
    stasis_quiesce_thaw(quiesce, NULL);
    g_clear_pointer(&quiesce->agent, stasis_agent_free);
    g_free(quiesce->name);
    g_free(quiesce->path);
    g_free(quiesce);
}
