/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The processes of a guest, and which of them belong together, as the agent in it tells.
 *
 * As with all that the agent says (<stasis/agent.h>): the guest is untrusted, what it answers is
 * bounded and may be a lie. What is a lie in itself (an edge of a process that is not there, a
 * number out of its range) is STASIS_ERROR_CORRUPT. Texts here are one line of UTF-8 of bounded
 * length; control characters in them were replaced by '?'. Process IDs are those of the guest's
 * first PID namespace.
 */
#pragma once

#include <stasis/vm.h>

G_BEGIN_DECLS

typedef struct {
    guint pid, ppid; /* ppid 0: none that is visible */
    guint sid;       /* session, 0: one outside */
    guint64 start;   /* ticks since the guest's boot: with pid, an identity */
    char state;      /* a letter as in proc(5), /proc/PID/stat */
    guint n_threads;
    guint64 rss_bytes;
    const char *user;    /* the effective one: its name in the guest, or its number; may be "" */
    const char *unit;    /* of systemd ("cron.service"), "" if none */
    const char *cgroup;  /* path in cgroup v2, or in v1's of systemd; may be "" */
    const char *comm;    /* its short name */
    const char *command; /* its command line; "" if it has none */
    /* In a boundary: by which of its edges this one came in (index); -1: it was asked for, or is a
     * neighbour. The edge's other end is an earlier process of the list. */
    int via;
} StasisGuestProcess;

/* Made by the library; all it points to is its own. */
typedef struct {
    StasisGuestProcess *processes; /* by rising PID; kernel threads are left out */
    guint n_processes;
    gpointer memory; /* private */
} StasisGuestProcesses;

STASIS_API void stasis_guest_processes_free(StasisGuestProcesses *processes);

/* All processes of the guest. @timeout_ms 0: 20 s. */
STASIS_API StasisGuestProcesses *
stasis_vm_list_processes(StasisVm *vm, guint timeout_ms, GCancellable *cancellable, GError **error);

/* ---- who belongs together ---- */

typedef enum {
    STASIS_BOUNDARY_CLOSURE, /* all that belongs together, whatever trees it is in */
    STASIS_BOUNDARY_TREE,   /* what was asked for and its descendants; what leads out of that is cut
                               where it can be, else the set is refused */
    STASIS_BOUNDARY_TALKED, /* the closure, without those that share something but said nothing to
                               each other over it since the last checkpoint of them, or since
                               counting began. The guest counts from the first time on that this is
                               asked for; that first answer is the closure. */
} StasisBoundaryShape;

/* Whoever is asked for: pids, and all of unit, and all of cgroup; one of them at least. */
typedef struct {
    size_t struct_size;
    const guint *pids;
    gsize n_pids;       /* at most 256 */
    const char *unit;   /* systemd's: "postgresql.service"; or NULL */
    const char *cgroup; /* and those below: "/a/b"; or NULL */
    StasisBoundaryShape shape;
    /* NULL-terminated (or NULL), at most 256: what to leave out, by an object ("pipe:[812]"), a
     * witness as told (its object is meant), or a relation's name (all its cuttable edges). */
    const char *const *cuts;
    guint max_processes; /* refuse larger sets; 0: 1000, at most 10000 */
    guint timeout_ms;    /* 0: 30 s; the guest looks for at most 60 s */
} StasisBoundaryOptions;
#define STASIS_BOUNDARY_OPTIONS_INIT                 \
    {                                                \
        .struct_size = sizeof(StasisBoundaryOptions) \
    }

/* What may be done about a relation of which one end stays outside; in rising order. */
typedef enum {
    STASIS_GUEST_INFO,     /* nothing is lost: told, not followed */
    STASIS_GUEST_CUTTABLE, /* comes along, unless left out by name */
    STASIS_GUEST_HARD,     /* comes along: a copy of one end alone would be silently wrong */
    STASIS_GUEST_OPAQUE,   /* no checkpoint, whoever comes along */
} StasisGuestEdgeClass;

typedef enum {
    STASIS_GUEST_INSIDE, /* between members (or of one alone) */
    STASIS_GUEST_CUT,    /* would have drawn its other end in, but was cut: the dump must be told */
    STASIS_GUEST_NEAR,   /* touches a member, and draws nothing in */
} StasisGuestEdgePlace;

typedef struct {
    guint a, b;           /* pids; b 0: an end that is no process of the guest's */
    const char *relation; /* "pipe", "parent" … (stasis-boundary --relations lists them) */
    StasisGuestEdgeClass edge_class;
    StasisGuestEdgePlace place;
    gboolean both;           /* "if a is in the set, so is b" holds the other way round, too */
    gboolean cut_by_default; /* cuttable, and cut without being asked for: a way into the log, or to
                                the agent */
    gint64 talked; /* messages that a and b sent over it since, 1 at least if they talked; −1: not
                      counted */
    const char *object;  /* what is shared, the same for all its edges: "pipe:[812]" */
    const char *witness; /* "pid 812 fd 7 ↔ pid 540 fd 12, pipe:[812]" */
    const char *reason;  /* why it has this class */
} StasisGuestEdge;

typedef struct {
    const char *what, *witness, *todo;
} StasisGuestRefusal;

/* Made by the library; all it points to is its own. */
typedef struct {
    gboolean refused;             /* the set can't be taken as asked for; lists may be empty then */
    StasisGuestRefusal *refusals; /* the weightiest first; at least one if refused */
    guint n_refusals;
    /* Members: those asked for first, then in the order in which they came in. Behind them their
     * neighbours: no members, but at an edge of one. */
    StasisGuestProcess *processes;
    guint n_roots, n_members, n_processes;
    StasisGuestEdge *edges; /* each that touches a member; a and b are in processes */
    guint n_edges;
    guint *cut_uses; /* of each of the request's cuts: how many edges of members it names */
    guint n_cuts;
    guint n_passes;        /* looks, until two in a row agreed */
    gint64 counted_for_us; /* since when is counted; 0: it began with this; −1: nobody counts */
    gpointer memory;       /* private */
} StasisGuestBoundary;

STASIS_API void stasis_guest_boundary_free(StasisGuestBoundary *boundary);

/*
 * Who must come along when those asked for are checkpointed, and why. It changes nothing in the
 * guest, and is true of the moment: exact only for processes that are frozen. A set that is refused
 * is a result, too. Errors: STASIS_ERROR_USAGE for options that ask for nobody, or for too much;
 * STASIS_ERROR_FAILED with the agent's words when those asked for are not there.
 */
STASIS_API StasisGuestBoundary *stasis_vm_find_boundary(StasisVm *vm,
                                                        const StasisBoundaryOptions *options,
                                                        GCancellable *cancellable, GError **error);

/* TRUE when the set can be taken; else STASIS_ERROR_REFUSED with three lines: what, the witness,
 * what to do. */
STASIS_API gboolean stasis_guest_boundary_check(const StasisGuestBoundary *boundary,
                                                GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisGuestProcesses, stasis_guest_processes_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisGuestBoundary, stasis_guest_boundary_free)

G_END_DECLS
