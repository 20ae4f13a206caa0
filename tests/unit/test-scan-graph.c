/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a closure follows edges the way they point, a set is refused for what is in it and for
 * what it would leave behind, and a boundary is JSON whatever processes call themselves. */
#include <json-glib/json-glib.h>
#include <string.h>

#include "graph/internal.h"
#include "scan/internal.h"

static const StasisScanner channel = { "channel", "a relation of the test's", NULL };

/* Processes 100, 101, …; the first is the root. */
static void make(StasisBoundary *b, int n_processes, const StasisBoundaryRequest *request)
{
    memset(b, 0, sizeof *b);
    b->request = *request;
    b->request.max_processes = request->max_processes ? request->max_processes : 100;
    b->scan.arena.limit_bytes = 1 << 20;
    for (int i = 0; i < n_processes; i++)
        *STASIS_PUSH(&b->scan, &b->scan.processes) =
            (StasisProcess){ .pid = 100 + i, .state = 'S', .comm = "p", .cgroup = "", .start = 1 };
    b->is_member = stasis_scan_alloc(&b->scan, n_processes);
    b->via = stasis_scan_alloc(&b->scan, n_processes * sizeof *b->via);
    for (int i = 0; i < n_processes; i++)
        b->via[i] = -1;
    *STASIS_PUSH(&b->scan, &b->members) = 0;
    b->is_member[0] = true;
    b->n_roots = 1;
}

static void link_to(StasisBoundary *b, int from, int to, StasisEdgeClass class, gboolean both,
                    const char *object)
{
    StasisEdge e = { .relation = &channel,
                     .a = from,
                     .b = to,
                     .class = class,
                     .both = both,
                     .object = object,
                     .reason = "because" };
    e.witness = stasis_scan_text(&b->scan, "%d-%d %s", from, to, object);
    stasis_edge_add(&b->scan, &e);
}

static void solve(StasisBoundary *b)
{
    stasis_closure_find(b);
    stasis_boundary_judge(b);
    g_assert_cmpint(b->scan.failure, ==, STASIS_SCAN_OK);
}

static void assert_members(const StasisBoundary *b, const char *expected)
{
    g_autoptr(GString) found = g_string_new(NULL);
    for (size_t i = 0; i < b->scan.processes.n; i++)
        if (b->is_member[i])
            g_string_append_printf(found, "%s%zu", found->len > 0 ? " " : "", i);
    g_assert_cmpstr(found->str, ==, expected);
}

static void test_directions(void)
{
    StasisBoundary b;
    make(&b, 6, &(StasisBoundaryRequest){ 0 });
    link_to(&b, 0, 1, STASIS_EDGE_HARD, FALSE, "x");
    link_to(&b, 2, 1, STASIS_EDGE_HARD, FALSE, "y");
    link_to(&b, 3, 1, STASIS_EDGE_CUTTABLE, TRUE, "z");
    link_to(&b, 3, 4, STASIS_EDGE_INFO, TRUE, "told");
    link_to(&b, 3, 5, STASIS_EDGE_CUTTABLE, FALSE, "w");
    solve(&b);
    assert_members(&b, "0 1 3 5");
    g_assert_cmpint(b.verdict, ==, STASIS_VERDICT_OK);
    g_assert_cmpint(b.via[3], ==, 2);
    g_assert_cmpint(b.place[1], ==, STASIS_EDGE_NEAR);
    stasis_boundary_clear(&b);
}

static void test_breadth_first(void)
{
    StasisBoundary b;
    make(&b, 4, &(StasisBoundaryRequest){ 0 });
    link_to(&b, 0, 1, STASIS_EDGE_HARD, TRUE, "long");
    link_to(&b, 1, 2, STASIS_EDGE_HARD, TRUE, "way");
    link_to(&b, 2, 3, STASIS_EDGE_HARD, TRUE, "round");
    link_to(&b, 3, 0, STASIS_EDGE_HARD, TRUE, "short");
    solve(&b);
    assert_members(&b, "0 1 2 3");
    g_assert_cmpint(b.via[3], ==, 3);
    stasis_boundary_clear(&b);
}

static void test_opaque(void)
{
    StasisBoundary b;
    make(&b, 3, &(StasisBoundaryRequest){ 0 });
    link_to(&b, 1, 0, STASIS_EDGE_OPAQUE, FALSE, "a pidfd of the root, held by a stranger");
    solve(&b);
    assert_members(&b, "0");
    g_assert_cmpint(b.verdict, ==, STASIS_VERDICT_OK);
    stasis_boundary_clear(&b);

    make(&b, 3, &(StasisBoundaryRequest){ 0 });
    link_to(&b, 0, 1, STASIS_EDGE_CUTTABLE, TRUE, "pipe");
    link_to(&b, 1, 1, STASIS_EDGE_OPAQUE, FALSE, "ring");
    solve(&b);
    assert_members(&b, "0 1");
    g_assert_cmpint(b.verdict, ==, STASIS_VERDICT_REFUSED);
    g_assert_cmpstr(b.refusals.items[0].witness, ==, "1-1 ring");
    g_assert_nonnull(strstr(b.refusals.items[0].todo, "--cut 'pipe'"));
    stasis_boundary_clear(&b);
}

static void test_outside(void)
{
    const char *cut = "remote";
    for (int with_cut = 0; with_cut < 2; with_cut++) {
        StasisBoundary b;
        make(&b, 1, &(StasisBoundaryRequest){ .cuts = &cut, .n_cuts = with_cut });
        link_to(&b, 0, STASIS_OUTSIDE, STASIS_EDGE_CUTTABLE, FALSE, "remote");
        solve(&b);
        g_assert_cmpint(b.verdict, ==, with_cut ? STASIS_VERDICT_OK : STASIS_VERDICT_REFUSED);
        g_assert_cmpint(b.place[0], ==, with_cut ? STASIS_EDGE_CUT : STASIS_EDGE_NEAR);
        stasis_boundary_clear(&b);
    }
}

/* A cut means the object, and never what is hard. */
static void test_cuts(void)
{
    const char *cut = "0-1 star";
    StasisBoundary b;
    make(&b, 4, &(StasisBoundaryRequest){ .cuts = &cut, .n_cuts = 1 });
    link_to(&b, 0, 1, STASIS_EDGE_CUTTABLE, TRUE, "star");
    link_to(&b, 0, 2, STASIS_EDGE_CUTTABLE, TRUE, "star");
    link_to(&b, 0, 3, STASIS_EDGE_CUTTABLE, TRUE, "other");
    solve(&b);
    assert_members(&b, "0 3");
    g_assert_cmpuint(b.cut_uses[0], ==, 1);
    stasis_boundary_clear(&b);

    cut = "memory";
    make(&b, 2, &(StasisBoundaryRequest){ .cuts = &cut, .n_cuts = 1 });
    link_to(&b, 0, 1, STASIS_EDGE_HARD, TRUE, "memory");
    solve(&b);
    assert_members(&b, "0 1");
    g_assert_cmpint(b.verdict, ==, STASIS_VERDICT_REFUSED);
    stasis_boundary_clear(&b);
}

/* A way into the log is cut unasked; who asks for both ends has it inside. */
static void test_cut_by_default(void)
{
    for (int with_both = 0; with_both < 2; with_both++) {
        StasisBoundary b;
        make(&b, 3, &(StasisBoundaryRequest){ 0 });
        link_to(&b, 0, 1, STASIS_EDGE_CUTTABLE, TRUE, "log");
        link_to(&b, 0, STASIS_OUTSIDE, STASIS_EDGE_CUTTABLE, FALSE, "gone log");
        b.scan.edges.items[0].cut_by_default = b.scan.edges.items[1].cut_by_default = true;
        link_to(&b, 1, 2, STASIS_EDGE_HARD, TRUE, "all the rest");
        if (with_both) {
            *STASIS_PUSH(&b.scan, &b.members) = 1;
            b.is_member[1] = true;
            b.n_roots = 2;
        }
        solve(&b);
        assert_members(&b, with_both ? "0 1 2" : "0");
        g_assert_cmpint(b.verdict, ==, STASIS_VERDICT_OK);
        g_assert_cmpint(b.place[0], ==, with_both ? STASIS_EDGE_INSIDE : STASIS_EDGE_CUT);
        g_assert_cmpint(b.place[1], ==, STASIS_EDGE_CUT);
        stasis_boundary_clear(&b);
    }
}

/* The agent whose worker looks is never taken along. */
/* Silent edges are cut in one shape only, and never hard ones; a tree cuts all that can be. */
static void test_shapes(void)
{
    static const struct {
        StasisShape shape;
        const char *members;
        StasisEdgePlace silent, outside;
        StasisVerdict verdict;
    } cases[] = {
        { STASIS_SHAPE_CLOSURE, "0 1 2 3", STASIS_EDGE_INSIDE, STASIS_EDGE_NEAR,
          STASIS_VERDICT_REFUSED },
        { STASIS_SHAPE_TALKED, "0 2 3", STASIS_EDGE_CUT, STASIS_EDGE_NEAR, STASIS_VERDICT_REFUSED },
        { STASIS_SHAPE_TREE, "0", STASIS_EDGE_CUT, STASIS_EDGE_CUT, STASIS_VERDICT_REFUSED },
    };
    static const StasisCounts counts = { 0 };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        StasisBoundary b;
        make(&b, 4, &(StasisBoundaryRequest){ .shape = cases[i].shape, .counts = &counts });
        link_to(&b, 0, 1, STASIS_EDGE_CUTTABLE, TRUE, "log");
        link_to(&b, 0, 2, STASIS_EDGE_CUTTABLE, TRUE, "channel");
        link_to(&b, 0, 3, STASIS_EDGE_HARD, TRUE, "memory");
        link_to(&b, 0, STASIS_OUTSIDE, STASIS_EDGE_CUTTABLE, FALSE, "remote");
        for (int k = 0; k < 3; k++)
            b.scan.edges.items[k].counted = true;
        b.scan.edges.items[0].silent = b.scan.edges.items[2].silent = true;
        b.scan.edges.items[1].talked = 3;
        solve(&b);
        assert_members(&b, cases[i].members);
        g_assert_cmpint(b.place[0], ==, cases[i].silent);
        g_assert_cmpint(b.place[3], ==, cases[i].outside);
        g_assert_cmpint(b.verdict, ==, cases[i].verdict);
        if (cases[i].shape == STASIS_SHAPE_TREE) { /* memory alone stands against it */
            g_assert_cmpuint(b.refusals.n, ==, 1);
            g_assert_cmpstr(b.refusals.items[0].witness, ==, "0-3 memory");
        }
        stasis_boundary_clear(&b);
    }
    /* Nobody counts: refused, in three lines, and never another answer in its place. */
    StasisBoundary b;
    stasis_boundary_find(&b, &(StasisBoundaryRequest){ .shape = STASIS_SHAPE_TALKED,
                                                       .uncounted = "bpf(2): not permitted" });
    g_assert_cmpint(b.verdict, ==, STASIS_VERDICT_REFUSED);
    g_assert_cmpuint(b.members.n, ==, 0);
    g_assert_cmpstr(b.refusals.items[0].witness, ==, "bpf(2): not permitted");
    stasis_boundary_clear(&b);
}

static void test_agent(void)
{
    StasisBoundary b;
    make(&b, 2, &(StasisBoundaryRequest){ .agent = 101 });
    link_to(&b, 0, 1, STASIS_EDGE_CUTTABLE, TRUE, "pipe");
    solve(&b);
    g_assert_cmpint(b.verdict, ==, STASIS_VERDICT_REFUSED);
    g_assert_nonnull(
        strstr(b.refusals.items[0].what, "pid 101 (p) can't be dumped: it is the agent"));
    g_assert_nonnull(strstr(b.refusals.items[0].todo, "--cut 'pipe'"));
    stasis_boundary_clear(&b);
}

/* The edge to cut that is named for a set too large is the one that brought most of it. */
static void test_size(void)
{
    StasisBoundary b;
    make(&b, 8, &(StasisBoundaryRequest){ .max_processes = 4 });
    link_to(&b, 0, 1, STASIS_EDGE_CUTTABLE, TRUE, "few");
    link_to(&b, 0, 2, STASIS_EDGE_CUTTABLE, TRUE, "many");
    for (int i = 3; i < 8; i++)
        link_to(&b, 2, i, STASIS_EDGE_HARD, TRUE, "children");
    solve(&b);
    g_assert_cmpint(b.verdict, ==, STASIS_VERDICT_REFUSED);
    g_assert_nonnull(strstr(b.refusals.items[0].witness, "0-2 many"));
    g_assert_nonnull(strstr(b.refusals.items[0].todo, "--cut 'many'"));
    stasis_boundary_clear(&b);
}

/* ---- JSON ---- */

typedef struct {
    GString *text;
    size_t most;
    int pieces, stop_after;
} Sink;

static int take(void *data, const char *text, size_t len)
{
    Sink *sink = data;
    sink->most = MAX(sink->most, len);
    g_string_append_len(sink->text, text, len);
    return ++sink->pieces == sink->stop_after ? -7 : 0;
}

static void test_json(void)
{
    static const char *const names[] = {
        "plain",        "\"quoted\\\"",     "new\nline\ttab\x01",
        "\xff\xfe",     "f\xc3\xbcnf",      "\xc3",
        "\xe2\x86\x94", "\xed\xa0\x80",     "\xf4\x90\x80\x80",
        "\xc0\xaf",     "\xf0\x9f\x98\x80",
    };
    StasisBoundary b;
    make(&b, 200, &(StasisBoundaryRequest){ 0 });
    for (int i = 0; i < 200; i++)
        b.scan.processes.items[i].comm = names[i % G_N_ELEMENTS(names)];
    for (int i = 1; i < 200; i++)
        link_to(&b, i - 1, i, STASIS_EDGE_HARD, TRUE, names[i % G_N_ELEMENTS(names)]);
    solve(&b);

    Sink sink = { .text = g_string_new(NULL) };
    g_assert_cmpint(stasis_boundary_write_json(&b, take, &sink), ==, 0);
    g_assert_cmpuint(sink.most, <=, 4096);
    g_assert_cmpint(sink.pieces, >, 4);
    g_assert_true(g_utf8_validate(sink.text->str, (gssize)sink.text->len, NULL));
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) error = NULL;
    g_assert_true(json_parser_load_from_data(parser, sink.text->str, -1, &error));
    JsonObject *o = json_node_get_object(json_parser_get_root(parser));
    g_assert_cmpuint(json_array_get_length(json_object_get_array_member(o, "members")), ==, 200);
    g_assert_cmpuint(json_array_get_length(json_object_get_array_member(o, "edges")), ==, 199);
    JsonArray *members = json_object_get_array_member(o, "members");
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        const char *comm =
            json_object_get_string_member(json_array_get_object_element(members, i), "comm");
        if (g_utf8_validate(names[i], -1, NULL))
            g_assert_cmpstr(comm, ==, names[i]);
        else
            g_assert_nonnull(strstr(comm, "\xef\xbf\xbd"));
    }

    Sink broken = { .text = sink.text, .stop_after = 2 };
    g_assert_cmpint(stasis_boundary_write_json(&b, take, &broken), ==, -7);
    g_assert_cmpint(broken.pieces, ==, 2);
    g_string_free(sink.text, TRUE);
    stasis_boundary_clear(&b);
}

/* ---- memory ---- */

static void test_arena(void)
{
    StasisArena arena = { .limit_bytes = 1 << 20 };
    size_t got = 0;
    for (size_t size = 1; size < 100000; size = size * 3 / 2 + 1) {
        char *p = stasis_arena_alloc(&arena, size);
        if (p == NULL)
            break;
        for (size_t i = 0; i < size; i++)
            g_assert_cmpint(p[i], ==, 0);
        memset(p, 0xee, size);
        got += size;
    }
    g_assert_cmpuint(got, >, 0);
    g_assert_null(stasis_arena_alloc(&arena, 1 << 20));
    g_assert_null(stasis_arena_alloc(&arena, SIZE_MAX - 8));
    g_assert_cmpuint(arena.used_bytes, <=, arena.limit_bytes);
    stasis_arena_clear(&arena);
    g_assert_cmpuint(arena.used_bytes, ==, 0);

    /* A pass that has failed goes on without harm. */
    StasisScan scan = { .arena.limit_bytes = 70000 };
    while (STASIS_PUSH(&scan, &scan.edges) != NULL)
        ;
    g_assert_cmpint(scan.failure, ==, STASIS_SCAN_NO_MEMORY);
    g_assert_cmpstr(stasis_scan_text(&scan, "%d", 5), ==, "");
    stasis_scan_clear(&scan);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/scan/graph/directions", test_directions);
    g_test_add_func("/scan/graph/breadth-first", test_breadth_first);
    g_test_add_func("/scan/graph/opaque", test_opaque);
    g_test_add_func("/scan/graph/outside", test_outside);
    g_test_add_func("/scan/graph/cuts", test_cuts);
    g_test_add_func("/scan/graph/cut-by-default", test_cut_by_default);
    g_test_add_func("/scan/graph/shapes", test_shapes);
    g_test_add_func("/scan/graph/agent", test_agent);
    g_test_add_func("/scan/graph/size", test_size);
    g_test_add_func("/scan/graph/json", test_json);
    g_test_add_func("/scan/arena", test_arena);
    return g_test_run();
}
