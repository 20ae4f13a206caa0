/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checkpoints that programs of the guest have a say in: what the host asks of that (coop.h). */
#include "coop.h"

#include <errno.h>

#define WAIT_LIMIT_MS 60000u
#define HOLD_LIMIT_MS 30000u
#define CYCLE_MS 1000u

static bool take_server(const Request *request, Answer *answer)
{
    char server[65];
    if (!request_text(request, STASIS_AGENT_TAG_TOKEN, server, sizeof server) ||
        server[0] == '\0') {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "wish-wait: no token");
        return false;
    }
    coop_served_by(server, request_number(request, STASIS_AGENT_TAG_N_ENDED, 0));
    return true;
}

void op_wish_wait(const Request *request, Answer *answer)
{
    if (take_server(request, answer) &&
        !coop_wait_wish(request->id, request_timeout(request, WAIT_LIMIT_MS)))
        answer_error(answer, STASIS_AGENT_STATE, 0, "wish-wait: somebody waits already");
}

void op_wish_begin(const Request *request, Answer *answer)
{
    static pid_t pids[STASIS_AGENT_MAX_LIST];
    unsigned n = 0;
    StasisField field;
    char by[65];
    if (!request_text(request, STASIS_AGENT_TAG_TOKEN, by, sizeof by))
        by[0] = '\0';
    for (uint32_t at = 0; stasis_field_next(request->fields, request->length, &at, &field);)
        if (field.tag == STASIS_AGENT_TAG_PID && n < STASIS_AGENT_MAX_LIST)
            pids[n++] = (pid_t)stasis_field_to_number(&field);
    uint64_t ms = request_number(request, STASIS_AGENT_TAG_TIMEOUT, CYCLE_MS);
    if (!coop_begin(request->id, pids, n, by,
                    request_number(request, STASIS_AGENT_TAG_CYCLE, 0) != 0,
                    ms < HOLD_LIMIT_MS ? (unsigned)ms : HOLD_LIMIT_MS,
                    request_number(request, STASIS_AGENT_TAG_HELD, 0) != 0))
        answer_error(answer, STASIS_AGENT_STATE, 0, "wish-begin: one has begun already");
}

void op_wish_end(const Request *request, Answer *answer)
{
    char image[48], by[65];
    uint64_t error_number = request_number(request, STASIS_AGENT_TAG_ERRNO, 0);
    uint64_t pid = request_number(request, STASIS_AGENT_TAG_PID, 0);
    if (!request_text(request, STASIS_AGENT_TAG_PATH, image, sizeof image))
        image[0] = '\0';
    int64_t result = error_number == 0     ? (int64_t)(pid & INT32_MAX)
                     : error_number < 4096 ? -(int64_t)error_number
                                           : -EREMOTEIO;
    unsigned n = 0;
    if (request_text(request, STASIS_AGENT_TAG_TOKEN, by, sizeof by)) {
        coop_left(by);
        answer_end(answer);
        return;
    }
    coop_take(); /* what was missed meanwhile */
    if (request_number(request, STASIS_AGENT_TAG_HELD, 0) != 0)
        coop_end_held(result < 0 ? result : 0);
    else
        n = coop_end(request_number(request, STASIS_AGENT_TAG_TICKET, 0), result, image);
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_CALLERS, n);
    uint64_t meanwhile, before;
    if (coop_count_missed(&meanwhile, &before)) {
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_MISSED, meanwhile);
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_MISSED_BEFORE, before);
    }
    answer_end(answer);
}
