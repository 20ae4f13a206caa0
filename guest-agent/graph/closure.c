/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The closure: from the roots on, breadth first, along every edge that asks for its other end,
 * until nothing is added. Breadth first, so that the edge by which a process came in (`via`) is one
 * of the shortest ways to it, which is what one wants to be told.
 *
 * A cut names an object, not an edge: edges of one object are a star, so leaving one of them out
 * would separate the wrong ones.
 */
#include "graph/internal.h"
#include "scan/internal.h"

/* ---- cuts ---- */

/* Marks the edges of the same object as @e. */
static void mark_object(StasisBoundary *b, const StasisEdge *e)
{
    for (size_t i = 0; i < b->scan.edges.n; i++) {
        const StasisEdge *other = &b->scan.edges.items[i];
        if (other->relation == e->relation && strcmp(other->object, e->object) == 0)
            b->is_cut[i] = true;
    }
}

static void mark_cut(StasisBoundary *b, const char *cut)
{
    for (size_t i = 0; i < b->scan.edges.n; i++) {
        const StasisEdge *e = &b->scan.edges.items[i];
        if (strcmp(cut, e->relation->name) == 0)
            b->is_cut[i] = b->is_cut[i] || e->class == STASIS_EDGE_CUTTABLE;
        else if (strcmp(cut, e->object) == 0 || strcmp(cut, e->witness) == 0)
            mark_object(b, e);
    }
}

/* ---- the search ---- */

bool stasis_edge_draws(const StasisEdge *e, int32_t from)
{
    bool strong = e->class == STASIS_EDGE_CUTTABLE || e->class == STASIS_EDGE_HARD;
    return strong && (e->a == from || (e->both && e->b == from));
}

/* Edges by process: those of process p are list[first[p]] … list[first[p + 1] − 1]. */
typedef struct {
    size_t *first;
    uint32_t *list;
} Adjacency;

static bool build(StasisBoundary *b, Adjacency *ret)
{
    StasisScan *scan = &b->scan;
    size_t n = scan->processes.n, m = scan->edges.n;
    ret->first = stasis_scan_alloc(scan, (n + 2) * sizeof *ret->first);
    ret->list = stasis_scan_alloc(scan, (2 * m + 1) * sizeof *ret->list);
    if (ret->first == NULL || ret->list == NULL)
        return false;
    /* Counted one place to the right, so that filling moves each to where it belongs. */
    for (size_t i = 0; i < m; i++) {
        const StasisEdge *e = &scan->edges.items[i];
        ret->first[e->a + 2 <= (int32_t)n ? e->a + 2 : (int32_t)n + 1]++;
        if (e->b >= 0 && e->b != e->a)
            ret->first[e->b + 2 <= (int32_t)n ? e->b + 2 : (int32_t)n + 1]++;
    }
    for (size_t i = 1; i < n + 2; i++)
        ret->first[i] += ret->first[i - 1];
    for (size_t i = 0; i < m; i++) {
        const StasisEdge *e = &scan->edges.items[i];
        ret->list[ret->first[e->a + 1]++] = (uint32_t)i;
        if (e->b >= 0 && e->b != e->a)
            ret->list[ret->first[e->b + 1]++] = (uint32_t)i;
    }
    return true;
}

static bool follows(const StasisBoundary *b, uint32_t edge, int32_t from)
{
    const StasisEdge *e = &b->scan.edges.items[edge];
    if (e->b < 0 || b->is_cut[edge] || !stasis_edge_draws(e, from))
        return false;
    return b->request.shape != STASIS_SHAPE_TREE || e->relation == &stasis_scan_parent;
}

static void search(StasisBoundary *b, const Adjacency *adjacency)
{
    for (size_t i = 0; i < b->members.n; i++) {
        int32_t p = b->members.items[i];
        for (size_t k = adjacency->first[p]; k < adjacency->first[p + 1]; k++) {
            uint32_t edge = adjacency->list[k];
            const StasisEdge *e = &b->scan.edges.items[edge];
            int32_t other = e->a == p ? e->b : e->a;
            if (!follows(b, edge, p) || b->is_member[other])
                continue;
            int32_t *member = STASIS_PUSH(&b->scan, &b->members);
            if (member == NULL)
                return;
            *member = other;
            b->is_member[other] = true;
            b->via[other] = (int32_t)edge;
        }
    }
}

static StasisEdgePlace place_of(const StasisBoundary *b, size_t edge)
{
    const StasisEdge *e = &b->scan.edges.items[edge];
    bool a = b->is_member[e->a], other = e->b >= 0 && b->is_member[e->b];
    if (!a && !other)
        return STASIS_EDGE_FAR;
    if (a && other)
        return STASIS_EDGE_INSIDE;
    /* Whoever asks for a tree wants it cut off. */
    bool cut = b->is_cut[edge] ||
               (b->request.shape == STASIS_SHAPE_TREE && e->class == STASIS_EDGE_CUTTABLE);
    if (cut && stasis_edge_draws(e, a ? e->a : e->b))
        return STASIS_EDGE_CUT;
    return STASIS_EDGE_NEAR;
}

void stasis_closure_find(StasisBoundary *b)
{
    StasisScan *scan = &b->scan;
    Adjacency adjacency;
    b->is_cut = stasis_scan_alloc(scan, scan->edges.n + 1);
    b->place = stasis_scan_alloc(scan, (scan->edges.n + 1) * sizeof *b->place);
    b->is_neighbour = stasis_scan_alloc(scan, scan->processes.n + 1);
    b->cut_uses = stasis_scan_alloc(scan, (b->request.n_cuts + 1) * sizeof *b->cut_uses);
    if (b->is_cut == NULL || b->place == NULL || b->cut_uses == NULL || b->is_neighbour == NULL ||
        !build(b, &adjacency))
        return;
    for (size_t i = 0; i < scan->edges.n; i++)
        b->is_cut[i] = scan->edges.items[i].cut_by_default ||
                       (b->request.shape == STASIS_SHAPE_TALKED && scan->edges.items[i].silent);
    for (size_t i = 0; i < b->request.n_cuts; i++)
        mark_cut(b, b->request.cuts[i]);
    /* What can't be cut is not: judged later. */
    for (size_t i = 0; i < scan->edges.n; i++)
        b->is_cut[i] = b->is_cut[i] && scan->edges.items[i].class == STASIS_EDGE_CUTTABLE;
    search(b, &adjacency);
    for (size_t i = 0; i < scan->edges.n; i++) {
        const StasisEdge *e = &scan->edges.items[i];
        b->place[i] = place_of(b, i);
        if (b->place[i] == STASIS_EDGE_FAR || e->b < 0)
            continue;
        b->is_neighbour[e->a] = !b->is_member[e->a];
        b->is_neighbour[e->b] = !b->is_member[e->b];
    }
    for (size_t c = 0; c < b->request.n_cuts; c++)
        for (size_t i = 0; i < scan->edges.n; i++) {
            const StasisEdge *e = &scan->edges.items[i];
            const char *cut = b->request.cuts[c];
            b->cut_uses[c] += b->place[i] != STASIS_EDGE_FAR &&
                              (strcmp(cut, e->relation->name) == 0 || strcmp(cut, e->object) == 0 ||
                               strcmp(cut, e->witness) == 0);
        }
}
