/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records are taken as their parts come, so that an answer is never in memory twice. Texts go into
 * one chunk, equal ones once: a reason is the same for a thousand edges. What one record can't know
 * (do the processes of an edge exist, does each member come from an earlier one) is checked at the
 * end, before anybody walks along it.
 */
#include "engine/guest/process-read.h"

#include <stasis/error.h>
#include <string.h>

#include "agent/field.h"

#define MAX_PID 4194304 /* PID_MAX_LIMIT, linux/threads.h */
#define MAX_TEXT 4608   /* a path, and words around it */
#define MAX_WORD 256

/* Same numbers on the channel and in the library's face. */
G_STATIC_ASSERT((int)STASIS_AGENT_CLASS_INFO == (int)STASIS_GUEST_INFO &&
                (int)STASIS_AGENT_CLASS_OPAQUE == (int)STASIS_GUEST_OPAQUE);
G_STATIC_ASSERT((int)STASIS_AGENT_PLACE_INSIDE == (int)STASIS_GUEST_INSIDE &&
                (int)STASIS_AGENT_PLACE_NEAR == (int)STASIS_GUEST_NEAR);

struct _StasisProcessReader {
    char *who;
    GStringChunk *texts;
    GArray *members, *neighbours; /* StasisGuestProcess */
    GArray *edges;                /* StasisGuestEdge */
    GArray *refusals;             /* StasisGuestRefusal */
};

StasisProcessReader *stasis_process_reader_new(const char *who)
{
    StasisProcessReader *reader = g_new0(StasisProcessReader, 1);
    reader->who = g_strdup(who);
    reader->texts = g_string_chunk_new(8192);
    reader->members = g_array_new(FALSE, TRUE, sizeof(StasisGuestProcess));
    reader->neighbours = g_array_new(FALSE, TRUE, sizeof(StasisGuestProcess));
    reader->edges = g_array_new(FALSE, TRUE, sizeof(StasisGuestEdge));
    reader->refusals = g_array_new(FALSE, TRUE, sizeof(StasisGuestRefusal));
    return reader;
}

void stasis_process_reader_free(StasisProcessReader *reader)
{
    if (reader == NULL)
        return;
    g_clear_pointer(&reader->texts, g_string_chunk_free);
    g_array_unref(reader->members);
    g_array_unref(reader->neighbours);
    g_array_unref(reader->edges);
    g_array_unref(reader->refusals);
    g_free(reader->who);
    g_free(reader);
}

static gboolean G_GNUC_PRINTF(3, 4)
    nonsense(StasisProcessReader *reader, GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "%s: agent: an answer about processes that makes no sense: %s; is it stasis-agent "
                "of this version that has the port?",
                reader->who, what);
    return FALSE;
}

/* ---- values ---- */

/* Breaks a line, or changes what stands before it on a terminal. */
static gboolean is_control(gunichar c)
{
    GUnicodeType type = g_unichar_type(c);
    return type == G_UNICODE_CONTROL || type == G_UNICODE_FORMAT ||
           type == G_UNICODE_LINE_SEPARATOR || type == G_UNICODE_PARAGRAPH_SEPARATOR;
}

char *stasis_process_text(const StasisField *record, StasisAgentTag tag, guint max)
{
    StasisField field;
    if (!stasis_field_find(record->value, record->length, (guint16)tag, &field))
        return g_strdup("");
    g_autofree char *raw = g_strndup((const char *)field.value, MIN(field.length, max));
    g_autofree char *valid = g_utf8_make_valid(raw, -1);
    GString *clean = g_string_sized_new(strlen(valid));
    for (const char *p = valid; *p != '\0'; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        g_string_append_unichar(clean, is_control(c) ? '?' : c);
    }
    return g_string_free(clean, FALSE);
}

static const char *text(StasisProcessReader *reader, const StasisField *record, StasisAgentTag tag,
                        guint max)
{
    g_autofree char *clean = stasis_process_text(record, tag, max);
    return g_string_chunk_insert_const(reader->texts, clean);
}

static guint64 number(const StasisField *record, StasisAgentTag tag, guint64 otherwise)
{
    return stasis_field_number(record->value, record->length, (guint16)tag, otherwise);
}

/* ---- records ---- */

static gboolean take_process(StasisProcessReader *reader, GArray *to, const StasisField *record,
                             GError **error)
{
    guint64 pid = number(record, STASIS_AGENT_TAG_PID, 0);
    guint64 ppid = number(record, STASIS_AGENT_TAG_PPID, 0);
    guint64 sid = number(record, STASIS_AGENT_TAG_SID, 0);
    guint64 via = number(record, STASIS_AGENT_TAG_VIA, G_MAXUINT64);
    if (reader->members->len + reader->neighbours->len == STASIS_AGENT_MAX_PROCESSES)
        return nonsense(reader, error, "more than %u processes", STASIS_AGENT_MAX_PROCESSES);
    if (pid < 1 || pid > MAX_PID || ppid > MAX_PID || sid > MAX_PID)
        return nonsense(reader, error, "a process ID that is none");
    if (via != G_MAXUINT64 && via >= STASIS_AGENT_MAX_EDGES)
        return nonsense(reader, error, "pid %u came in by no edge", (guint)pid);
    const char *state = text(reader, record, STASIS_AGENT_TAG_STATE, 1);
    StasisGuestProcess process = {
        .pid = (guint)pid,
        .ppid = (guint)ppid,
        .sid = (guint)sid,
        .start = number(record, STASIS_AGENT_TAG_START, 0),
        .state = '?',
        .n_threads = (guint)MIN(number(record, STASIS_AGENT_TAG_THREADS, 0), MAX_PID),
        .rss_bytes = number(record, STASIS_AGENT_TAG_RSS, 0),
        .user = text(reader, record, STASIS_AGENT_TAG_USER, MAX_WORD),
        .unit = text(reader, record, STASIS_AGENT_TAG_UNIT, MAX_WORD),
        .cgroup = text(reader, record, STASIS_AGENT_TAG_CGROUP, MAX_TEXT),
        .comm = text(reader, record, STASIS_AGENT_TAG_COMM, MAX_WORD),
        .command = text(reader, record, STASIS_AGENT_TAG_COMMAND, MAX_TEXT),
        .via = via == G_MAXUINT64 ? -1 : (int)via,
    };
    if (g_ascii_isalpha(state[0]))
        process.state = state[0];
    g_array_append_val(to, process);
    return TRUE;
}

/* A number that need not be there: −1. */
static gint64 optional(const StasisField *record, StasisAgentTag tag)
{
    guint64 n = number(record, tag, G_MAXUINT64);
    return n == G_MAXUINT64 ? -1 : (gint64)MIN(n, (guint64)G_MAXINT64);
}

static gboolean take_edge(StasisProcessReader *reader, const StasisField *record, GError **error)
{
    guint64 a = number(record, STASIS_AGENT_TAG_PID, 0);
    guint64 b = number(record, STASIS_AGENT_TAG_OTHER, 0);
    guint64 edge_class = number(record, STASIS_AGENT_TAG_CLASS, STASIS_AGENT_N_CLASSES);
    guint64 place = number(record, STASIS_AGENT_TAG_PLACE, STASIS_AGENT_N_PLACES);
    if (reader->edges->len == STASIS_AGENT_MAX_EDGES)
        return nonsense(reader, error, "more than %u edges", STASIS_AGENT_MAX_EDGES);
    if (a < 1 || a > MAX_PID || b > MAX_PID || edge_class >= STASIS_AGENT_N_CLASSES ||
        place >= STASIS_AGENT_N_PLACES)
        return nonsense(reader, error, "edge %u is none", reader->edges->len);
    StasisGuestEdge edge = {
        .a = (guint)a,
        .b = (guint)b,
        .relation = text(reader, record, STASIS_AGENT_TAG_RELATION, MAX_WORD),
        .edge_class = (StasisGuestEdgeClass)edge_class,
        .place = (StasisGuestEdgePlace)place,
        .both = number(record, STASIS_AGENT_TAG_BOTH, 0) != 0,
        .cut_by_default = number(record, STASIS_AGENT_TAG_BY_DEFAULT, 0) != 0,
        .talked = optional(record, STASIS_AGENT_TAG_TALKED),
        .object = text(reader, record, STASIS_AGENT_TAG_OBJECT, MAX_TEXT),
        .witness = text(reader, record, STASIS_AGENT_TAG_WITNESS, MAX_TEXT),
        .reason = text(reader, record, STASIS_AGENT_TAG_REASON, MAX_TEXT),
    };
    g_array_append_val(reader->edges, edge);
    return TRUE;
}

static gboolean take_refusal(StasisProcessReader *reader, const StasisField *record, GError **error)
{
    if (reader->refusals->len == STASIS_AGENT_MAX_REFUSALS)
        return nonsense(reader, error, "more than %u refusals", STASIS_AGENT_MAX_REFUSALS);
    StasisGuestRefusal refusal = {
        .what = text(reader, record, STASIS_AGENT_TAG_WHAT, MAX_TEXT),
        .witness = text(reader, record, STASIS_AGENT_TAG_WITNESS, MAX_TEXT),
        .todo = text(reader, record, STASIS_AGENT_TAG_TODO, MAX_TEXT),
    };
    g_array_append_val(reader->refusals, refusal);
    return TRUE;
}

gboolean stasis_process_reader_take(const guint8 *fields, guint32 length, gpointer user_data,
                                    GError **error)
{
    StasisProcessReader *reader = user_data;
    StasisField field;
    for (guint32 at = 0; stasis_field_next(fields, length, &at, &field);) {
        gboolean good = TRUE;
        if (field.tag == STASIS_AGENT_TAG_PROCESS)
            good = take_process(reader, reader->members, &field, error);
        else if (field.tag == STASIS_AGENT_TAG_NEIGHBOUR)
            good = take_process(reader, reader->neighbours, &field, error);
        else if (field.tag == STASIS_AGENT_TAG_EDGE)
            good = take_edge(reader, &field, error);
        else if (field.tag == STASIS_AGENT_TAG_REFUSAL)
            good = take_refusal(reader, &field, error);
        if (!good)
            return FALSE;
    }
    return TRUE;
}

/* ---- the whole ---- */

static gboolean take_last(StasisProcessReader *reader, GBytes *last, GError **error)
{
    gsize length;
    const guint8 *fields = g_bytes_get_data(last, &length);
    return stasis_process_reader_take(fields, (guint32)length, reader, error);
}

/* Index of each process by its pid, none twice; NULL with @error. */
static GHashTable *index_pids(StasisProcessReader *reader, const StasisGuestProcess *processes,
                              guint n, GError **error)
{
    g_autoptr(GHashTable) index = g_hash_table_new(NULL, NULL);
    for (guint i = 0; i < n; i++) {
        gpointer pid = GUINT_TO_POINTER(processes[i].pid);
        if (g_hash_table_insert(index, pid, GUINT_TO_POINTER(i)))
            continue;
        nonsense(reader, error, "pid %u twice", processes[i].pid);
        return NULL;
    }
    return g_steal_pointer(&index);
}

static int find(GHashTable *index, guint pid)
{
    gpointer found;
    return g_hash_table_lookup_extended(index, GUINT_TO_POINTER(pid), NULL, &found)
               ? (int)GPOINTER_TO_UINT(found)
               : -1;
}

static int compare_processes(gconstpointer a, gconstpointer b)
{
    guint x = ((const StasisGuestProcess *)a)->pid, y = ((const StasisGuestProcess *)b)->pid;
    return x < y ? -1 : x > y;
}

StasisGuestProcesses *stasis_process_reader_end_list(StasisProcessReader *reader, GBytes *last,
                                                     GError **error)
{
    if (!take_last(reader, last, error))
        return NULL;
    GArray *members = reader->members;
    g_autoptr(GHashTable) index =
        index_pids(reader, (StasisGuestProcess *)(void *)members->data, members->len, error);
    if (index == NULL)
        return NULL;
    g_array_sort(members, compare_processes);
    StasisGuestProcesses *list = g_new0(StasisGuestProcesses, 1);
    list->n_processes = members->len;
    list->processes = (StasisGuestProcess *)(void *)g_array_steal(members, NULL);
    for (guint i = 0; i < list->n_processes; i++)
        list->processes[i].via = -1;
    list->memory = g_steal_pointer(&reader->texts);
    return list;
}

/* Ends exist, at least one is a member, and where it lies is true. */
static gboolean check_edge(StasisProcessReader *reader, const StasisGuestBoundary *b, guint i,
                           GHashTable *index, GError **error)
{
    const StasisGuestEdge *e = &b->edges[i];
    int n_members = (int)b->n_members, at = find(index, e->a);
    int other = e->b != 0 ? find(index, e->b) : -1;
    if (at < 0 || (e->b != 0 && other < 0))
        return nonsense(reader, error, "edge %u is of a process that is not told", i);
    gboolean a_in = at < n_members, b_in = other >= 0 && other < n_members;
    if ((!a_in && !b_in) || (e->place == STASIS_GUEST_INSIDE) != (a_in && b_in) ||
        (e->place == STASIS_GUEST_CUT && e->edge_class != STASIS_GUEST_CUTTABLE))
        return nonsense(reader, error, "edge %u can't lie where it is told to", i);
    return TRUE;
}

/* A member that was not asked for comes from one before it, by an edge that is there. */
static gboolean check_via(StasisProcessReader *reader, const StasisGuestBoundary *b, guint i,
                          GHashTable *index, GError **error)
{
    const StasisGuestProcess *p = &b->processes[i];
    gboolean later = i >= b->n_roots && i < b->n_members;
    if (!later && p->via < 0)
        return TRUE;
    const StasisGuestEdge *e =
        later && p->via >= 0 && (guint)p->via < b->n_edges ? &b->edges[p->via] : NULL;
    guint from = e == NULL ? 0 : e->a == p->pid ? e->b : e->b == p->pid ? e->a : 0;
    int at = from != 0 ? find(index, from) : -1;
    if (at < 0 || at >= (int)i)
        return nonsense(reader, error, "pid %u came in by nothing", p->pid);
    return TRUE;
}

static gboolean check_boundary(StasisProcessReader *reader, const StasisGuestBoundary *b,
                               GError **error)
{
    if (b->n_roots > b->n_members || (!b->refused && b->n_roots == 0))
        return nonsense(reader, error, "%u of %u members asked for", b->n_roots, b->n_members);
    if (b->refused != (b->n_refusals > 0))
        return nonsense(reader, error, "refused or not, with %u reasons", b->n_refusals);
    g_autoptr(GHashTable) index = index_pids(reader, b->processes, b->n_processes, error);
    gboolean good = index != NULL;
    for (guint i = 0; good && i < b->n_edges; i++)
        good = check_edge(reader, b, i, index, error);
    for (guint i = 0; good && i < b->n_processes; i++)
        good = check_via(reader, b, i, index, error);
    return good;
}

static void take_totals(StasisGuestBoundary *b, GBytes *last, guint n_cuts)
{
    gsize length;
    const guint8 *fields = g_bytes_get_data(last, &length);
    const StasisField all = { .value = fields, .length = (guint32)length };
    StasisField field;
    b->n_roots = (guint)MIN(number(&all, STASIS_AGENT_TAG_N_ROOTS, 0), G_MAXINT);
    b->refused = number(&all, STASIS_AGENT_TAG_REFUSED, 0) != 0;
    b->n_passes = (guint)MIN(number(&all, STASIS_AGENT_TAG_PASSES, 0), G_MAXINT);
    gint64 counted_for_ns = optional(&all, STASIS_AGENT_TAG_COUNTED);
    b->counted_for_us = counted_for_ns > 0 ? counted_for_ns / 1000 + 1 : counted_for_ns;
    b->n_cuts = n_cuts;
    b->cut_uses = g_new0(guint, n_cuts + 1);
    guint cut = 0;
    for (guint32 at = 0; stasis_field_next(all.value, all.length, &at, &field);)
        if (field.tag == STASIS_AGENT_TAG_CUT_USES && cut < n_cuts)
            b->cut_uses[cut++] = (guint)MIN(stasis_field_to_number(&field), G_MAXINT);
}

StasisGuestBoundary *stasis_process_reader_end_boundary(StasisProcessReader *reader, GBytes *last,
                                                        guint n_cuts, GError **error)
{
    if (!take_last(reader, last, error))
        return NULL;
    g_autoptr(StasisGuestBoundary) b = g_new0(StasisGuestBoundary, 1);
    take_totals(b, last, n_cuts);
    b->n_members = reader->members->len;
    g_array_append_vals(reader->members, reader->neighbours->data, reader->neighbours->len);
    b->n_processes = reader->members->len;
    b->processes = (StasisGuestProcess *)(void *)g_array_steal(reader->members, NULL);
    b->n_edges = reader->edges->len;
    b->edges = (StasisGuestEdge *)(void *)g_array_steal(reader->edges, NULL);
    b->n_refusals = reader->refusals->len;
    b->refusals = (StasisGuestRefusal *)(void *)g_array_steal(reader->refusals, NULL);
    b->memory = g_steal_pointer(&reader->texts);
    return check_boundary(reader, b, error) ? g_steal_pointer(&b) : NULL;
}
