/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What one pass over /proc saw, and the relations between processes that scanners found in it.
 *
 * A pass belongs to one thread. All that it points to lives in its arena, until
 * stasis_scan_clear(). Failures are sticky: `failure` is set once, everything after it does
 * nothing, and the caller of stasis_scan_run() finds it there.
 *
 * Sources: proc(5), kcmp(2), sock_diag(7), pidfd_getfd(2), and the headers named in each scanner.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "scan/arena.h"
#include "scan/counts.h"

/* What may be done about a relation when one end stays outside. In rising order. */
typedef enum {
    STASIS_EDGE_INFO,     /* nothing is lost: told, not followed */
    STASIS_EDGE_CUTTABLE, /* comes along, unless left out by name */
    STASIS_EDGE_HARD,     /* comes along: a copy of one end alone would be silently wrong */
    STASIS_EDGE_OPAQUE,   /* no checkpoint is possible, whoever comes along */
} StasisEdgeClass;

/* In place of a process: an end that is none (a remote host, the kernel, nobody that is visible).
 */
#define STASIS_OUTSIDE (-1)

typedef struct StasisScanner StasisScanner;
typedef struct StasisScan StasisScan;

/*
 * "If a is in the set, then so must b be" (hard, cuttable), or "a can't be in the set" (opaque);
 * with `both`, the same holds the other way round. a == b: of one process alone. b ==
 * STASIS_OUTSIDE with a cuttable edge: the set is refused until the edge is cut by name.
 */
typedef struct {
    const StasisScanner *relation;
    int32_t a, b; /* indexes into processes */
    StasisEdgeClass class;
    bool both;
    bool cut_by_default; /* cuttable, and cut without being named: into the system's log, to
                            the agent */
    bool silent;         /* cuttable, counted, and nothing was said: talked 0 */
    bool counted;        /* … whether or not; else talked means nothing */
    uint64_t talked;     /* what a and b have sent to the object; 1 at least unless silent */
    const char *object;  /* identity of what is shared, the same for all its edges: "pipe:[812]" */
    const char *witness; /* "pid 812 fd 7 ↔ pid 540 fd 12, pipe:[812]" */
    const char *reason;  /* why it has this class */
} StasisEdge;

/* A scanner: one relation, one file. */
struct StasisScanner {
    const char *name;    /* of the relation, as in --cut and in JSON */
    const char *summary; /* one line */
    void (*scan)(const StasisScanner *self, StasisScan *scan);
    StasisCounted counted; /* what its objects are counted as, if they are */
};

/* All of them, in scanners.c; ends with NULL. */
extern const StasisScanner *const stasis_scanners[];
/* The one by which trees are made. */
extern const StasisScanner stasis_scan_parent;

enum {
    STASIS_NS_IPC,
    STASIS_NS_MNT,
    STASIS_NS_NET,
    STASIS_NS_PID,
    STASIS_NS_USER,
    STASIS_NS_UTS,
    STASIS_N_NS
};
extern const char *const stasis_ns_names[STASIS_N_NS];

/* Process IDs are those of the scanning program's PID namespace; 0 stands for what is outside. */
typedef struct {
    pid_t pid, ppid, pgrp, sid;
    pid_t live;         /* a thread that still runs: the first one, or another if that has ended */
    unsigned tty;       /* device of the controlling terminal, 0: none */
    char state;         /* as in /proc/PID/stat */
    bool dead;          /* a zombie: has parent, group and session, and nothing else */
    unsigned pid_depth; /* PID namespaces that it is in, from ours on: 1 */
    pid_t inner_pid;    /* its ID in the innermost of them */
    uint64_t start;     /* ticks since boot: with pid, an identity */
    uint64_t ns[STASIS_N_NS]; /* inodes; 0: could not be read */
    const char *comm;
    const char *cgroup; /* text of /proc/PID/cgroup */
    size_t first_task, n_tasks;
    size_t first_fd, n_fds; /* by rising number; what is in flight to it lies behind all of these */
} StasisProcess;

typedef struct {
    int32_t process;
    pid_t tid;
    pid_t tracer; /* thread ID, 0: none */
} StasisTask;

typedef enum {
    STASIS_FD_REGULAR,
    STASIS_FD_DIRECTORY,
    STASIS_FD_PIPE,
    STASIS_FD_FIFO,
    STASIS_FD_SOCKET,
    STASIS_FD_ANON, /* anon_inode:… */
    STASIS_FD_MEMFD,
    STASIS_FD_MQUEUE,
    STASIS_FD_PTY_MASTER,
    STASIS_FD_PTY_SLAVE,
    STASIS_FD_CHAR,
    STASIS_FD_BLOCK,
    STASIS_FD_OTHER,
} StasisFdKind;

typedef struct {
    int32_t process;
    int fd;
    int carrier;    /* ≥ 0: not open in the process, but in flight to its socket `carrier` */
    pid_t kcmp_pid; /* who to name to kcmp(2) and pidfd_getfd(2) */
    int kcmp_fd;    /* … and by which number */
    StasisFdKind kind;
    unsigned mode, nlink, flags; /* flags: of open(2), without O_CLOEXEC */
    uint64_t dev, ino, rdev;     /* dev 0: of pipes and sockets, whose inode says all */
    int mount;            /* ID of the mount that it is on (proc_pid_mountinfo(5)); 0: not told */
    uint32_t description; /* equal numbers: the same open file description; 0: not looked for */
    const char *link;     /* what /proc/PID/fd/N points to */
    const char *info;     /* /proc/PID/fdinfo/N behind its common lines; "" if nothing is there */
} StasisFd;

/* A shared mapping (MAP_SHARED), or one of an anonymous inode. */
typedef struct {
    int32_t process;
    bool write;
    uint64_t start, dev, ino;
    const char *name; /* "" if it has none */
    bool renamed;     /* the file does not have that name any more, but another */
} StasisMap;

/* A socket as sock_diag(7) tells it; addresses are IPv6 (IPv4 mapped into it). */
typedef struct {
    uint64_t ino; /* 0: not accepted yet */
    uint64_t netns;
    int family, protocol, type, state;
    uint64_t peer; /* UNIX: inode of the other end, 0: none */
    uint8_t src[16], dst[16];
    uint16_t sport, dport;
    const uint32_t *pending; /* UNIX, listening: inodes of clients that wait to be accepted */
    size_t n_pending;
    const char *name; /* UNIX: where it is bound, "" if not */
} StasisSocket;

#define STASIS_ARRAY(type) \
    struct {               \
        type *items;       \
        size_t n, cap;     \
    }

typedef struct {
    size_t max_bytes;           /* of the pass's arena */
    uint64_t deadline_ns;       /* CLOCK_MONOTONIC */
    bool ignore_self;           /* the scanning process itself is no part of what is looked at */
    const char *without;        /* name of a scanner that is left out (tests), or NULL */
    const StasisCounts *counts; /* what was said, or NULL: nobody counts */
    const pid_t *only;          /* look at these processes alone, or NULL: at all */
    size_t n_only;
} StasisScanLimits;

typedef enum {
    STASIS_SCAN_OK,
    STASIS_SCAN_NO_MEMORY,
    STASIS_SCAN_NO_TIME,
    STASIS_SCAN_BROKEN, /* /proc can't be read */
} StasisScanFailure;

struct StasisScan {
    StasisArena arena;
    StasisScanLimits limits;
    StasisScanFailure failure;
    STASIS_ARRAY(StasisProcess) processes; /* by rising pid */
    STASIS_ARRAY(StasisTask) tasks;        /* those of a process together */
    STASIS_ARRAY(StasisFd) fds;            /* those of a process together */
    STASIS_ARRAY(StasisMap) maps;
    STASIS_ARRAY(StasisSocket) sockets; /* by rising inode */
    STASIS_ARRAY(StasisEdge) edges;
    STASIS_ARRAY(StasisCountKey) in_flight; /* objects in which something waits; pid is 0 */
    STASIS_ARRAY(int) held;                 /* our own descriptors, closed by stasis_scan_clear() */
    uint64_t own_ns[STASIS_N_NS];           /* of the scanning process */
    char *text;                             /* of the last file read */
    size_t text_size;
};

/* Processes and what they have open, without any scanner. */
void stasis_scan_collect(StasisScan *scan, const StasisScanLimits *limits);

/* A connected UNIX socket (not of datagrams) that a process has, and whose other end is nobody's of
 * those that are looked at. */
typedef struct {
    uint64_t ino;
    bool log;      /* the other end is the system's log */
    bool agent;    /* … or the agent (lib/wire.h) */
    char comm[16]; /* of the process */
} StasisHalf;
/* Those of the processes @limits->only, at most @max of them. False when they can't be told. */
bool stasis_scan_halves(const StasisScanLimits *limits, StasisHalf *ret, size_t max, size_t *ret_n);
/* One pass: looks at everything, then runs every scanner. The outcome is in scan->failure. */
void stasis_scan_run(StasisScan *scan, const StasisScanLimits *limits);
void stasis_scan_clear(StasisScan *scan);

/* Index of the process with ID @pid, or of which @pid is a thread; -1: none. */
int32_t stasis_scan_find(const StasisScan *scan, pid_t pid);
int32_t stasis_scan_find_thread(const StasisScan *scan, pid_t tid);
