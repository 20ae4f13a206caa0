/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/field.h"

#include <string.h>

#define HEADER STASIS_AGENT_FIELD_HEADER_BYTES

bool stasis_field_next(const uint8_t *payload, uint32_t length, uint32_t *offset, StasisField *ret)
{
    if (*offset > length || length - *offset < HEADER)
        return false;
    const uint8_t *at = payload + *offset;
    uint32_t value_length =
        (uint32_t)at[2] | (uint32_t)at[3] << 8 | (uint32_t)at[4] << 16 | (uint32_t)at[5] << 24;
    if (value_length > length - *offset - HEADER)
        return false;
    *ret = (StasisField){ .tag = (uint16_t)(at[0] | at[1] << 8),
                          .length = value_length,
                          .value = at + HEADER };
    *offset += HEADER + value_length;
    return true;
}

bool stasis_fields_are_valid(const uint8_t *payload, uint32_t length)
{
    uint32_t offset = 0;
    StasisField field;
    while (stasis_field_next(payload, length, &offset, &field))
        ;
    return offset == length;
}

bool stasis_field_find(const uint8_t *payload, uint32_t length, uint16_t tag, StasisField *ret)
{
    StasisField field;
    for (uint32_t offset = 0; stasis_field_next(payload, length, &offset, &field);) {
        if (field.tag != tag)
            continue;
        *ret = field;
        return true;
    }
    return false;
}

uint64_t stasis_field_to_number(const StasisField *field)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < 8 && i < field->length; i++)
        value |= (uint64_t)field->value[i] << (8 * i);
    return value;
}

uint64_t stasis_field_number(const uint8_t *payload, uint32_t length, uint16_t tag,
                             uint64_t otherwise)
{
    StasisField field;
    bool found = stasis_field_find(payload, length, tag, &field) && field.length == 8;
    return found ? stasis_field_to_number(&field) : otherwise;
}

bool stasis_field_is_text(const StasisField *field, uint32_t max)
{
    return field->length <= max && memchr(field->value, 0, field->length) == NULL;
}

void stasis_field_put(StasisFieldWriter *writer, uint16_t tag, const void *value, uint32_t length)
{
    uint32_t left = writer->room - writer->length;
    if (left < HEADER || length > left - HEADER) {
        writer->overflow = true;
        return;
    }
    uint8_t *at = writer->payload + writer->length;
    at[0] = (uint8_t)tag;
    at[1] = (uint8_t)(tag >> 8);
    for (unsigned i = 0; i < 4; i++)
        at[2 + i] = (uint8_t)(length >> (8 * i));
    if (length > 0)
        memcpy(at + HEADER, value, length);
    writer->length += HEADER + length;
}

void stasis_field_put_number(StasisFieldWriter *writer, uint16_t tag, uint64_t value)
{
    uint8_t bytes[8];
    for (unsigned i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    stasis_field_put(writer, tag, bytes, sizeof bytes);
}

void stasis_field_put_text(StasisFieldWriter *writer, uint16_t tag, const char *text)
{
    if (text != NULL)
        stasis_field_put(writer, tag, text, (uint32_t)strlen(text));
}
