/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What happens to some processes of the guest, for a host that takes their checkpoints at such
 * events: they fork, become another program, end; and objects of theirs by which processes speak
 * to each other come and go. One watch at a time.
 *
 * What is kept is states and counts, not a queue of events: of each process how often it forked
 * and became another program since the host was told, and whether it has ended. So a storm of
 * them takes no room, is told as one change, and cannot push out another process's end. A process
 * that began and ended between two answers is a number at its parent only.
 *
 * table.c keeps it and knows nothing of where it comes from; connector.c hears of processes from
 * the kernel; objects.c looks for objects, in a process of its own; watch.c, in the loop, has the
 * three together.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent.h"

typedef enum {
    WATCH_FORK,
    WATCH_EXEC,
    WATCH_EXIT,
    WATCH_MQUEUE,
    WATCH_SEM,
    WATCH_SHM,
    WATCH_N_KINDS,
} WatchKind;
#define WATCH_OBJECTS (1u << WATCH_MQUEUE | 1u << WATCH_SEM | 1u << WATCH_SHM)

extern const char *const watch_kind_names[WATCH_N_KINDS];

/* ---- stat.c: /proc/PID/stat ---- */

typedef struct {
    uint64_t start; /* ticks since boot */
    char state;
    unsigned n_threads;
    char comm[64];
} WatchStat;

/* False: there is no such process any more. */
bool watch_stat(pid_t pid, WatchStat *ret);
/* It has ended, though nobody may have asked for its status yet. */
bool watch_stat_is_over(const WatchStat *stat);

/* ---- table.c: who is watched, and what happened to him ---- */

#define WATCH_MAX_OBJECT_CHANGES 256u

typedef struct {
    pid_t pid, last_child;
    uint64_t start;
    uint32_t forks, execs;           /* since the last answer that came */
    uint32_t told_forks, told_execs; /* … of which so many are in the present one */
    bool ended, told_ended;
    bool known;         /* the host has been told of it, or named it */
    bool has, told_has; /* the host has its start, from itself or by an answer */
    bool ending;        /* it is on its way out: has to be looked at */
    char comm[64];
} WatchProcess;

/* A change of an object, as objects.c writes it into its pipe. */
typedef struct {
    uint8_t kind; /* WatchKind; N_KINDS: it knows what there was at first */
    uint8_t created;
    pid_t pid; /* who has it open, 0: not known */
    char name[112];
} WatchObject;

typedef struct {
    unsigned kinds; /* 1 << WatchKind of those that are told */
    WatchProcess processes[STASIS_AGENT_MAX_WATCHED];
    unsigned n;
    WatchObject objects[WATCH_MAX_OBJECT_CHANGES];
    unsigned n_objects, n_objects_told;
    uint32_t lost, told_lost;
} WatchTable;

void watch_table_clear(WatchTable *table, unsigned kinds);
/* NULL: it is not watched, or has ended. */
WatchProcess *watch_table_find(WatchTable *table, pid_t pid);
/* Watch it; @stat NULL: it has ended before it could be looked at. NULL: there is no room, which
 * is counted as lost. */
WatchProcess *watch_table_add(WatchTable *table, pid_t pid, uint64_t start, const WatchStat *stat,
                              bool known);
/* @parent, which is watched, has started @child; @stat NULL: that has ended already, but who it
 * started is still to be heard of: it stays, with start 0, until its end is. */
void watch_table_fork(WatchTable *table, WatchProcess *parent, pid_t child, const WatchStat *stat);
void watch_table_exec(WatchProcess *process, const WatchStat *stat);
/* @process may be another one then: the last takes the place of one that nobody needs to know of.
 */
void watch_table_end(WatchTable *table, WatchProcess *process);
void watch_table_object(WatchTable *table, const WatchObject *object);
/* Is there anything to tell? */
bool watch_table_has_changes(const WatchTable *table);
/* Put all that is to be told. Processes that live. */
void watch_table_put(WatchTable *table, Answer *answer);
/* The host has what was put last. */
void watch_table_confirm(WatchTable *table);
unsigned watch_table_count(const WatchTable *table);

/* ---- connector.c: proc connector (linux/cn_proc.h) ---- */

typedef enum { WATCH_HEARD_FORK, WATCH_HEARD_EXEC, WATCH_HEARD_EXIT } WatchHeard;

/* A descriptor, non-blocking; or -errno. */
int watch_connector_open(void);
void watch_connector_close(int fd);
/* Calls @heard for each event of a process that waits in @fd, at most @max; @pid the process,
 * @other a fork's child, or an exit's thread. True: none is left. *@lost is set when some were
 * lost; what comes until none is left may be lost as well, and is not told again (netlink(7),
 * ENOBUFS). */
bool watch_connector_read(int fd, unsigned max,
                          void (*heard)(void *data, WatchHeard what, pid_t pid, pid_t other),
                          void *data, bool *lost);

/* ---- objects.c ---- */

/* Who is watched, in memory that the process which looks for objects has, too. Numbers that are
 * not quite up to date do no harm. */
typedef struct {
    _Atomic unsigned n;
    _Atomic pid_t pids[STASIS_AGENT_MAX_WATCHED];
} WatchShared;

typedef struct {
    WatchShared *shared; /* NULL: there is no such process */
    pid_t pid;
    int fd;     /* the read end of its pipe, non-blocking: WatchObject */
    bool ready; /* what comes or goes from now on is told */
} WatchObjects;

/* Start it. 0, or an errno. */
int watch_objects_start(WatchObjects *objects, unsigned kinds);
void watch_objects_stop(WatchObjects *objects);

/* ---- watch.c: for op-watch.c ---- */

typedef struct {
    char token[65];
    uint64_t sequence;
    unsigned kinds;
    unsigned timeout_ms, lease_ms;
    const pid_t *pids;
    const uint64_t *starts;
    unsigned n_pids;
} WatchRequest;

/* Answered now or when there is something to tell. False, answered. */
bool watch_ask(uint64_t id, const WatchRequest *request, Answer *answer);
/* … if that is @token's. */
void watch_end(const char *token);

/* ---- for the loop ---- */

#define WATCH_MAX_FDS 2u
struct pollfd;
unsigned watch_poll_fds(struct pollfd *fds);
int watch_wait_ms(int otherwise, bool can_send);
void watch_work(bool (*send)(const Answer *, uint16_t, uint8_t), bool (*can_send)(void));
/* Nobody waits for an answer any more; the watch itself goes on. */
void watch_forget_request(void);
/* Nothing is watched any more. */
void watch_stop(void);
