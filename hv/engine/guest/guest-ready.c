/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/guest/guest-ready.h"

#include <errno.h>
#include <stasis/agent-protocol.h>
#include <stasis/error.h>

#include "base/clock.h"

#define END_US 5000000u

static gboolean can(StasisAgent *agent)
{
    return g_strv_contains(stasis_agent_get_operations(agent), "wish-begin");
}

gboolean stasis_guest_ready_begin(StasisAgent *agent, const guint *pids, guint n_pids,
                                  const StasisAgentWait *wait, GError **error)
{
    guint8 room[STASIS_AGENT_MAX_LIST * 16 + 64];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    g_autoptr(GError) refused = NULL;
    if (!stasis_agent_greet(agent, wait, error))
        return FALSE;
    if (!can(agent))
        return TRUE;
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_HELD, 1);
    /* Of more than that many it is told to all: too many rather than too few. */
    for (guint i = 0; i < n_pids && n_pids <= STASIS_AGENT_MAX_LIST; i++)
        stasis_field_put_number(&fields, STASIS_AGENT_TAG_PID, pids[i]);
    g_autoptr(GBytes) answer =
        stasis_agent_call(agent, STASIS_AGENT_OP_WISH_BEGIN, &fields, wait, &refused);
    if (answer != NULL || stasis_agent_is_usable(agent))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&refused));
    return FALSE;
}

void stasis_guest_ready_end(StasisAgent *agent, gboolean taken)
{
    guint8 room[64];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    StasisAgentWait wait = { .deadline_us = stasis_now_us() + END_US };
    if (!stasis_agent_is_usable(agent) || !can(agent))
        return;
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_HELD, 1);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_ERRNO, taken ? 0 : EREMOTEIO);
    g_autoptr(GBytes) answer =
        stasis_agent_call(agent, STASIS_AGENT_OP_WISH_END, &fields, &wait, NULL);
}
