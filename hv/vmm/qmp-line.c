/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A scanner for the top level of a QMP line.
 *
 * Between `stop` and `cont` nothing may be allocated, and all that is asked of an answer there is
 * whether it is an error; so members are walked in place, and values skipped by counting brackets.
 * Invariant: no byte at or after `end` is read, whatever the peer sends; no recursion.
 */
#include "vmm/qmp-line.h"

#include <string.h>

typedef struct {
    const char *at;
    const char *end;
} Cursor;

typedef struct {
    const char *text;
    gsize len;
} Span;

static void skip_space(Cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\r' || *c->at == '\n'))
        c->at++;
}

static gboolean take(Cursor *c, char wanted)
{
    skip_space(c);
    if (c->at >= c->end || *c->at != wanted)
        return FALSE;
    c->at++;
    return TRUE;
}

/* A string at the cursor; @ret is what is between its quotes, escapes left in. */
static gboolean take_string(Cursor *c, Span *ret)
{
    if (!take(c, '"'))
        return FALSE;
    const char *start = c->at;
    while (c->at < c->end && *c->at != '"')
        c->at += *c->at == '\\' ? 2 : 1;
    if (c->at >= c->end)
        return FALSE;
    *ret = (Span){ start, (gsize)(c->at - start) };
    c->at++;
    return TRUE;
}

static gboolean skip_nested(Cursor *c)
{
    guint64 depth = 0;
    while (c->at < c->end) {
        Span ignored;
        if (*c->at == '"') {
            if (!take_string(c, &ignored))
                return FALSE;
            continue;
        }
        if (*c->at == '{' || *c->at == '[')
            depth++;
        if (*c->at == '}' || *c->at == ']')
            depth--;
        c->at++;
        if (depth == 0)
            return TRUE;
    }
    return FALSE;
}

/* Any value; @ret spans all of it, quotes and brackets too. */
static gboolean take_value(Cursor *c, Span *ret)
{
    skip_space(c);
    if (c->at >= c->end)
        return FALSE;
    const char *start = c->at;
    Span ignored;
    gboolean ok = TRUE;
    if (*start == '"')
        ok = take_string(c, &ignored);
    else if (*start == '{' || *start == '[')
        ok = skip_nested(c);
    else
        while (c->at < c->end && memchr(",}] \t\r\n", *c->at, 7) == NULL)
            c->at++;
    *ret = (Span){ start, (gsize)(c->at - start) };
    return ok && ret->len > 0;
}

/* The next member of the object the cursor is in. @first: nothing was read of it yet. Returns 1,
 * or 0 at its end, or -1 when it is malformed. */
static int next_member(Cursor *c, gboolean first, Span *ret_key, Span *ret_value)
{
    if (take(c, '}'))
        return 0;
    if (!first && !take(c, ','))
        return -1;
    if (!take_string(c, ret_key) || !take(c, ':') || !take_value(c, ret_value))
        return -1;
    return 1;
}

static gboolean is(Span span, const char *text)
{
    return span.len == strlen(text) && memcmp(span.text, text, span.len) == 0;
}

static gboolean parse_uint(Span span, guint64 *ret)
{
    guint64 value = 0;
    if (span.len == 0 || span.len > 18)
        return FALSE;
    for (gsize i = 0; i < span.len; i++) {
        if (!g_ascii_isdigit(span.text[i]))
            return FALSE;
        value = value * 10 + (guint64)(span.text[i] - '0');
    }
    *ret = value;
    return TRUE;
}

/* {"seconds": s, "microseconds": us}; 0 for anything else, also for QEMU's own -1 (no clock). */
static guint64 parse_time(Span span)
{
    Cursor c = { span.text, span.text + span.len };
    guint64 seconds = 0, micros = 0;
    Span key, value;
    if (!take(&c, '{'))
        return 0;
    for (gboolean first = TRUE; next_member(&c, first, &key, &value) > 0; first = FALSE) {
        if (is(key, "seconds") && !parse_uint(value, &seconds))
            return 0;
        if (is(key, "microseconds") && !parse_uint(value, &micros))
            return 0;
    }
    return seconds > G_MAXUINT64 / 2000000 || micros > 1000000 ? 0 : seconds * 1000000 + micros;
}

static void note_member(StasisQmpLine *line, Span key, Span value)
{
    if (is(key, "return")) {
        line->kind = STASIS_QMP_RETURN;
    } else if (is(key, "error")) {
        line->kind = STASIS_QMP_ERROR;
    } else if (is(key, "QMP")) {
        line->kind = STASIS_QMP_GREETING;
    } else if (is(key, "id")) {
        line->has_id = parse_uint(value, &line->id);
    } else if (is(key, "timestamp")) {
        line->time_us = parse_time(value);
    } else if (is(key, "event") && value.len > 2 && value.text[0] == '"') {
        line->kind = STASIS_QMP_EVENT;
        line->event = value.text + 1;
        line->event_len = value.len - 2;
    }
}

gboolean stasis_qmp_line_parse(const char *text, gsize len, StasisQmpLine *ret)
{
    Cursor c = { text, text + len };
    StasisQmpLine line = { .kind = STASIS_QMP_OTHER };
    Span key, value;
    int more = 0;
    if (!take(&c, '{'))
        return FALSE;
    for (gboolean first = TRUE; (more = next_member(&c, first, &key, &value)) > 0; first = FALSE)
        note_member(&line, key, value);
    skip_space(&c);
    if (more < 0 || c.at != c.end)
        return FALSE;
    *ret = line;
    return TRUE;
}
