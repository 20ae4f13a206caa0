/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests and answers, as operations see them. */
#include <stdio.h>
#include <string.h>

#include "agent.h"

bool answer_part(Answer *answer)
{
    bool sent = !answer->ended && answer->send(answer, STASIS_AGENT_OK, 0);
    answer->fields.length = 0;
    return sent;
}

bool answer_record(Answer *answer, uint16_t tag, const StasisFieldWriter *record)
{
    stasis_field_put(&answer->fields, tag, record->payload, record->length);
    if (!answer->fields.overflow)
        return true;
    answer->fields.overflow = false;
    bool sent = answer_part(answer);
    stasis_field_put(&answer->fields, tag, record->payload, record->length);
    return sent;
}

void answer_end(Answer *answer)
{
    if (!answer->ended)
        answer->send(answer, STASIS_AGENT_OK, STASIS_AGENT_END);
    answer->ended = true;
}

void answer_error(Answer *answer, StasisAgentStatus status, int error_number, const char *format,
                  ...)
{
    char message[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (n < 0)
        message[n = 0] = '\0';
    if (error_number != 0 && (size_t)n < sizeof message)
        snprintf(message + n, sizeof message - (size_t)n, ": %s", strerror(error_number));
    answer->fields.length = 0;
    answer->fields.overflow = false;
    stasis_field_put_text(&answer->fields, STASIS_AGENT_TAG_MESSAGE, message);
    if (error_number != 0)
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_ERRNO, (uint64_t)error_number);
    if (!answer->ended)
        answer->send(answer, (uint16_t)status, STASIS_AGENT_END);
    answer->ended = true;
}

bool request_text(const Request *request, uint16_t tag, char *buffer, size_t size)
{
    StasisField field;
    if (!stasis_field_find(request->fields, request->length, tag, &field) ||
        !stasis_field_is_text(&field, (uint32_t)size - 1))
        return false;
    memcpy(buffer, field.value, field.length);
    buffer[field.length] = '\0';
    return true;
}

uint64_t request_number(const Request *request, uint16_t tag, uint64_t otherwise)
{
    return stasis_field_number(request->fields, request->length, tag, otherwise);
}

unsigned request_timeout(const Request *request, unsigned limit_ms)
{
    uint64_t wanted = request_number(request, STASIS_AGENT_TAG_TIMEOUT, limit_ms);
    return wanted < limit_ms ? (unsigned)wanted : limit_ms;
}
