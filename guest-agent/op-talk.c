/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counters of what processes say to each other (talk/), around a checkpoint of some of them. A mark
 * is one host's: of two checkpoints at once, what the first one's processes said meanwhile would be
 * forgotten with the second one's mark, so the first keeps nothing.
 */
#include <string.h>

#include "agent.h"

StasisTalk agent_talk;
static char marked_by[65];

static bool is_kind(const Request *request, const char *wanted)
{
    char kind[16] = "";
    return request_text(request, STASIS_AGENT_TAG_KIND, kind, sizeof kind) &&
           strcmp(kind, wanted) == 0;
}

/* In the loop: whose mark it is. */
bool op_talk_before(const Request *request, Answer *answer)
{
    char token[sizeof marked_by] = "";
    bool mark = is_kind(request, "mark");
    if ((!mark && !is_kind(request, "keep")) ||
        !request_text(request, STASIS_AGENT_TAG_TOKEN, token, sizeof token) || token[0] == '\0') {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "talk: no kind, or no token");
        return false;
    }
    stasis_talk_open(&agent_talk, false);
    if (!agent_talk.running) {
        answer_error(answer, STASIS_AGENT_STATE, 0, "talk: nobody counts");
        return false;
    }
    if (mark)
        memcpy(marked_by, token, sizeof token);
    bool valid = strcmp(marked_by, token) == 0;
    if (!mark)
        marked_by[0] = '\0';
    if (!valid)
        answer_error(answer, STASIS_AGENT_STATE, 0, "talk: another checkpoint has begun since");
    return valid;
}

void op_talk(const Request *request, Answer *answer)
{
    static pid_t pids[STASIS_AGENT_MAX_PAYLOAD / (STASIS_AGENT_FIELD_HEADER_BYTES + 8)];
    size_t n = 0;
    StasisField field;
    if (is_kind(request, "mark")) {
        stasis_talk_mark(&agent_talk);
        answer_end(answer);
        return;
    }
    for (uint32_t at = 0; stasis_field_next(request->fields, request->length, &at, &field);)
        if (field.tag == STASIS_AGENT_TAG_PID && field.length == 8)
            pids[n++] = (pid_t)stasis_field_to_number(&field);
    stasis_talk_keep(&agent_talk, pids, n);
    answer_end(answer);
}
