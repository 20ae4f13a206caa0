/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: no answer about processes crashes the host, and what is taken of one holds together:
 * each text is one line of UTF-8, each edge has its ends, each member an origin before it.
 *
 * The input is a short form of an answer, so that it soon is one: a byte that says how many bytes
 * are the last part's, one with twice the number of cuts, then fields of tag (less PROCESS), length
 * and value, the first two a byte each; a record's value is the same again, a short number is
 * filled up with zeros. With an odd second byte fields are taken as they are. */
#include <stdint.h>
#include <string.h>

#include "agent/field.h"
#include "engine/guest/process-read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FIRST STASIS_AGENT_TAG_PROCESS

static bool is_record(uint16_t tag)
{
    return tag >= STASIS_AGENT_TAG_PROCESS && tag <= STASIS_AGENT_TAG_REFUSAL;
}

static bool is_number(uint16_t tag)
{
    switch (tag) {
    case STASIS_AGENT_TAG_PID:
    case STASIS_AGENT_TAG_PPID:
    case STASIS_AGENT_TAG_SID:
    case STASIS_AGENT_TAG_START:
    case STASIS_AGENT_TAG_THREADS:
    case STASIS_AGENT_TAG_RSS:
    case STASIS_AGENT_TAG_VIA:
    case STASIS_AGENT_TAG_OTHER:
    case STASIS_AGENT_TAG_CLASS:
    case STASIS_AGENT_TAG_PLACE:
    case STASIS_AGENT_TAG_BOTH:
    case STASIS_AGENT_TAG_CUT_USES:
    case STASIS_AGENT_TAG_N_ROOTS:
    case STASIS_AGENT_TAG_REFUSED:
    case STASIS_AGENT_TAG_TALKED:
    case STASIS_AGENT_TAG_COUNTED:
        return true;
    default:
        return false;
    }
}

static void expand(StasisFieldWriter *to, const uint8_t *data, size_t size, int depth)
{
    static uint8_t rooms[2][1 << 16];
    while (size >= 2) {
        uint16_t tag = (uint16_t)(FIRST + data[0]);
        size_t length = MIN(data[1], size - 2);
        StasisFieldWriter record = { .payload = rooms[depth], .room = sizeof rooms[depth] };
        uint8_t eight[8] = { 0 };
        if (is_record(tag) && depth == 0) {
            expand(&record, data + 2, length, 1);
            stasis_field_put(to, tag, record.payload, record.length);
        } else if (is_number(tag)) {
            memcpy(eight, data + 2, MIN(length, sizeof eight));
            stasis_field_put(to, tag, eight, sizeof eight);
        } else {
            stasis_field_put(to, tag, data + 2, (uint32_t)length);
        }
        data += 2 + length;
        size -= 2 + length;
    }
}

static void check(bool good)
{
    if (!good)
        __builtin_trap();
}

static void check_text(const char *text)
{
    check(text != NULL && g_utf8_validate(text, -1, NULL));
    for (; *text != '\0'; text++)
        check(!g_ascii_iscntrl(*text));
}

static void check_process(const StasisGuestProcess *p)
{
    check(p->pid > 0);
    check(p->state == '?' || g_ascii_isalpha(p->state));
    check_text(p->user);
    check_text(p->unit);
    check_text(p->cgroup);
    check_text(p->comm);
    check_text(p->command);
}

static int find(const StasisGuestBoundary *b, guint pid)
{
    for (guint i = 0; i < b->n_processes; i++)
        if (b->processes[i].pid == pid)
            return (int)i;
    return -1;
}

static void check_boundary(const StasisGuestBoundary *b)
{
    g_autoptr(GError) error = NULL;
    check(stasis_guest_boundary_check(b, &error) == !b->refused);
    check(b->n_roots <= b->n_members && b->n_members <= b->n_processes);
    for (guint i = 0; i < b->n_processes; i++) {
        const StasisGuestProcess *p = &b->processes[i];
        check_process(p);
        check((p->via >= 0) == (i >= b->n_roots && i < b->n_members));
        if (p->via < 0)
            continue;
        check((guint)p->via < b->n_edges);
        const StasisGuestEdge *e = &b->edges[p->via];
        check(e->a == p->pid || e->b == p->pid);
        int from = find(b, e->a == p->pid ? e->b : e->a);
        check(from >= 0 && from < (int)i);
    }
    for (guint i = 0; i < b->n_edges; i++) {
        const StasisGuestEdge *e = &b->edges[i];
        int a = find(b, e->a), other = e->b != 0 ? find(b, e->b) : -1;
        check(a >= 0 && (e->b == 0 || other >= 0));
        check(a < (int)b->n_members || (other >= 0 && other < (int)b->n_members));
        check(e->edge_class <= STASIS_GUEST_OPAQUE && e->place <= STASIS_GUEST_NEAR);
        check_text(e->relation);
        check_text(e->object);
        check_text(e->witness);
        check_text(e->reason);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t room[1 << 18];
    if (size < 2 || size > 60000)
        return 0;
    size_t n_last = MIN(data[0], size - 2), n_first = size - 2 - n_last;
    guint n_cuts = data[1] / 2;
    StasisFieldWriter first = { .payload = room, .room = sizeof room / 2 };
    StasisFieldWriter last = { .payload = room + sizeof room / 2, .room = sizeof room / 2 };
    if (data[1] & 1) {
        memcpy(first.payload, data + 2, first.length = (uint32_t)n_first);
        memcpy(last.payload, data + 2 + n_first, last.length = (uint32_t)n_last);
    } else {
        expand(&first, data + 2, n_first, 0);
        expand(&last, data + 2 + n_first, n_last, 0);
    }
    /* Of just their size, so that a read past the end is seen. */
    g_autofree uint8_t *exact = g_memdup2(first.payload, first.length);
    g_autoptr(GBytes) end = g_bytes_new(last.payload, last.length);
    g_autoptr(StasisProcessReader) one = stasis_process_reader_new("fuzz");
    g_autoptr(StasisProcessReader) other = stasis_process_reader_new("fuzz");
    if (!stasis_process_reader_take(exact, first.length, one, NULL) ||
        !stasis_process_reader_take(exact, first.length, other, NULL))
        return 0;
    g_autoptr(StasisGuestBoundary) b = stasis_process_reader_end_boundary(one, end, n_cuts, NULL);
    if (b != NULL)
        check_boundary(b);
    g_autoptr(StasisGuestProcesses) list = stasis_process_reader_end_list(other, end, NULL);
    for (guint i = 0; list != NULL && i < list->n_processes; i++)
        check_process(&list->processes[i]);
    return 0;
}
