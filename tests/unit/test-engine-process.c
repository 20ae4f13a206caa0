/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what the agent says of processes is taken whole when it is true in itself, and refused
 * with one clear line when it contradicts itself or is more than it may be. */
#include <stasis/error.h>
#include <string.h>

#include "engine/guest/process-read.h"
#include "test-agent-part.h"

static void put_process(TestPart *answer, StasisAgentTag tag, guint pid, int via)
{
    guint8 room[512];
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    stasis_field_put_number(&record, STASIS_AGENT_TAG_PID, pid);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_PPID, 1);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_STATE, "S");
    stasis_field_put_text(&record, STASIS_AGENT_TAG_COMM,
                          "a\x1b[31m\n\xff\xe2\x80\xae"
                          "b");
    if (via >= 0)
        stasis_field_put_number(&record, STASIS_AGENT_TAG_VIA, (guint)via);
    stasis_field_put(&answer->part, tag, record.payload, record.length);
}

static void put_talked_edge(TestPart *answer, guint a, guint b, guint edge_class, guint place,
                            guint64 talked)
{
    guint8 room[512];
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    stasis_field_put_number(&record, STASIS_AGENT_TAG_PID, a);
    if (talked != G_MAXUINT64)
        stasis_field_put_number(&record, STASIS_AGENT_TAG_TALKED, talked);
    if (b != 0)
        stasis_field_put_number(&record, STASIS_AGENT_TAG_OTHER, b);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_CLASS, edge_class);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_PLACE, place);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_RELATION, "pipe");
    stasis_field_put_text(&record, STASIS_AGENT_TAG_WITNESS, "w");
    stasis_field_put(&answer->part, STASIS_AGENT_TAG_EDGE, record.payload, record.length);
}

static void put_edge(TestPart *answer, guint a, guint b, guint edge_class, guint place)
{
    put_talked_edge(answer, a, b, edge_class, place, G_MAXUINT64);
}

static void put_refusal(TestPart *answer, const char *what)
{
    guint8 room[512];
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    stasis_field_put_text(&record, STASIS_AGENT_TAG_WHAT, what);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_WITNESS, "this one");
    stasis_field_put_text(&record, STASIS_AGENT_TAG_TODO, "give up");
    stasis_field_put(&answer->part, STASIS_AGENT_TAG_REFUSAL, record.payload, record.length);
}

/* Members 5, 6 and 7, and 8 beside them. */
static TestPart *good_answer(void)
{
    TestPart *answer = test_part_new();
    put_process(answer, STASIS_AGENT_TAG_PROCESS, 5, -1);
    put_process(answer, STASIS_AGENT_TAG_PROCESS, 6, 0);
    put_process(answer, STASIS_AGENT_TAG_PROCESS, 7, 1);
    put_process(answer, STASIS_AGENT_TAG_NEIGHBOUR, 8, -1);
    put_edge(answer, 5, 6, STASIS_AGENT_CLASS_HARD, STASIS_AGENT_PLACE_INSIDE);
    put_talked_edge(answer, 7, 6, STASIS_AGENT_CLASS_CUTTABLE, STASIS_AGENT_PLACE_INSIDE,
                    G_MAXUINT64 - 1);
    put_talked_edge(answer, 8, 7, STASIS_AGENT_CLASS_CUTTABLE, STASIS_AGENT_PLACE_CUT, 0);
    put_edge(answer, 5, 0, STASIS_AGENT_CLASS_CUTTABLE, STASIS_AGENT_PLACE_NEAR);
    return answer;
}

static StasisGuestBoundary *read_boundary(TestPart *answer, guint n_roots, gboolean refused,
                                          GError **error)
{
    guint8 room[256];
    StasisFieldWriter last = { .payload = room, .room = sizeof room };
    stasis_field_put_number(&last, STASIS_AGENT_TAG_N_ROOTS, n_roots);
    stasis_field_put_number(&last, STASIS_AGENT_TAG_REFUSED, refused);
    stasis_field_put_number(&last, STASIS_AGENT_TAG_PASSES, 2);
    stasis_field_put_number(&last, STASIS_AGENT_TAG_COUNTED, 1500);
    stasis_field_put_number(&last, STASIS_AGENT_TAG_CUT_USES, 3);
    g_autoptr(GBytes) end = g_bytes_new(room, last.length);
    g_autoptr(StasisProcessReader) reader = stasis_process_reader_new("VM t");
    g_assert_false(answer->part.overflow);
    StasisGuestBoundary *boundary =
        stasis_process_reader_take(answer->part.payload, answer->part.length, reader, error)
            ? stasis_process_reader_end_boundary(reader, end, 2, error)
            : NULL;
    g_free(answer);
    return boundary;
}

static void test_taken(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisGuestBoundary) b = read_boundary(good_answer(), 1, FALSE, &error);
    g_assert_no_error(error);
    g_assert_true(stasis_guest_boundary_check(b, &error));
    g_assert_cmpuint(b->n_roots, ==, 1);
    g_assert_cmpuint(b->n_members, ==, 3);
    g_assert_cmpuint(b->n_processes, ==, 4);
    g_assert_cmpuint(b->n_edges, ==, 4);
    g_assert_cmpuint(b->n_passes, ==, 2);
    g_assert_cmpuint(b->n_cuts, ==, 2);
    g_assert_cmpuint(b->cut_uses[0], ==, 3);
    g_assert_cmpuint(b->cut_uses[1], ==, 0);
    g_assert_cmpint(b->processes[0].via, ==, -1);
    g_assert_cmpint(b->processes[2].via, ==, 1);
    g_assert_cmpuint(b->processes[3].pid, ==, 8);
    g_assert_cmpuint(b->edges[3].b, ==, 0);
    g_assert_cmpint(b->edges[2].place, ==, STASIS_GUEST_CUT);
    g_assert_cmpint(b->edges[0].talked, ==, -1);
    g_assert_cmpint(b->edges[1].talked, ==, G_MAXINT64);
    g_assert_cmpint(b->edges[2].talked, ==, 0);
    g_assert_cmpint(b->counted_for_us, ==, 2);
    /* One line, and nothing that changes what stands before it. */
    g_assert_cmpstr(b->processes[0].comm, ==, "a?[31m?\xef\xbf\xbd?b");
    g_assert_cmpstr(b->processes[0].unit, ==, "");
}

static void test_refused(void)
{
    g_autoptr(GError) error = NULL;
    TestPart *answer = good_answer();
    put_refusal(answer, "no\nway");
    put_refusal(answer, "second");
    g_autoptr(StasisGuestBoundary) b = read_boundary(answer, 1, TRUE, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(b->n_refusals, ==, 2);
    g_assert_false(stasis_guest_boundary_check(b, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_REFUSED);
    g_assert_cmpstr(error->message, ==, "refused: no?way\nwitness: this one\nto do: give up");
    g_clear_error(&error);
    /* After a limit there are no lists. */
    answer = test_part_new();
    put_refusal(answer, "too many");
    g_autoptr(StasisGuestBoundary) bare = read_boundary(answer, 0, TRUE, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(bare->n_members, ==, 0);
}

static void assert_lie(TestPart *answer, guint n_roots, gboolean refused, const char *words)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisGuestBoundary) b = read_boundary(answer, n_roots, refused, &error);
    g_assert_null(b);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    if (strstr(error->message, words) == NULL || strchr(error->message, '\n') != NULL)
        g_error("\"%s\" is not in: %s", words, error->message);
}

static void test_lies(void)
{
    const guint hard = STASIS_AGENT_CLASS_HARD, inside = STASIS_AGENT_PLACE_INSIDE;
    assert_lie(good_answer(), 0, FALSE, "0 of 3 members");
    assert_lie(good_answer(), 4, FALSE, "4 of 3 members");
    assert_lie(good_answer(), 2, FALSE, "came in by nothing"); /* a root with a way in */
    assert_lie(good_answer(), 1, TRUE, "with 0 reasons");
    assert_lie(test_part_new(), 0, FALSE, "0 of 0 members");
    TestPart *answer = good_answer();
    put_refusal(answer, "why");
    assert_lie(answer, 1, FALSE, "with 1 reasons");
    struct {
        guint a, b, edge_class, place;
        const char *words;
    } edges[] = {
        { 5, 99, hard, inside, "not told" },
        { 99, 5, hard, inside, "not told" },
        { 0, 5, hard, inside, "is none" },
        { 5, 5000000, hard, inside, "is none" },
        { 5, 6, 4, inside, "is none" },
        { 5, 6, hard, 3, "is none" },
        { 8, 8, hard, inside, "lie where" },
        { 5, 8, hard, inside, "lie where" },
        { 5, 6, hard, STASIS_AGENT_PLACE_NEAR, "lie where" },
        { 5, 8, hard, STASIS_AGENT_PLACE_CUT, "lie where" },
    };
    for (guint i = 0; i < G_N_ELEMENTS(edges); i++) {
        answer = good_answer();
        put_edge(answer, edges[i].a, edges[i].b, edges[i].edge_class, edges[i].place);
        assert_lie(answer, 1, FALSE, edges[i].words);
    }
    struct {
        StasisAgentTag tag;
        guint pid;
        int via;
        const char *words;
    } processes[] = {
        { STASIS_AGENT_TAG_PROCESS, 5, 0, "pid 5 twice" },
        { STASIS_AGENT_TAG_NEIGHBOUR, 5, -1, "pid 5 twice" },
        { STASIS_AGENT_TAG_PROCESS, 0, 0, "process ID" },
        { STASIS_AGENT_TAG_PROCESS, 4194305, 0, "process ID" },
        { STASIS_AGENT_TAG_PROCESS, 9, -1, "pid 9 came in by nothing" },
        { STASIS_AGENT_TAG_PROCESS, 9, 0, "pid 9 came in by nothing" },  /* not its edge */
        { STASIS_AGENT_TAG_PROCESS, 9, 77, "pid 9 came in by nothing" }, /* no edge */
        { STASIS_AGENT_TAG_PROCESS, 9, 40000, "pid 9 came in by no edge" },
        { STASIS_AGENT_TAG_NEIGHBOUR, 9, 0, "pid 9 came in by nothing" },
    };
    for (guint i = 0; i < G_N_ELEMENTS(processes); i++) {
        answer = good_answer();
        put_process(answer, processes[i].tag, processes[i].pid, processes[i].via);
        assert_lie(answer, 1, FALSE, processes[i].words);
    }
    /* Each from the other: no end to walking up. */
    answer = good_answer();
    put_process(answer, STASIS_AGENT_TAG_PROCESS, 10, 4);
    put_process(answer, STASIS_AGENT_TAG_PROCESS, 11, 4);
    put_edge(answer, 10, 11, hard, inside);
    assert_lie(answer, 1, FALSE, "pid 10 came in by nothing");
}

static void test_too_many(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisProcessReader) reader = stasis_process_reader_new("VM t");
    for (guint pid = 1; pid <= STASIS_AGENT_MAX_PROCESSES + 1; pid++) {
        g_autofree TestPart *answer = test_part_new();
        put_process(answer, STASIS_AGENT_TAG_PROCESS, pid, -1);
        gboolean taken =
            stasis_process_reader_take(answer->part.payload, answer->part.length, reader, &error);
        g_assert_cmpint(taken, ==, pid <= STASIS_AGENT_MAX_PROCESSES);
    }
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_autoptr(StasisProcessReader) edges = stasis_process_reader_new("VM t");
    for (guint i = 0; i <= STASIS_AGENT_MAX_EDGES; i++) {
        g_autofree TestPart *answer = test_part_new();
        put_edge(answer, 1, 2, STASIS_AGENT_CLASS_HARD, STASIS_AGENT_PLACE_INSIDE);
        gboolean taken =
            stasis_process_reader_take(answer->part.payload, answer->part.length, edges, NULL);
        g_assert_cmpint(taken, ==, i < STASIS_AGENT_MAX_EDGES);
    }
}

static void test_list(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisProcessReader) reader = stasis_process_reader_new("VM t");
    g_autofree TestPart *answer = test_part_new();
    put_process(answer, STASIS_AGENT_TAG_PROCESS, 7, 0);
    put_process(answer, STASIS_AGENT_TAG_PROCESS, 3, -1);
    g_autoptr(GBytes) last = g_bytes_new(answer->part.payload, answer->part.length);
    g_autoptr(StasisGuestProcesses) list = stasis_process_reader_end_list(reader, last, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(list->n_processes, ==, 2);
    g_assert_cmpuint(list->processes[0].pid, ==, 3);
    g_assert_cmpint(list->processes[1].via, ==, -1);
    g_autoptr(StasisProcessReader) again = stasis_process_reader_new("VM t");
    put_process(answer, STASIS_AGENT_TAG_PROCESS, 7, -1);
    g_autoptr(GBytes) twice = g_bytes_new(answer->part.payload, answer->part.length);
    g_assert_null(stasis_process_reader_end_list(again, twice, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/engine/process/taken", test_taken);
    g_test_add_func("/engine/process/refused", test_refused);
    g_test_add_func("/engine/process/lies", test_lies);
    g_test_add_func("/engine/process/too-many", test_too_many);
    g_test_add_func("/engine/process/list", test_list);
    return g_test_run();
}
