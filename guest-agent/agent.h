/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent's inside. One process, one loop (loop.c), nothing allocated: what it holds is in
 * arrays of fixed size. An operation either is quick and is done in the loop, or is a worker: a
 * fork of the agent, in which the same plain code may block, and whose answers the loop passes on.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/field.h"
#include "agent/frame.h"
#include "agent/halves.h"
#include "queues.h"
#include "talk/talk.h"

#ifndef AGENT_VERSION
#define AGENT_VERSION "unknown"
#endif

/* Largest piece of output in one answer. */
#define AGENT_PART_BYTES (32u << 10)

typedef struct {
    uint64_t id;
    const uint8_t *fields;
    uint32_t length;
} Request;

/* An answer in the making. send() takes it to the host, or to the loop. */
typedef struct Answer Answer;
struct Answer {
    uint64_t id;
    StasisFieldWriter fields;
    bool (*send)(const Answer *answer, uint16_t status, uint8_t flags);
    bool ended;
    uint8_t payload[STASIS_AGENT_MAX_PAYLOAD];
};

/* Send what has been put so far, and begin the next part. False when nobody wants it any more. */
bool answer_part(Answer *answer);
void answer_end(Answer *answer);
/* Put a record, into the next part if this one is full. False when nobody wants it any more. */
bool answer_record(Answer *answer, uint16_t tag, const StasisFieldWriter *record);
/* Fields put so far are dropped. @error_number 0: none. */
void answer_error(Answer *answer, StasisAgentStatus status, int error_number, const char *format,
                  ...) __attribute__((format(printf, 4, 5)));

typedef enum {
    OP_WORKER = 1 << 0, /* run() in a fork */
    OP_KEEP = 1 << 1,   /* the worker goes on when the host has gone, or cancels */
} OpFlags;

/* One operation: a row of agent_ops[] (ops.c). */
typedef struct {
    uint16_t code;
    const char *name;
    OpFlags flags;
    unsigned limit_ms; /* of a worker: it is ended then */
    /* In the loop, before the worker is made; false when that gave the last answer. Or NULL. */
    bool (*before)(const Request *request, Answer *answer);
    void (*run)(const Request *request, Answer *answer);
} AgentOp;

/* Ends with a NULL name. */
extern const AgentOp agent_ops[];
const AgentOp *agent_find_op(uint16_t code);

/* ---- what is asked; answer.c ---- */

/* Copy a text into @buffer; false when it is not there or longer than that. */
bool request_text(const Request *request, uint16_t tag, char *buffer, size_t size);
/* The request's time limit, at most @limit_ms. */
unsigned request_timeout(const Request *request, unsigned limit_ms);
uint64_t request_number(const Request *request, uint16_t tag, uint64_t otherwise);

/* ---- util.c ---- */

int64_t now_ms(void); /* CLOCK_MONOTONIC */
uint64_t clock_ns(clockid_t clock);
/* The first line of a file, without its end; "" when there is none. */
void read_line(const char *path, char *buffer, size_t size);
bool write_all(int fd, const void *bytes, size_t n);
/* In a child that is to be another program: to the kernel that is out of memory it is no longer the
 * agent, which must be the last to go. */
void be_ordinary(void);
/* To standard error, one line. Not while file systems are frozen: who reads it may wait for one. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- process.c ---- */

typedef struct {
    pid_t pid, ppid, sid;
    char state;
    unsigned n_threads;
    uint64_t start; /* ticks since boot */
    uint64_t rss_bytes;
    char comm[64], user[33], unit[256], cgroup[1024], command[4096];
} Process;
/* Room for a record of one. */
#define PROCESS_RECORD_BYTES 8192u

/* Read one of @proc (a descriptor of /proc); false when it is gone, or a kernel thread. */
bool process_read(int proc, pid_t pid, Process *ret);
void process_put(StasisFieldWriter *record, const Process *process);
/* Call @each for the children of all threads of @pid. */
void process_each_child(pid_t pid, void (*each)(void *data, pid_t child), void *data);

/* ---- cgroup.c ---- */

/* Where cgroup2 is mounted. */
bool cgroup_find_root(char *path, size_t size);
/* Wait until the cgroup of that cgroup.events has frozen; false at @end_ms. */
bool cgroup_wait_frozen(int events_fd, int64_t end_ms);

/* ---- port.c ---- */

/* A descriptor of the port, non-blocking, SIGIO on; -1 when there is no such port yet. @path or
 * NULL: find it. */
int port_open(const char *path);
/* What a host says first of all, where none can speak: bytes out of the kernel's command line
 * ("stasis.says=", hexadecimal). Returns how many. */
size_t port_first_words(uint8_t *buffer, size_t size);

/* ---- worker.c ---- */

void worker_init(void);
/* Fork one for @op; false, answered, when there are too many. */
void worker_start(const AgentOp *op, const Request *request, Answer *answer);
/* End those that the host has lost interest in: all, or the one of @id, but OP_KEEP, which go on;
 * their answers are dropped, or with @answer the last one is sent. */
void worker_forget_all(void);
bool worker_cancel(uint64_t id, Answer *answer);
/* Does one of @op run, whether its host is there or not? One that has given its last answer only
 * tidies up, and is ended. */
bool worker_is_busy_with(uint16_t op);
/* In the loop: kill a child of ours. It is waited for only as long as it takes one that can die: in
 * the kernel it may hang for ever. */
void worker_let_die(pid_t pid);
/* For the loop's poll(2): fills @fds (STASIS_AGENT_MAX_REQUESTS of them), returns the number. */
struct pollfd;
unsigned worker_poll_fds(struct pollfd *fds);
/* Milliseconds until a worker is due to be ended, or @otherwise if that is sooner. */
int worker_wait_ms(int otherwise);
/* Take what workers have said; the answers are sent by @send while it has room. Ends those that are
 * late. */
void worker_work(bool (*send)(const Answer *, uint16_t, uint8_t), bool (*has_room)(void));

/* ---- loop.c ---- */

typedef struct {
    const char *port;     /* path, or NULL: found by its name */
    int fd;               /* instead of a port, or -1 */
    const char *programs; /* path of the socket for programs of the guest, or NULL: there is none */
    bool realtime;
} LoopOptions;
int loop_run(const LoopOptions *options);

/* ---- operations; op-*.c ---- */

void op_ping(const Request *request, Answer *answer);
void op_info(const Request *request, Answer *answer);
bool op_instant_before(const Request *request, Answer *answer);
void op_instant(const Request *request, Answer *answer);
void op_sync_time(const Request *request, Answer *answer);
bool op_fs_freeze_before(const Request *request, Answer *answer);
void op_fs_freeze(const Request *request, Answer *answer);
bool op_fs_thaw_before(const Request *request, Answer *answer);
void op_fs_thaw(const Request *request, Answer *answer);
bool op_device_suspend_before(const Request *request, Answer *answer);
void op_device_suspend(const Request *request, Answer *answer);
bool op_device_resume_before(const Request *request, Answer *answer);
void op_device_resume(const Request *request, Answer *answer);
void op_exec(const Request *request, Answer *answer);
void op_job_start(const Request *request, Answer *answer);
void op_job_wait(const Request *request, Answer *answer);
void op_job_end(const Request *request, Answer *answer);
void op_wish_wait(const Request *request, Answer *answer);
void op_wish_begin(const Request *request, Answer *answer);
void op_wish_end(const Request *request, Answer *answer);
void op_watch(const Request *request, Answer *answer);
void op_watch_end(const Request *request, Answer *answer);
void op_file_read(const Request *request, Answer *answer);
void op_file_write(const Request *request, Answer *answer);
void op_file_list(const Request *request, Answer *answer);
void op_shutdown(const Request *request, Answer *answer);
void op_processes(const Request *request, Answer *answer);
bool op_boundary_before(const Request *request, Answer *answer);
void op_boundary(const Request *request, Answer *answer);
bool op_talk_before(const Request *request, Answer *answer);
void op_talk(const Request *request, Answer *answer);
void op_proc_check(const Request *request, Answer *answer);
bool op_proc_freeze_before(const Request *request, Answer *answer);
void op_proc_freeze(const Request *request, Answer *answer);
void op_proc_dump(const Request *request, Answer *answer);
void op_proc_dump_direct(const Request *request, Answer *answer);
void op_proc_put(const Request *request, Answer *answer);
/* Of an image that is not to be restored any more nothing stays. */
void proc_restore_forget(void);
bool op_proc_restore_before(const Request *request, Answer *answer);
void op_proc_restore(const Request *request, Answer *answer);

/* What other operations need of them. */
bool instant_describe(Answer *answer);
void machine_id(char buffer[33]);
/* Thaw now, if we froze; don't wait for it. */
void fs_thaw_now(void);
/* Resume devices now, if we suspended some; don't wait for it. */
void device_resume_now(void);
/* In the loop: the same, to be waited for in a worker. False: there is nothing. */
bool device_resume_tell(void);
/* False, with @text, when not all came back. */
bool device_resume_wait(unsigned *ret_n, char *text, size_t size);
/* Put the clock right; fields OFFSET and STEPPED. 0 or the error. */
int clock_set_by_host(uint64_t host_ns, StasisFieldWriter *fields);

/* ---- op-talk.c ---- */

/* What is counted; begun by op-boundary.c. */
extern StasisTalk agent_talk;

/* ---- op-proc-freeze.c ---- */

/* The cgroup that PROC_FREEZE freezes. */
bool frozen_group(char *path, size_t size);

/* ---- halves.c ---- */

#define MAX_HALVES STASIS_HALVES_MAX

/* UNIX connections of which one end alone is in an image. */
typedef struct {
    unsigned n;
    char options[MAX_HALVES][40]; /* CRIU's --external when dumping, --inherit-fd when restoring */
    int fds[MAX_HALVES + 1]; /* when restoring: what is there in their place; −1 behind them */
} Halves;

/* Those of the processes @pids, which are written to the file @path if there are any. False,
 * answered, when they can't be told, or are too many. */
bool halves_find(const pid_t *pids, unsigned n_pids, const char *path, Halves *ret, Answer *answer);
/* What is to be in the place of those in @path: a connection to the log, or one that has hung up.
 * False, answered. */
bool halves_make(const char *path, Halves *ret, Answer *answer);
void halves_close(Halves *halves);
/* Put @option and each of their texts behind the @n words of @argv, which has room for them. */
unsigned halves_append(const Halves *halves, const char *option, char **argv, unsigned n);

/* ---- op-proc-dump.c ---- */

#define DUMP_LIMIT_MS 600000

/* A tree of processes as CRIU is told of it. */
typedef struct {
    pid_t root;
    const char *group;           /* the frozen control group that it is in, in a fork; or NULL */
    const char *programs;        /* as of criu_run() */
    const MqueueOptions *queues; /* what CRIU is told of POSIX message queues, or NULL */
    const Halves *halves;        /* … of connections with one end in it, or NULL */
    bool session;                /* the root is the first process of a PID namespace below ours */
    bool shell_job;              /* the session of the root has its leader elsewhere */
} DumpTree;

/* A new directory where most room is, or in memory if @enough bytes of room are there. */
bool dump_make_dir(char *dir, size_t size, uint64_t enough);
/* Fill in what /proc tells of @tree's root; false when there is no such process. */
bool dump_look_at_root(DumpTree *tree, int proc);
/* Put a process of the image, as a part of its own. */
bool dump_put_process(const Process *process, Answer *answer);
/* `criu dump` of it into @dir, with what it gets wrong mended: its exit status, as of criu_run().
 */
int dump_run_criu(const DumpTree *tree, const char *dir, int64_t end_ms);

/* ---- dump-send.c ---- */

/* Send the files in @dir, @limit bytes at most, and what the last part says of them and of @tree;
 * false, answered, when that went wrong. @in_memory: the host can read this guest's memory; it is
 * told where they lie in that, and they stay. */
bool dump_send_files(const DumpTree *tree, uint64_t limit, const char *dir, bool in_memory,
                     Answer *answer);

/* ---- piece.c ---- */

/* Send a part that tells where the piece at @at of @fd, a file with @left bytes from there on, lies
 * in memory. */
bool piece_send(int fd, uint64_t at, uint64_t left, Answer *answer);

/* ---- mqueue-take.c ---- */

/* Put POSIX message queues that the processes in @tree's control group have open, and their
 * messages, into the file @path, which is made if there are any and may have @limit bytes; and fill
 * in what CRIU has to be told of them. In a fork only: it empties them. False, answered, when one
 * can't be taken. */
bool mqueue_take(const DumpTree *tree, const char *path, uint64_t limit, MqueueOptions *ret_options,
                 Answer *answer);

/* ---- stub.c ---- */

/* A program of two system calls and no memory of its own, that needs no library. */
typedef enum {
    STUB_WAIT, /* waits; ends well once that is interrupted */
    STUB_TRUE, /* ends well */
} Stub;
/* Write it to the new file @path; false when that can't be done, or not be run from there. */
bool stub_write(const char *path, Stub stub);

/* ---- adopt.c ---- */

/* Make the trees of these @n roots, all frozen in @group, one tree in CRIU's eyes: the process ID
 * of its root; -1, answered. In a fork only: it can't be undone. */
pid_t adopt(const char *group, const pid_t *roots, unsigned n, Answer *answer);

/* ---- tmpfs.c ---- */

/* Its name in an image. */
#define TMPFS_ARCHIVE "tmpfs.tar"
/* Put files on tmpfs that the processes in @group have open or mapped into @archive, which is made
 * if there are any and may have @limit bytes. False, answered, when one can't be taken. */
bool tmpfs_take(const char *group, const char *archive, uint64_t limit, Answer *answer);
/* Write them to where they were, or only look whether that can be: without @replace nothing may be
 * there, and there must be room on a tmpfs. False, answered. */
bool tmpfs_put(const char *archive, bool replace, bool look_only, Answer *answer);
/* Remove those that it has written. */
void tmpfs_undo(const char *archive);

/* ---- lineage.c ---- */

/* When @pid, which has that start now, started before it was restored for the first time. */
uint64_t lineage_first(pid_t pid, uint64_t start);
/* Write that down. */
void lineage_note(pid_t pid, uint64_t start, uint64_t first);

/* ---- lines.c ---- */

struct CriuLines;
/* In a fork: make what is being typed at terminals of those in the control group @group readable;
 * which ones those are, for criu_lines_mend_in(). At most CRIU_MAX_LINES; others lose it. */
void lines_open(const char *group, struct CriuLines *ret);

/* ---- criu.c ---- */

/* Run @argv, "criu" and so on; what it says goes to @dir/stasis.log. Programs that it runs are
 * looked for in the directory @programs first, unless that is NULL. Of our descriptors it gets
 * those in @inherited (−1 behind the last one), or none (NULL). Returns its exit status, or −1 when
 * it could not be run or was ended at @end_ms. */
int criu_run(char *const argv[], const char *programs, const int *inherited, const char *dir,
             int64_t end_ms);
/* Ask it for its version; what it says goes to @dir. False, answered, when there is none. */
bool criu_is_there(const char *dir, char version[64], Answer *answer);
/* End the answer with what CRIU said in @dir went wrong first. */
void criu_complain(const char *what, const char *dir, Answer *answer);
/* A name that a file of an image may have. */
bool criu_file_name_is_valid(const char *name);
/* Remove @dir, which may be a link to one, and the files in it. */
void criu_remove_dir(const char *dir);

/* Where the agent keeps what lives as long as it does: on tmpfs as a rule, for root alone. */
#define AGENT_DIR "/run/stasis-agent"
