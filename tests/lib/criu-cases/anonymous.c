/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Descriptors of what has no name: rings, timers, counters, watches, namespaces. */
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "criu-cases.h"

int ring(void)
{
    struct io_uring_params p = { 0 };
    return (int)syscall(SYS_io_uring_setup, 4, &p);
}

static int ring_mapped(void)
{
    int fd = ring();
    void *at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    close(fd);
    return at != MAP_FAILED ? 0 : -1;
}

static int faults(void)
{
    return (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
}

int pid_descriptor(void)
{
    return (int)syscall(SYS_pidfd_open, getpid(), 0);
}

static int perf(void)
{
    struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
                                    .size = sizeof attr,
                                    .config = PERF_COUNT_SW_DUMMY,
                                    .exclude_kernel = 1 };
    return (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
}

static int perf_mapped(void)
{
    int fd = perf();
    void *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return at != MAP_FAILED ? 0 : -1;
}

static int bpf(int command, union bpf_attr *attr)
{
    return (int)syscall(SYS_bpf, command, attr, sizeof *attr);
}

static int bpf_program(void)
{
    static const struct bpf_insn code[] = {
        { .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0 },
        { .code = BPF_JMP | BPF_EXIT },
    };
    union bpf_attr attr = { 0 };
    attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    attr.insns = (uint64_t)(uintptr_t)code;
    attr.insn_cnt = sizeof code / sizeof *code;
    attr.license = (uint64_t)(uintptr_t) "GPL";
    return bpf(BPF_PROG_LOAD, &attr);
}

static int bpf_map(uint32_t type, uint32_t key, uint32_t value, uint32_t entries)
{
    union bpf_attr attr = { 0 };
    attr.map_type = type;
    attr.key_size = key;
    attr.value_size = value;
    attr.max_entries = entries;
    return bpf(BPF_MAP_CREATE, &attr);
}

static int bpf_array(void)
{
    return bpf_map(BPF_MAP_TYPE_ARRAY, 4, 8, 4);
}

static int bpf_hash(void)
{
    return bpf_map(BPF_MAP_TYPE_HASH, 4, 8, 4);
}

static int bpf_programs(void)
{
    return bpf_map(BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4);
}

static int bpf_ring(void)
{
    return bpf_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
}

static int watch(void)
{
    int fd = inotify_init();
    return inotify_add_watch(fd, "/tmp", IN_CREATE) >= 0 ? fd : -1;
}

static int watch_deleted(void)
{
    char path[] = "/tmp/case-XXXXXX";
    int fd = inotify_init(), file = mkstemp(path);
    return inotify_add_watch(fd, path, IN_MODIFY) >= 0 && unlink(path) == 0 && file >= 0 ? fd : -1;
}

static int watch_all(void)
{
    int fd = fanotify_init(FAN_CLASS_NOTIF, O_RDONLY);
    return fd;
}

static int watch_all_marked(void)
{
    int fd = watch_all();
    return fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, "/tmp") == 0 ? fd : -1;
}

static int timer(int clock)
{
    return timerfd_create(clock, 0);
}

static int timer_monotonic(void)
{
    return timer(CLOCK_MONOTONIC);
}

static int timer_boottime(void)
{
    return timer(CLOCK_BOOTTIME);
}

static int timer_alarm(void)
{
    return timer(CLOCK_REALTIME_ALARM);
}

static int signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    return signalfd(-1, &set, 0);
}

int event(void)
{
    return eventfd(3, EFD_SEMAPHORE);
}

static int poll_event(void)
{
    struct epoll_event ready = { .events = EPOLLIN };
    int fd = epoll_create1(0), target = event();
    return epoll_ctl(fd, EPOLL_CTL_ADD, target, &ready) == 0 ? fd : -1;
}

static int poll_poll(void)
{
    struct epoll_event ready = { .events = EPOLLIN };
    int fd = epoll_create1(0), target = poll_event();
    return epoll_ctl(fd, EPOLL_CTL_ADD, target, &ready) == 0 ? fd : -1;
}

static int poll_closed(void)
{
    struct epoll_event ready = { .events = EPOLLIN };
    int fd = epoll_create1(0), target = event(), copy = dup(target);
    return epoll_ctl(fd, EPOLL_CTL_ADD, target, &ready) == 0 && close(target) == 0 ? copy : -1;
}

static int landlock(void)
{
    struct landlock_ruleset_attr attr = { .handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE };
    return (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
}

static int filter(unsigned flags)
{
    struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
    struct sock_fprog program = { 1, code };
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static int filtered(void)
{
    return filter(0);
}

static int filter_listener(void)
{
    return filter(SECCOMP_FILTER_FLAG_NEW_LISTENER);
}

static int namespace_own(void)
{
    return open("/proc/self/ns/net", O_RDONLY);
}

static int namespace_other(void)
{
    int home = open("/proc/self/ns/uts", O_RDONLY);
    if (unshare(CLONE_NEWUTS) < 0)
        return -1;
    int fd = open("/proc/self/ns/uts", O_RDONLY);
    return setns(home, CLONE_NEWUTS) == 0 ? fd : -1;
}

const Case cases_anonymous[] = {
    CASE(ring),
    CASE(ring_mapped),
    CASE(faults),
    CASE(pid_descriptor),
    CASE(perf),
    CASE(perf_mapped),
    CASE(bpf_program),
    CASE(bpf_array),
    CASE(bpf_hash),
    CASE(bpf_programs),
    CASE(bpf_ring),
    CASE(watch),
    CASE(watch_deleted),
    CASE(watch_all),
    CASE(watch_all_marked),
    CASE(timer_monotonic),
    CASE(timer_boottime),
    CASE(timer_alarm),
    CASE(signals),
    CASE(event),
    CASE(poll_event),
    CASE(poll_poll),
    CASE(poll_closed),
    CASE(landlock),
    CASE(filtered),
    CASE(filter_listener),
    CASE(namespace_own),
    CASE(namespace_other),
    { NULL },
};
