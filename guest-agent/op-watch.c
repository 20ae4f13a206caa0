/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What happens to processes (watch/): what the host asks of that. */
#include <string.h>

#include "watch/watch.h"

#define WAIT_LIMIT_MS 60000u
#define LEASE_LIMIT_MS 600000u
#define LEASE_MS 60000u

/* 0: a word that is not known. */
static unsigned kind_of(const StasisField *field)
{
    for (unsigned kind = 0; kind < WATCH_N_KINDS; kind++)
        if (strlen(watch_kind_names[kind]) == field->length &&
            memcmp(watch_kind_names[kind], field->value, field->length) == 0)
            return 1u << kind;
    return 0;
}

/* NULL, or what is wrong with it. */
static const char *read_request(const Request *request, WatchRequest *ret)
{
    static pid_t pids[STASIS_AGENT_MAX_LOOK_AT];
    static uint64_t starts[STASIS_AGENT_MAX_LOOK_AT];
    unsigned n_starts = 0;
    StasisField field;
    *ret = (WatchRequest){ .pids = pids, .starts = starts };
    for (uint32_t at = 0; stasis_field_next(request->fields, request->length, &at, &field);) {
        uint64_t number = field.length == 8 ? stasis_field_to_number(&field) : 0;
        if (field.tag == STASIS_AGENT_TAG_KIND) {
            if (kind_of(&field) == 0)
                return "an event that is not known here";
            ret->kinds |= kind_of(&field);
        } else if (field.tag == STASIS_AGENT_TAG_PID) {
            if (ret->n_pids == STASIS_AGENT_MAX_LOOK_AT || number == 0 || number > INT32_MAX)
                return "no process ID, or too many";
            pids[ret->n_pids++] = (pid_t)number;
        } else if (field.tag == STASIS_AGENT_TAG_START) {
            if (n_starts == STASIS_AGENT_MAX_LOOK_AT)
                return "too many processes";
            starts[n_starts++] = number;
        }
    }
    if (ret->kinds == 0)
        return "no event is asked for";
    return n_starts == ret->n_pids ? NULL : "not as many process IDs as starts";
}

static bool take_token(const Request *request, char token[65], Answer *answer)
{
    if (request_text(request, STASIS_AGENT_TAG_TOKEN, token, 65) && token[0] != '\0')
        return true;
    answer_error(answer, STASIS_AGENT_INVALID, 0, "watch: no token");
    return false;
}

void op_watch(const Request *request, Answer *answer)
{
    WatchRequest asked;
    const char *wrong = read_request(request, &asked);
    if (wrong != NULL) {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "watch: %s", wrong);
        return;
    }
    if (!take_token(request, asked.token, answer))
        return;
    uint64_t lease = request_number(request, STASIS_AGENT_TAG_LEASE, LEASE_MS);
    asked.lease_ms = lease < LEASE_LIMIT_MS ? (unsigned)lease : LEASE_LIMIT_MS;
    asked.sequence = request_number(request, STASIS_AGENT_TAG_SEQUENCE, 0);
    asked.timeout_ms = request_timeout(request, WAIT_LIMIT_MS);
    watch_ask(request->id, &asked, answer);
}

void op_watch_end(const Request *request, Answer *answer)
{
    char token[65];
    if (!take_token(request, token, answer))
        return;
    watch_end(token);
    answer_end(answer);
}
