/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fields of a payload (<stasis/agent-protocol.h>). Plain C without GLib. */
#pragma once

#include <stasis/agent-protocol.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- reading ---- */

typedef struct {
    uint16_t tag;
    uint32_t length;
    const uint8_t *value; /* in the payload; not NUL-terminated */
} StasisField;

/* Is all of it whole fields? */
bool stasis_fields_are_valid(const uint8_t *payload, uint32_t length);

/* The next field at *offset, which moves on; false at the end (or at a piece of a field). */
bool stasis_field_next(const uint8_t *payload, uint32_t length, uint32_t *offset, StasisField *ret);
/* The first field of that tag. */
bool stasis_field_find(const uint8_t *payload, uint32_t length, uint16_t tag, StasisField *ret);

/* Its number, or @otherwise when there is none of 8 bytes. */
uint64_t stasis_field_number(const uint8_t *payload, uint32_t length, uint16_t tag,
                             uint64_t otherwise);
uint64_t stasis_field_to_number(const StasisField *field);
/* Has it no zero byte inside, and at most @max of others? (UTF-8 is the host's to check.) */
bool stasis_field_is_text(const StasisField *field, uint32_t max);

/* ---- writing ---- */

typedef struct {
    uint8_t *payload;
    uint32_t length, room;
    bool overflow; /* a field did not fit, and was left out */
} StasisFieldWriter;

void stasis_field_put(StasisFieldWriter *writer, uint16_t tag, const void *value, uint32_t length);
void stasis_field_put_number(StasisFieldWriter *writer, uint16_t tag, uint64_t value);
/* NULL is left out. */
void stasis_field_put_text(StasisFieldWriter *writer, uint16_t tag, const char *text);
