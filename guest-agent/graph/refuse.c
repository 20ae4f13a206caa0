/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What stands against a set: each refusal says what, the witness, and what to do. A set is good
 * when nobody in it is beyond a checkpoint, no edge in it is opaque, and none leads out of it that
 * the user has not cut by name.
 */
#include "graph/internal.h"
#include "scan/internal.h"

#define MAX_REFUSALS 64

void stasis_boundary_refuse(StasisBoundary *b, const char *what, const char *witness,
                            const char *todo)
{
    b->verdict = STASIS_VERDICT_REFUSED;
    StasisRefusal *r = b->refusals.n < MAX_REFUSALS ? STASIS_PUSH(&b->scan, &b->refusals) : NULL;
    if (r != NULL)
        *r = (StasisRefusal){ what, witness, todo };
}

/* The edge nearest to a root that drew @process in and can be cut; NULL: none. */
static const StasisEdge *way_out(const StasisBoundary *b, int32_t process)
{
    const StasisEdge *found = NULL;
    while (b->via[process] >= 0) {
        const StasisEdge *e = &b->scan.edges.items[b->via[process]];
        if (e->class == STASIS_EDGE_CUTTABLE)
            found = e;
        process = e->a == process ? e->b : e->a;
    }
    return found;
}

static const char *cut_advice(StasisBoundary *b, const StasisEdge *e)
{
    return e == NULL ? "nothing on the way can be cut: checkpoint the whole VM"
                     : stasis_scan_text(&b->scan, "leave it out by name: --cut '%s' (%s)",
                                        e->object, e->witness);
}

/* Init of our namespace, and the agent itself. */
static void judge_members(StasisBoundary *b)
{
    for (size_t i = 0; i < b->members.n; i++) {
        int32_t m = b->members.items[i];
        const StasisProcess *p = &b->scan.processes.items[m];
        if (p->pid != 1 && p->pid != b->request.agent)
            continue;
        const char *who = p->pid == 1 ? "the system's first process" : "the agent itself";
        const char *witness =
            b->via[m] < 0 ? "it was asked for" : b->scan.edges.items[b->via[m]].witness;
        stasis_boundary_refuse(b,
                               stasis_scan_text(&b->scan, "pid %d (%s) can't be dumped: it is %s",
                                                p->pid, p->comm, who),
                               witness,
                               b->via[m] < 0 ? "ask for other processes, or checkpoint the whole VM"
                                             : cut_advice(b, way_out(b, m)));
    }
}

/* More members than wanted: the cuttable edge behind which most of them are. */
static void judge_size(StasisBoundary *b)
{
    if (b->members.n <= b->request.max_processes)
        return;
    size_t *behind = stasis_scan_alloc(&b->scan, b->scan.processes.n * sizeof *behind);
    int32_t best = -1;
    for (size_t i = b->members.n; behind != NULL && i-- > b->n_roots;) {
        int32_t m = b->members.items[i];
        const StasisEdge *e = &b->scan.edges.items[b->via[m]];
        behind[m]++;
        behind[e->a == m ? e->b : e->a] += behind[m];
        if (e->class == STASIS_EDGE_CUTTABLE && (best < 0 || behind[m] >= behind[best]))
            best = m;
    }
    const StasisEdge *e = best < 0 ? NULL : &b->scan.edges.items[b->via[best]];
    stasis_boundary_refuse(
        b,
        stasis_scan_text(&b->scan, "%zu processes belong together, %zu are allowed", b->members.n,
                         b->request.max_processes),
        e == NULL
            ? "all by edges that can't be cut"
            : stasis_scan_text(&b->scan, "%zu of them by way of %s", behind[best], e->witness),
        cut_advice(b, e));
}

void stasis_boundary_refuse_member(StasisBoundary *b, int32_t process, const char *reason,
                                   const char *witness)
{
    const StasisEdge *way = way_out(b, process);
    pid_t pid = b->scan.processes.items[process].pid;
    stasis_boundary_refuse(
        b, stasis_scan_text(&b->scan, "pid %d can't be dumped: %s", pid, reason), witness,
        way != NULL
            ? cut_advice(b, way)
            : stasis_scan_text(&b->scan, "have pid %d give it up first, or checkpoint the whole VM",
                               pid));
}

static void judge_opaque(StasisBoundary *b, const StasisEdge *e)
{
    bool a = b->is_member[e->a], other = e->both && e->b >= 0 && b->is_member[e->b];
    if (a || other)
        stasis_boundary_refuse_member(b, a ? e->a : e->b, e->reason, e->witness);
}

/* An edge that asks for somebody who is not there: across a tree's edge, or outside all processes.
 */
static void judge_leaving(StasisBoundary *b, size_t edge)
{
    const StasisEdge *e = &b->scan.edges.items[edge];
    int32_t inside = b->is_member[e->a] ? e->a : e->b;
    if (b->place[edge] != STASIS_EDGE_NEAR || !stasis_edge_draws(e, inside))
        return;
    int32_t out = inside == e->a ? e->b : e->a;
    const char *what =
        out < 0
            ? stasis_scan_text(&b->scan, "pid %d has an end outside: %s",
                               b->scan.processes.items[inside].pid, e->reason)
            : stasis_scan_text(&b->scan, "pid %d belongs to the set, but is not in this tree: %s",
                               b->scan.processes.items[out].pid, e->reason);
    stasis_boundary_refuse(
        b, what, e->witness,
        e->class == STASIS_EDGE_CUTTABLE
            ? stasis_scan_text(&b->scan, "leave it out by name: --cut '%s'", e->object)
            : "take it along: --boundary closure");
}

static void judge_cuts(StasisBoundary *b)
{
    for (size_t c = 0; c < b->request.n_cuts; c++)
        for (size_t i = 0; i < b->scan.edges.n; i++) {
            const StasisEdge *e = &b->scan.edges.items[i];
            const char *cut = b->request.cuts[c];
            if (b->place[i] == STASIS_EDGE_FAR || e->class != STASIS_EDGE_HARD ||
                (strcmp(cut, e->object) != 0 && strcmp(cut, e->witness) != 0))
                continue;
            stasis_boundary_refuse(
                b, stasis_scan_text(&b->scan, "'%s' can't be cut: %s", cut, e->reason), e->witness,
                "take both along, or checkpoint the whole VM");
            break;
        }
}

void stasis_boundary_judge(StasisBoundary *b)
{
    judge_members(b);
    judge_size(b);
    judge_cuts(b);
    for (size_t i = 0; i < b->scan.edges.n; i++)
        if (b->scan.edges.items[i].class == STASIS_EDGE_OPAQUE)
            judge_opaque(b, &b->scan.edges.items[i]);
    for (size_t i = 0; i < b->scan.edges.n; i++)
        judge_leaving(b, i);
}
