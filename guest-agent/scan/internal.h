/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What scanners use; for this folder only. Grouped by the file that has it. */
#pragma once

#include <string.h>

#include "scan/scan.h"

/* ---- scan.c ---- */

/* Room for one more item, zeroed; NULL once the pass has failed. */
#define STASIS_PUSH(scan, array)                                                           \
    ((typeof((array)->items))stasis_scan_push(scan, (void **)&(array)->items, &(array)->n, \
                                              &(array)->cap, sizeof *(array)->items))
void *stasis_scan_push(StasisScan *scan, void **items, size_t *n, size_t *cap, size_t size);
void *stasis_scan_alloc(StasisScan *scan, size_t size);
/* A string of the pass; "" once the pass has failed. */
const char *stasis_scan_text(StasisScan *scan, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Sets the failure if there is none yet. */
void stasis_scan_fail(StasisScan *scan, StasisScanFailure failure);
/* True while the pass may go on: looks at the clock. */
bool stasis_scan_goes_on(StasisScan *scan);

/* ---- read.c ---- */

typedef enum {
    STASIS_TEXT_ONE,     /* the kernel makes it as one record (fdinfo, status …) */
    STASIS_TEXT_RECORDS, /* … as many (maps, locks …) */
} StasisTextShape;
/* Text of a file below @dir (a descriptor), NUL-terminated, valid until the next call; NULL: it is
 * gone or can't be read. */
char *stasis_read_text(StasisScan *scan, int dir, const char *path, StasisTextShape shape);
/* Behind "@name" at the beginning of a line of @text; NULL: no such line. */
const char *stasis_text_field(const char *text, const char *name);
/* The first line of *@cursor, which moves behind it, cut off in place; NULL at the end. */
char *stasis_text_line(char **cursor);

/* ---- collect.c, collect-fd.c, collect-map.c, collect-socket.c, collect-flight.c ---- */
void stasis_collect_processes(StasisScan *scan);
/* Fills in @p from the text of /proc/PID/stat; false: it is none. */
bool stasis_parse_stat(StasisScan *scan, const char *text, StasisProcess *p, unsigned *ret_flags);
void stasis_collect_fds(StasisScan *scan, int32_t process, int dir);
void stasis_collect_maps(StasisScan *scan, int32_t process, int dir);
void stasis_collect_sockets(StasisScan *scan);
/* Fills in what stat and fdinfo say of link @path below @dir, number @number there. */
bool stasis_fd_fill(StasisScan *scan, StasisFd *fd, int dir, int number);
/* Adds what is in flight to the socket that fds[@index] is. */
void stasis_collect_flight(StasisScan *scan, size_t index, int depth);
/* A copy of descriptor @fd in this process (pidfd_getfd); -1: not possible. */
int stasis_fd_borrow(const StasisFd *fd);
/* Sockets with this inode; NULL: none. */
const StasisSocket *stasis_socket_find(const StasisScan *scan, uint64_t ino);

/* ---- netlink.c: sock_diag(7) ---- */
void stasis_diag_unix(StasisScan *scan, int netlink, uint64_t netns);
/* False: the kernel has no such part, or not loaded it. */
bool stasis_diag_inet(StasisScan *scan, int netlink, uint64_t netns, int family, int protocol);
/* An address of the kernel's as we keep them: IPv6, or IPv4 in it; "any" is all zeros in both. */
void stasis_socket_map_address(uint8_t ret[16], int family, const uint32_t words[4]);

/* ---- collect-procnet.c: the same without netlink ---- */
void stasis_collect_procnet(StasisScan *scan, int32_t process, int family, int protocol);

/* ---- enter.c ---- */

/* Calls @visit once in each namespace of kind @ns that a process is in; @process is one of those.
 */
void stasis_scan_enter_each(StasisScan *scan, int ns, int clone_flag,
                            void (*visit)(StasisScan *scan, int32_t process, void *data),
                            void *data);

/* ---- users.c: who uses an object ---- */

/* One use of the object with this key; fd, map and how tell the use, all but one NULL. */
typedef struct {
    uint64_t key[3];
    int32_t process;
    const StasisFd *fd;
    const StasisMap *map;
    const char *how;
} StasisUser;
typedef STASIS_ARRAY(StasisUser) StasisUsers;

void stasis_users_add_fd(StasisScan *scan, StasisUsers *users, uint64_t k0, uint64_t k1,
                         uint64_t k2, const StasisFd *fd);
void stasis_users_add_map(StasisScan *scan, StasisUsers *users, uint64_t k0, uint64_t k1,
                          uint64_t k2, const StasisMap *map);
void stasis_users_add(StasisScan *scan, StasisUsers *users, uint64_t k0, uint64_t k1, uint64_t k2,
                      int32_t process, const char *how);
/* By rising key, process and descriptor. */
void stasis_users_sort(StasisUsers *users);
/* How many of users[0…n) from the first on have its key; sorted. */
size_t stasis_users_span(const StasisUser *users, size_t n);
/* May one of users[0…n) write to it, by its descriptor or its mapping? */
bool stasis_users_one_writes(const StasisUser *users, size_t n);
/* "pid 812 fd 7" */
const char *stasis_user_text(StasisScan *scan, const StasisUser *user);
const char *stasis_fd_text(StasisScan *scan, const StasisFd *fd);

/* Names the object that @user uses. */
typedef const char *(*StasisObjectName)(StasisScan *scan, const StasisUser *user);

/* Sorts @users and adds edges, in both directions, from the first process of each object to each
 * other one. */
void stasis_users_link(const StasisScanner *self, StasisScan *scan, StasisUsers *users,
                       StasisObjectName name, StasisEdgeClass class, const char *reason);
/* The same for one object, users[0…n). */
void stasis_users_link_one(const StasisScanner *self, StasisScan *scan, const StasisUser *users,
                           size_t n, const char *object, StasisEdgeClass class, const char *reason);

void stasis_edge_add(StasisScan *scan, const StasisEdge *edge);
/* An opaque edge of a process alone, because of its descriptor. */
void stasis_edge_refuse_fd(const StasisScanner *self, StasisScan *scan, const StasisFd *fd,
                           const char *reason);

/* ---- talked.c: of the users of an object, who used it ---- */

/* Says for each process of users[0…n) (sorted; one entry for each in @ret_talked, in that order)
 * whether it talked. False: nobody counts, or not this relation. */
bool stasis_talked(const StasisScanner *self, StasisScan *scan, const StasisUser *users, size_t n,
                   bool *ret_talked);
/* What a process sent to the object of users[0…n). */
uint64_t stasis_talked_sent(const StasisScanner *self, const StasisScan *scan,
                            const StasisUser *users, size_t n, int32_t process);
/* Adds those who were counted at objects of @kind that are known by an ID in their IPC namespace.
 */
void stasis_talked_users(StasisScan *scan, StasisUsers *users, StasisCounted kind);
/* Something waits in this object: all who use it count as talking. */
void stasis_talked_in_flight(StasisScan *scan, StasisCounted kind, uint64_t object);

/* collect-socket.c */
/* Sorted users of sockets, by inode. */
void stasis_socket_users(StasisScan *scan, StasisUsers *ret_by_ino);
/* Adds the users of @ino as those of object @key; returns the first, NULL: none. */
const StasisFd *stasis_socket_add_users(StasisScan *scan, const StasisUsers *by_ino, uint64_t ino,
                                        StasisUsers *users, uint64_t key);

/* ---- kcmp.c ---- */

/* Sets the descriptions of descriptors. */
void stasis_collect_descriptions(StasisScan *scan);
/* Edges between processes for which kcmp(2) finds the same resource @type; those whose resource
 * is the scanning process's own are left out with @skip_own. */
void stasis_kcmp_link(const StasisScanner *self, StasisScan *scan, int type, bool skip_own,
                      StasisEdgeClass class, const char *reason);
/* Edges between processes that have an open file description of anonymous inode @kind ("eventfd")
 * in common. */
void stasis_anon_link(const StasisScanner *self, StasisScan *scan, const char *kind,
                      StasisEdgeClass class, const char *reason);
bool stasis_fd_is_anon(const StasisFd *fd, const char *kind);
/* kcmp(2): 0 the same, 1 or 2 an order, 3 no order, negative: failed. */
int stasis_kcmp(pid_t a, pid_t b, int type, unsigned long x, unsigned long y);

/* ---- pipe.c ---- */

/* Edges between those who have an end of a pipe of @kind, without a name (STASIS_FD_PIPE) or with
 * one (STASIS_FD_FIFO), and refusals where CRIU would not take it. */
void stasis_pipe_link(const StasisScanner *self, StasisScan *scan, StasisFdKind kind,
                      StasisObjectName name);

/* ---- tty.c: which terminal ---- */

/* Device of the devpts instance and number; false: @fd is no end of a pseudo-terminal. */
bool stasis_pty_of_fd(StasisScan *scan, const StasisFd *fd, uint64_t *ret_instance,
                      uint64_t *ret_number);
/* Masters that could be asked for the session whose controlling terminal their slave is. */
typedef struct {
    uint64_t instance, number;
    pid_t sid;
} StasisPtyMaster;
typedef STASIS_ARRAY(StasisPtyMaster) StasisPtyMasters;
void stasis_pty_masters(StasisScan *scan, StasisPtyMasters *ret);
/* … of a process's controlling terminal. */
bool stasis_pty_of_process(StasisScan *scan, int32_t process, const StasisPtyMasters *masters,
                           uint64_t *ret_instance, uint64_t *ret_number);

/* unix.c: bound by who takes log lines; @s may be NULL. */
bool stasis_socket_is_log(const StasisSocket *s);
bool stasis_socket_is_agent(const StasisSocket *s);

/* ---- ipc.c: SysV IPC; object key: ID and IPC namespace ---- */

/* An opaque edge of a process that uses @object in the scanning process's own namespace. */
void stasis_ipc_refuse(const StasisScanner *self, StasisScan *scan, int32_t process,
                       const char *object, const char *how);
/* Adds those who wait in one of the system calls, whose first argument is the object's ID. */
void stasis_ipc_waiting(StasisScan *scan, StasisUsers *users, const long calls[3], const char *how);
/* Adds @pid, if it is a process of that namespace. */
void stasis_ipc_last(StasisScan *scan, StasisUsers *users, int id, uint64_t ipcns, pid_t pid,
                     const char *how);
/* Cuttable edges between the users of each object, and refusals where CRIU would not take it. */
void stasis_ipc_link(const StasisScanner *self, StasisScan *scan, StasisUsers *users,
                     StasisObjectName name, const char *reason);

/* sysv-sem.c: who is seen to use SysV semaphores. */
void stasis_sem_users(StasisScan *scan, StasisUsers *users);

/* ---- the relations: one file each, listed in scanners.c ---- */
extern const StasisScanner stasis_scan_session, stasis_scan_pgrp, stasis_scan_ctty,
    stasis_scan_thread, stasis_scan_ptrace, stasis_scan_namespace, stasis_scan_cgroup,
    stasis_scan_vm, stasis_scan_files, stasis_scan_fs, stasis_scan_sighand, stasis_scan_sem_undo,
    stasis_scan_anon_shm, stasis_scan_memfd, stasis_scan_sysv_shm, stasis_scan_mapped_file,
    stasis_scan_ghost, stasis_scan_pipe, stasis_scan_fifo, stasis_scan_pty, stasis_scan_socket,
    stasis_scan_socket_kind, stasis_scan_unix, stasis_scan_tcp, stasis_scan_udp,
    stasis_scan_sysv_sem, stasis_scan_sysv_msg, stasis_scan_mqueue, stasis_scan_file,
    stasis_scan_eventfd, stasis_scan_epoll, stasis_scan_signalfd, stasis_scan_timerfd,
    stasis_scan_inotify, stasis_scan_lock, stasis_scan_sigio, stasis_scan_pidfd,
    stasis_scan_io_uring, stasis_scan_userfaultfd, stasis_scan_perf, stasis_scan_device,
    stasis_scan_bpf_map, stasis_scan_proc_file, stasis_scan_signal;
