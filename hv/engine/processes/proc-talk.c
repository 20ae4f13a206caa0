/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/processes/proc-talk.h"

#include "engine/guest/agent-vm.h"

#define KEEP_MS 10000

static gboolean can_talk(StasisAgent *agent)
{
    return g_strv_contains(stasis_agent_get_operations(agent), "talk");
}

char *stasis_talk_mark(StasisAgent *agent, const StasisAgentWait *wait)
{
    guint8 room[256];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    g_autofree char *token = g_uuid_string_random();
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_KIND, "mark");
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, token);
    g_autoptr(GBytes) marked =
        can_talk(agent) ? stasis_agent_call(agent, STASIS_AGENT_OP_TALK, &fields, wait, NULL)
                        : NULL;
    return marked != NULL ? g_steal_pointer(&token) : NULL;
}

void stasis_talk_keep(const char *name, const char *token, const StasisGuestBoundary *boundary,
                      GCancellable *cancellable)
{
    g_autofree guint8 *room = g_malloc(STASIS_AGENT_MAX_PAYLOAD);
    StasisFieldWriter fields = { .payload = room, .room = STASIS_AGENT_MAX_PAYLOAD };
    StasisAgentWait wait = stasis_agent_wait_until(KEEP_MS, cancellable);
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(name, &wait, NULL);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_KIND, "keep");
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, token);
    for (guint i = 0; i < boundary->n_members; i++)
        stasis_field_put_number(&fields, STASIS_AGENT_TAG_PID, boundary->processes[i].pid);
    if (agent == NULL || !can_talk(agent) || fields.overflow)
        return;
    g_autoptr(GBytes) kept = stasis_agent_call(agent, STASIS_AGENT_OP_TALK, &fields, &wait, NULL);
}
