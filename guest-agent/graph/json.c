/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A boundary as JSON, streamed: no text of it is ever in memory as a whole. */
#include "graph/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    StasisWriter writer;
    void *data;
    int result; /* sticky */
    size_t len;
    char text[4096];
} Out;

static void flush(Out *out)
{
    if (out->result == 0 && out->len > 0)
        out->result = out->writer(out->data, out->text, out->len);
    out->len = 0;
}

static void put(Out *out, const char *text, size_t len)
{
    while (len > 0 && out->result == 0) {
        size_t n = sizeof out->text - out->len;
        n = n < len ? n : len;
        memcpy(out->text + out->len, text, n);
        out->len += n;
        text += n;
        len -= n;
        if (out->len == sizeof out->text)
            flush(out);
    }
}

static void raw(Out *out, const char *text)
{
    put(out, text, strlen(text));
}

static void number(Out *out, long long value)
{
    char text[24];
    put(out, text, (size_t)snprintf(text, sizeof text, "%lld", value));
}

/* Length of the UTF-8 sequence at @s, 0: it is none (RFC 3629). */
static size_t sequence(const unsigned char *s)
{
    size_t n = s[0] < 0x80                   ? 1
               : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
               : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
               : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                             : 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))
        return 0;
    return n;
}

static void string(Out *out, const char *text)
{
    if (text == NULL) {
        raw(out, "null");
        return;
    }
    raw(out, "\"");
    for (const unsigned char *s = (const void *)text; *s != '\0';) {
        char escaped[8];
        size_t n = sequence(s);
        if (n == 0) {
            raw(out, "\xef\xbf\xbd"); /* U+FFFD */
            n = 1;
        } else if (*s == '"' || *s == '\\') {
            put(out, escaped, (size_t)snprintf(escaped, sizeof escaped, "\\%c", *s));
        } else if (*s < 0x20 || *s == 0x7f) {
            put(out, escaped, (size_t)snprintf(escaped, sizeof escaped, "\\u%04x", *s));
        } else {
            put(out, (const char *)s, n);
        }
        s += n;
    }
    raw(out, "\"");
}

static void field(Out *out, const char *name, const char *value)
{
    raw(out, ",\"");
    raw(out, name);
    raw(out, "\":");
    string(out, value);
}

static void number_field(Out *out, const char *name, long long value)
{
    raw(out, ",\"");
    raw(out, name);
    raw(out, "\":");
    number(out, value);
}

static const char *const verdicts[] = { "ok", "refused", "failed" };
static const char *const classes[] = { "info", "cuttable", "hard", "opaque" };
static const char *const places[] = { "far", "inside", "cut", "near" };

static void write_process(Out *out, const StasisBoundary *b, int32_t index)
{
    const StasisProcess *p = &b->scan.processes.items[index];
    const char state[2] = { p->state, '\0' };
    raw(out, "{\"pid\":");
    number(out, p->pid);
    number_field(out, "ppid", p->ppid);
    number_field(out, "sid", p->sid);
    number_field(out, "start", (long long)p->start);
    field(out, "comm", p->comm);
    field(out, "state", state);
    number_field(out, "threads", (long long)p->n_tasks);
    field(out, "via", b->via[index] < 0 ? NULL : b->scan.edges.items[b->via[index]].witness);
    raw(out, "}");
}

static void write_edge(Out *out, const StasisBoundary *b, size_t index)
{
    const StasisEdge *e = &b->scan.edges.items[index];
    raw(out, "{\"a\":");
    number(out, b->scan.processes.items[e->a].pid);
    raw(out, ",\"b\":");
    if (e->b >= 0)
        number(out, b->scan.processes.items[e->b].pid);
    else
        raw(out, "null");
    field(out, "relation", e->relation->name);
    field(out, "class", classes[e->class]);
    raw(out, e->both ? ",\"both\":true" : ",\"both\":false");
    field(out, "place", places[b->place[index]]);
    raw(out, e->cut_by_default ? ",\"by_default\":true" : ",\"by_default\":false");
    raw(out, ",\"talked\":");
    if (e->counted)
        number(out, (long long)e->talked);
    else
        raw(out, "null");
    field(out, "object", e->object);
    field(out, "witness", e->witness);
    field(out, "reason", e->reason);
    raw(out, "}");
}

static void write_refusals(Out *out, const StasisBoundary *b)
{
    raw(out, ",\"refusals\":[");
    for (size_t i = 0; i < b->refusals.n; i++) {
        raw(out, i > 0 ? ",{\"what\":" : "{\"what\":");
        string(out, b->refusals.items[i].what);
        field(out, "witness", b->refusals.items[i].witness);
        field(out, "todo", b->refusals.items[i].todo);
        raw(out, "}");
    }
    raw(out, "]");
}

static void write_lists(Out *out, const StasisBoundary *b)
{
    raw(out, ",\"members\":[");
    for (size_t i = 0; i < b->members.n; i++) {
        raw(out, i > 0 ? "," : "");
        write_process(out, b, b->members.items[i]);
    }
    raw(out, "],\"neighbours\":[");
    bool any = false;
    for (size_t i = 0; b->members.n > 0 && b->is_neighbour != NULL && i < b->scan.processes.n; i++)
        if (b->is_neighbour[i]) {
            raw(out, any ? "," : "");
            write_process(out, b, (int32_t)i);
            any = true;
        }
    raw(out, "],\"edges\":[");
    any = false;
    for (size_t i = 0; b->members.n > 0 && b->place != NULL && i < b->scan.edges.n; i++)
        if (b->place[i] != STASIS_EDGE_FAR) {
            raw(out, any ? "," : "");
            write_edge(out, b, i);
            any = true;
        }
    raw(out, "],\"cuts\":[");
    for (size_t i = 0; b->members.n > 0 && i < b->request.n_cuts; i++) {
        raw(out, i > 0 ? ",{\"name\":" : "{\"name\":");
        string(out, b->request.cuts[i]);
        number_field(out, "edges", (long long)b->cut_uses[i]);
        raw(out, "}");
    }
    raw(out, "]");
}

int stasis_boundary_write_json(const StasisBoundary *boundary, StasisWriter writer, void *data)
{
    Out out = { .writer = writer, .data = data };
    raw(&out, "{\"version\":1");
    field(&out, "verdict", verdicts[boundary->verdict]);
    field(&out, "error", boundary->error);
    field(&out, "boundary", stasis_shape_names[boundary->request.shape]);
    field(&out, "without", boundary->request.without);
    number_field(&out, "passes", boundary->n_passes);
    raw(&out, boundary->stable ? ",\"stable\":true" : ",\"stable\":false");
    number_field(&out, "roots", (long long)boundary->n_roots);
    write_refusals(&out, boundary);
    write_lists(&out, boundary);
    raw(&out, "}\n");
    flush(&out);
    return out.result;
}
