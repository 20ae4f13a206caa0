/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Descriptors that have a state, locks, and who is told of I/O. */
#include "kinds.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static void prepare_description(Relation *r)
{
    keep_fd(r, open_file(r, DIR_W, r->variant & 1 ? O_RDWR : O_RDONLY), ALL);
}
static void prepare_log(Relation *r)
{
    keep_fd(r, open_file(r, DIR_W, O_WRONLY | O_APPEND), ALL);
}
static void prepare_eventfd(Relation *r)
{
    keep_fd(r, (int)CHECK(eventfd(0, 0)), ALL);
}
static void act_eventfd(Relation *r, int role)
{
    own_fd((int)CHECK(eventfd(0, 0)));
}
static void prepare_timerfd(Relation *r)
{
    keep_fd(r, (int)CHECK(timerfd_create(CLOCK_MONOTONIC, 0)), ALL);
}
static void prepare_inotify(Relation *r)
{
    keep_fd(r, (int)CHECK(inotify_init1(0)), ALL);
}
static void prepare_signalfd(Relation *r)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    keep_fd(r, (int)CHECK(signalfd(-1, &set, 0)), ALL);
}
static void prepare_epoll(Relation *r)
{
    keep_fd(r, (int)CHECK(epoll_create1(0)), ALL);
}
/* Role 0's epoll waits for an eventfd that only role 1 still has open. */
static void prepare_epoll_target(Relation *r)
{
    int e = (int)CHECK(epoll_create1(0)), target = (int)CHECK(eventfd(0, 0));
    CHECK(epoll_ctl(e, EPOLL_CTL_ADD, target, &(struct epoll_event){ .events = EPOLLIN }));
    keep_fd(r, e, 1u);
    keep_fd(r, target, ALL & ~1u);
}
static void flock_forever(Relation *r)
{
    flock(r->fd[6], LOCK_EX);
}
static void act_lock(Relation *r, int role)
{
    r->fd[6] = (int)CHECK(open(r->path, O_RDWR));
    own_fd(r->fd[6]);
    struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = role * 10, .l_len = 5 };
    if (r->variant & 2)
        CHECK(fcntl(r->fd[6], r->variant & 4 ? F_SETLK : F_OFD_SETLK, &l));
    else if (role == 0)
        CHECK(flock(r->fd[6], LOCK_EX));
    else
        block_in(SYS_flock, flock_forever, r);
}
static void act_lock_own(Relation *r, int role)
{
    snprintf(r->path, sizeof r->path, DIR_W "/l%d.%d", r->index, role);
    int fd = (int)CHECK(open(r->path, O_RDWR | O_CREAT, 0600));
    CHECK(flock(fd, LOCK_EX));
    own_fd(fd);
}
/* Two may have one: it is the kernel's word that nobody writes, and nothing between them. */
static void act_lease(Relation *r, int role)
{
    int fd = (int)CHECK(open(r->path, O_RDONLY));
    CHECK(fcntl(fd, F_SETLEASE, F_RDLCK));
    own_fd(fd);
}
static void act_timer(Relation *r, int role)
{
    timer_t timer;
    struct itimerspec late = { .it_value.tv_sec = 100000 };
    CHECK(timer_create(CLOCK_MONOTONIC, NULL, &timer)); /* SIGALRM, to itself */
    CHECK(timer_settime(timer, 0, &late, NULL));
}
/* Signals go to a process, to its first thread, or to a whole process group. */
static void act_sigio(Relation *r, int role)
{
    int s[2];
    struct f_owner_ex owner = { r->variant & 1 ? F_OWNER_TID : F_OWNER_PID };
    if (role != 0)
        return;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    bool group = r->kind->flags & KIND_GROUP;
    if (group)
        owner.type = F_OWNER_PGRP;
    owner.pid = pid_of(group ? world.actors[r->who[1]].group : r->who[1]);
    CHECK(fcntl(s[0], F_SETOWN_EX, &owner));
    CHECK(fcntl(s[0], F_SETFL, O_RDWR | O_ASYNC));
    own_fd(s[0]);
    own_fd(s[1]);
}

static void prepare_bpf_map(Relation *r)
{
    union bpf_attr a = {
        .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1
    };
    keep_fd(r, (int)CHECK(syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof a)), ALL);
}
static void act_proc_file(Relation *r, int role)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/%s", pid_of(r->who[1]), r->variant & 1 ? "mem" : "maps");
    if (role == 0)
        own_fd((int)CHECK(open(path, O_RDONLY)));
}

const Kind file_kinds[] = {
    R("file", "file", 2, 4, 0, .prepare = prepare_description),
    R("eventfd", "eventfd", 2, 4, 0, .prepare = prepare_eventfd),
    R("epoll", "epoll", 2, 3, 0, .prepare = prepare_epoll),
    R("epoll-target", "epoll", 2, 2, KIND_DIRECTED, .prepare = prepare_epoll_target),
    R("timerfd", "timerfd", 2, 4, 0, .prepare = prepare_timerfd),
    R("inotify", "inotify", 2, 3, 0, .prepare = prepare_inotify),
    R("lock", "lock", 2, 3, KIND_BLOCKS, .prepare = prepare_file, .act = { [1] = act_lock }),
    R("sigio", "sigio", 2, 2, KIND_BORROWS, .act = { [1] = act_sigio }),
    R("sigio-group", "sigio", 2, 2, KIND_BORROWS | KIND_GROUP, .act = { [1] = act_sigio }),
    R("bpf-map", "bpf-map", 2, 4, 0, .prepare = prepare_bpf_map),
    R("proc-file", "proc-file", 2, 2, KIND_DIRECTED, .act = { [1] = act_proc_file }),

    R("no-file", NULL, 2, 4, KIND_DECOY, .prepare = prepare_file, .act = { act_open_file }),
    R("no-log", NULL, 2, 4, KIND_DECOY, .prepare = prepare_log),
    R("no-eventfd", NULL, 2, 4, KIND_DECOY, .act = { act_eventfd }),
    R("no-signalfd", "signalfd", 2, 3, KIND_DECOY, .prepare = prepare_signalfd),
    R("no-lock", NULL, 2, 3, KIND_DECOY, .act = { act_lock_own }),
    R("no-lease", NULL, 2, 3, KIND_DECOY, .prepare = prepare_file, .act = { act_lease }),
    R("no-timer", NULL, 2, 3, KIND_DECOY, .act = { act_timer }),
    { 0 },
};
