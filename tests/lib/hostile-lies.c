/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lies about processes, their list or who belongs together: a good form, and then … */
#include "hostile-agent.h"

#include <stdio.h>
#include <string.h>

#define MILLION 1000000u

/* A record about two processes. */
static StasisFieldWriter begin_record(uint16_t tag_a, uint64_t a, uint16_t tag_b, uint64_t b)
{
    static uint8_t room[16384];
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    stasis_field_put_number(&record, tag_a, a);
    stasis_field_put_number(&record, tag_b, b);
    return record;
}

/* The same words under each of these tags. */
static void put_words(StasisFieldWriter *record, const uint16_t tags[4], const char *words)
{
    for (unsigned i = 0; i < 4; i++)
        stasis_field_put_text(record, tags[i], words);
}

void put_process(uint64_t pid, uint64_t ppid, int64_t via, const char *words)
{
    static const uint16_t texts[] = { STASIS_AGENT_TAG_COMM, STASIS_AGENT_TAG_USER,
                                      STASIS_AGENT_TAG_UNIT, STASIS_AGENT_TAG_COMMAND };
    StasisFieldWriter record = begin_record(STASIS_AGENT_TAG_PID, pid, STASIS_AGENT_TAG_PPID, ppid);
    put_words(&record, texts, words);
    if (via >= 0)
        stasis_field_put_number(&record, STASIS_AGENT_TAG_VIA, (uint64_t)via);
    stasis_field_put(&part, STASIS_AGENT_TAG_PROCESS, record.payload, record.length);
}

static void put_edge(uint64_t a, uint64_t b, const char *words)
{
    static const uint16_t texts[] = { STASIS_AGENT_TAG_RELATION, STASIS_AGENT_TAG_OBJECT,
                                      STASIS_AGENT_TAG_WITNESS, STASIS_AGENT_TAG_REASON };
    StasisFieldWriter record = begin_record(STASIS_AGENT_TAG_PID, a, STASIS_AGENT_TAG_OTHER, b);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_CLASS, STASIS_AGENT_CLASS_HARD);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_PLACE, STASIS_AGENT_PLACE_INSIDE);
    put_words(&record, texts, words);
    stasis_field_put(&part, STASIS_AGENT_TAG_EDGE, record.payload, record.length);
}

/* More and more of them, with long texts. */
static void lie_many(uint64_t id)
{
    static char words[4096];
    memset(words, 'w', sizeof words - 1);
    for (uint64_t pid = 1; pid < 8000 && !host_has_left(); pid++) {
        snprintf(words, sizeof words - 1, "%08llu", (unsigned long long)pid);
        words[8] = 'w';
        put_process(pid, 1, -1, words);
        if (part.length > 40000)
            send_part(id, 0);
    }
}

/* Small ones, until the host has had enough. */
static void lie_million(uint64_t id)
{
    for (uint64_t pid = 1; pid <= MILLION && !host_has_left(); pid++) {
        put_process(pid, 1, -1, "p");
        if (part.length > 40000)
            send_part(id, 0);
    }
}

/* Each by way of the other. */
static void lie_loop(uint64_t id)
{
    put_process(10, 1, -1, "root");
    put_process(11, 1, 0, "a");
    put_process(12, 1, 0, "b");
    put_edge(11, 12, "edge");
}

/* Each other's parents, and its own. */
static void lie_parents(uint64_t id)
{
    put_process(10, 11, -1, "a");
    put_process(11, 10, 0, "b");
    put_process(12, 12, 1, "c");
    put_edge(10, 11, "edge");
    put_edge(11, 12, "edge");
}

static void lie_twice(uint64_t id)
{
    put_process(10, 1, -1, "one");
    put_process(10, 1, -1, "another");
}

/* Of a process that was not told. */
static void lie_stray(uint64_t id)
{
    put_process(10, 1, -1, "root");
    put_edge(10, 99, "edge");
}

/* Nothing wrong but the words: for terminals … */
static void lie_words(uint64_t id)
{
    put_process(10, 1, -1, "\x1b[31mevil\n\xff");
    put_process(11, 1, 0, "\x1b]0;title\a\xe2\x80\xae\"\\\x9b\xc2\x9b");
    put_edge(10, 11, "\x1b[2Jwiped\n\"];\\");
}

/* … and for those who make a picture of them (test_proc_hostile.py has the same). */
static void lie_markup(uint64_t id)
{
    static const char *const words[] = { "\"]; evil [label=\"",
                                         "<b onload=\"evil()\">]]></text><script>",
                                         "&#27;&#0;&nosuch;&lt;&amp;",
                                         "\\N\\G\\",
                                         "<<table><tr><td>evil</td></tr></table>>",
                                         "\", URL=\"http://evil/",
                                         "%s%n*/}" };
    for (uint64_t i = 0; i < sizeof words / sizeof *words; i++) {
        put_process(10 + i, 1, (int64_t)i - 1, words[i]);
        if (i > 0)
            put_edge(10, 10 + i, words[i]);
    }
}

static const struct {
    const char *mode;
    void (*lie)(uint64_t id);
} lies[] = {
    { "proc-many", lie_many },   { "proc-million", lie_million }, { "proc-loop", lie_loop },
    { "proc-twice", lie_twice }, { "proc-parents", lie_parents }, { "proc-stray", lie_stray },
    { "proc-words", lie_words }, { "proc-markup", lie_markup },
};

void lie_of_processes(const char *mode, uint64_t id)
{
    for (unsigned i = 0; i < sizeof lies / sizeof *lies; i++)
        if (strcmp(mode, lies[i].mode) == 0)
            lies[i].lie(id);
    send_part(id, 0);
    bool none = strcmp(mode, "proc-none") == 0; /* refused, and not why */
    stasis_field_put_number(&part, STASIS_AGENT_TAG_N_ROOTS, !none);
    stasis_field_put_number(&part, STASIS_AGENT_TAG_REFUSED, none);
    send_part(id, STASIS_AGENT_END);
}
