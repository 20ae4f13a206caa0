/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The boundary of a checkpoint of processes: which ones belong together, why, and whether CRIU can
 * take them. Plain C; allocates up to a limit that the caller sets, prints nothing.
 *
 *     StasisBoundaryRequest request = { .pids = &pid, .n_pids = 1 };
 *     StasisBoundary boundary;
 *     stasis_boundary_find(&boundary, &request);
 *     if (boundary.verdict == STASIS_VERDICT_OK) … boundary.members …
 *     stasis_boundary_write_json(&boundary, write_to_channel, channel);
 *     stasis_boundary_clear(&boundary);
 *
 * One call at a time in a thread; the calling thread visits network and IPC namespaces and comes
 * back. Needs root (ptrace access to what is scanned, setns).
 */
#pragma once

#include "scan/scan.h"

typedef enum {
    STASIS_SHAPE_CLOSURE, /* all that belongs together, whatever trees it is in */
    STASIS_SHAPE_TREE,    /* the roots and their descendants: what can be cut is, and the set is
                             refused    if anything else leads out of it */
    STASIS_SHAPE_TALKED,  /* the closure over what was really said: where counts tell that nothing
                             was,  the edge is cut */
} StasisShape;

/* Zero means the default for every limit. */
typedef struct {
    const pid_t *pids; /* roots, in our PID namespace */
    size_t n_pids;
    const char *cgroup; /* and all processes in this control group or below: "/a/b" */
    const char *unit;   /* and all of this systemd unit: "postgresql.service" */
    StasisShape shape;
    /* What may be left out: an object ("pipe:[812]"), a witness as told (its object is
     * meant), or a relation's name (all its cuttable edges). */
    const char *const *cuts;
    size_t n_cuts;
    size_t max_processes;       /* in the set; default 1000 */
    size_t max_bytes;           /* of memory for a pass; default 64 MiB */
    unsigned max_ms;            /* for all passes; default 10,000 */
    unsigned max_passes;        /* until two in a row agree; default 10 */
    bool direct;                /* it is to be dumped without a fork of the VM */
    bool any_dumper;            /* refuse nothing just because CRIU can't dump it (tests) */
    bool ignore_self;           /* the calling process is a mere looker-on (a command in a shell) */
    pid_t agent;                /* may not be in the set; 0: the calling process */
    const char *without;        /* a relation that is not looked for (tests), or NULL */
    const StasisCounts *counts; /* what was said, or NULL: nobody counts */
    const char *uncounted;      /* why nobody does, for the refusal of TALKED */
} StasisBoundaryRequest;

extern const char *const stasis_shape_names[]; /* "closure", "tree", "talked", NULL */
/* The shape of that name; false: there is none. */
bool stasis_shape_find(const char *name, StasisShape *ret);

typedef enum {
    STASIS_VERDICT_OK,
    STASIS_VERDICT_REFUSED, /* the set can't be taken as asked for: see refusals */
    STASIS_VERDICT_FAILED,  /* no set: see error */
} StasisVerdict;

/* Three lines for the user. */
typedef struct {
    const char *what, *witness, *todo;
} StasisRefusal;

/* Where an edge lies. */
typedef enum {
    STASIS_EDGE_FAR,    /* touches no member */
    STASIS_EDGE_INSIDE, /* both ends are members (or it is of one alone) */
    STASIS_EDGE_CUT,    /* would have drawn its other end in, but for a cut */
    STASIS_EDGE_NEAR,   /* touches a member, and draws nothing in */
} StasisEdgePlace;

typedef struct StasisMounts StasisMounts;

/* All strings and arrays are the boundary's own; indexes are into scan.processes, scan.edges. */
typedef struct {
    StasisScan scan; /* the last pass: the whole graph */
    StasisVerdict verdict;
    const char *error;             /* one line, if verdict is FAILED */
    STASIS_ARRAY(int32_t) members; /* as found: roots first, each later one by `via` */
    size_t n_roots;
    bool *is_member;    /* of each process */
    bool *is_neighbour; /* … no member, but at an edge of one */
    int32_t *via;       /* of each process: the edge that drew it in, −1: a root or no member */
    bool *is_cut;       /* of each edge: named by a cut, cut by default or silent, and cuttable */
    StasisEdgePlace *place;               /* of each edge */
    STASIS_ARRAY(StasisRefusal) refusals; /* the weightiest first; at most 64 */
    size_t *cut_uses;     /* of each cut in the request: edges of members that it names */
    StasisMounts *mounts; /* private */
    unsigned n_passes;
    bool stable;                   /* the last two passes agreed */
    StasisBoundaryRequest request; /* with defaults filled in; its pointers are the caller's */
} StasisBoundary;

/* Fills in @ret, which need not be initialised and is to be cleared whatever the verdict. */
void stasis_boundary_find(StasisBoundary *ret, const StasisBoundaryRequest *request);
void stasis_boundary_clear(StasisBoundary *boundary);

/* Takes @len bytes of text; 0, or a negative number to stop. */
typedef int (*StasisWriter)(void *data, const char *text, size_t len);

/*
 * One JSON object (README.md has its members), in pieces of up to 4 KiB, valid UTF-8 whatever names
 * the guest's programs gave themselves. Edges that touch no member are left out. 0, or what
 * @writer returned.
 */
int stasis_boundary_write_json(const StasisBoundary *boundary, StasisWriter writer, void *data);
