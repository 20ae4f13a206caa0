/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What CRIU (3.17) can't dump of a member, though it is no relation with anybody: said before a
 * fork is made for nothing. A table for each kind of thing that is looked at; whatever has a
 * scanner that refuses it (io_uring, pidfds, devices …) is not here.
 * tests/long/test_proc_verdicts.py compares each with the real CRIU.
 */
#include "graph/internal.h"
#include "scan/internal.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

/* ---- open descriptors ---- */

typedef bool (*FdCheck)(StasisBoundary *b, const StasisFd *fd);

/* A path that was never opened: CRIU asks it what can't be asked of such. */
static bool is_path_to_no_file(StasisBoundary *b, const StasisFd *fd)
{
    (void)b;
    bool file = fd->kind == STASIS_FD_REGULAR || fd->kind == STASIS_FD_DIRECTORY ||
                S_ISLNK(fd->mode) || (fd->kind == STASIS_FD_CHAR && major(fd->rdev) == 1);
    return (fd->flags & O_PATH) != 0 && !file;
}

/* timerfd_create(2) with CLOCK_REALTIME_ALARM and the like; fdinfo has "clockid: 8". */
static bool is_alarm(StasisBoundary *b, const StasisFd *fd)
{
    (void)b;
    const char *text =
        stasis_fd_is_anon(fd, "timerfd") ? stasis_text_field(fd->info, "clockid:") : NULL;
    int clock = text != NULL ? atoi(text) : CLOCK_MONOTONIC;
    return clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC && clock != CLOCK_BOOTTIME;
}

static bool is_bpf_map(StasisBoundary *b, const StasisFd *fd)
{
    (void)b;
    return stasis_fd_is_anon(fd, "bpf-map");
}

static bool is_huge_memfd(StasisBoundary *b, const StasisFd *fd)
{
    (void)b;
    struct statfs fs;
    int copy = fd->kind == STASIS_FD_MEMFD ? stasis_fd_borrow(fd) : -1;
    bool huge = copy >= 0 && fstatfs(copy, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC;
    if (copy >= 0)
        close(copy);
    return huge;
}

/* Of what CRIU opens again by its path. What is in flight has no mount in fdinfo that we could
 * trust: its process may be in another namespace. */
static bool has_path(const StasisFd *fd)
{
    return fd->carrier < 0 && fd->link[0] == '/' && fd->mount > 0 &&
           (fd->kind == STASIS_FD_REGULAR || fd->kind == STASIS_FD_DIRECTORY ||
            fd->kind == STASIS_FD_FIFO);
}

static bool is_on_gone_mount(StasisBoundary *b, const StasisFd *fd)
{
    return has_path(fd) && stasis_mount_state(b, fd->process, fd->mount) == STASIS_MOUNT_GONE;
}

static bool is_on_covered_mount(StasisBoundary *b, const StasisFd *fd)
{
    return has_path(fd) && stasis_mount_state(b, fd->process, fd->mount) == STASIS_MOUNT_COVERED;
}

/* A namespace that is kept by the descriptor alone: CRIU knows those of processes. */
static bool is_nobodys_namespace(StasisBoundary *b, const StasisFd *fd)
{
    for (unsigned k = 0; k < STASIS_N_NS; k++) {
        size_t n = strlen(stasis_ns_names[k]);
        if (strncmp(fd->link, stasis_ns_names[k], n) != 0 || strncmp(fd->link + n, ":[", 2) != 0)
            continue;
        for (size_t i = 0; i < b->scan.processes.n; i++)
            if (b->scan.processes.items[i].ns[k] == fd->ino)
                return false;
        return fd->ino != b->scan.own_ns[k];
    }
    return false;
}

static const StasisSocket *socket_of(const StasisBoundary *b, const StasisFd *fd)
{
    return fd->kind == STASIS_FD_SOCKET ? stasis_socket_find(&b->scan, fd->ino) : NULL;
}

static bool is_corked(StasisBoundary *b, const StasisFd *fd)
{
    const StasisSocket *s = socket_of(b, fd);
    int corked = 0;
    socklen_t len = sizeof corked;
    if (s == NULL || (s->protocol != IPPROTO_UDP && s->protocol != IPPROTO_UDPLITE))
        return false;
    int copy = stasis_fd_borrow(fd);
    if (copy >= 0) {
        getsockopt(copy, SOL_UDP, UDP_CORK, &corked, &len);
        close(copy);
    }
    return corked != 0;
}

static bool is_netlink_with_data(StasisBoundary *b, const StasisFd *fd)
{
    int family = 0;
    socklen_t len = sizeof family;
    int copy = fd->kind == STASIS_FD_SOCKET && socket_of(b, fd) == NULL ? stasis_fd_borrow(fd) : -1;
    if (copy < 0)
        return false;
    struct pollfd ready = { .fd = copy, .events = POLLIN };
    bool yes = getsockopt(copy, SOL_SOCKET, SO_DOMAIN, &family, &len) == 0 &&
               family == AF_NETLINK && poll(&ready, 1, 0) == 1 && (ready.revents & POLLIN) != 0;
    close(copy);
    return yes;
}

static bool is_deleted(const StasisBoundary *b, unsigned maj, unsigned min, uint64_t ino)
{
    for (size_t i = 0; i < b->scan.fds.n; i++) {
        const StasisFd *fd = &b->scan.fds.items[i];
        if (fd->ino == ino && fd->nlink == 0 && fd->dev == makedev(maj, min))
            return true;
    }
    return false;
}

/* Lines "inotify wd:3 ino:9e7e sdev:800013 mask:…" of fdinfo, all hexadecimal (proc_pid_fdinfo(5)).
 * What is deleted is watched as long as somebody has it open. */
static bool is_watch_of_deleted(StasisBoundary *b, const StasisFd *fd)
{
    const char *text = stasis_fd_is_anon(fd, "inotify") ? fd->info : "";
    unsigned long long ino;
    unsigned dev;
    while ((text = stasis_text_field(text, "inotify wd:")) != NULL)
        if (sscanf(text, "%*x ino:%llx sdev:%x", &ino, &dev) == 2 &&
            is_deleted(b, dev >> 20, dev & 0xfffff, ino))
            return true;
    return false;
}

static const struct {
    FdCheck is;
    const char *reason;
} fd_checks[] = {
    { is_path_to_no_file, "CRIU can't dump a path (O_PATH) to what is no file or directory" },
    { is_alarm, "CRIU can't dump a timer by that clock" },
    { is_bpf_map, "CRIU can't dump a BPF map, as distributions build it" },
    { is_huge_memfd, "CRIU can't dump an open memfd of huge pages" },
    { is_on_gone_mount, "CRIU can't dump a file that is on no mount (umount -l)" },
    { is_on_covered_mount, "CRIU can't dump a file on a mount that another lies over" },
    { is_nobodys_namespace, "CRIU can't dump a namespace that no process is in" },
    { is_watch_of_deleted, "CRIU can't dump a watch of a file that is deleted" },
    { is_corked, "CRIU can't dump a corked UDP socket (UDP_CORK)" },
    { is_netlink_with_data, "CRIU can't dump a netlink socket with something to read" },
};

static void judge_fd(StasisBoundary *b, const StasisFd *fd)
{
    for (size_t i = 0; i < sizeof fd_checks / sizeof *fd_checks; i++)
        if (fd_checks[i].is(b, fd))
            stasis_boundary_refuse_member(
                b, fd->process, fd_checks[i].reason,
                stasis_scan_text(&b->scan, "%s, %s", stasis_fd_text(&b->scan, fd), fd->link));
}

/* ---- mappings ---- */

static bool is_device(const StasisBoundary *b, const StasisMap *map)
{
    char path[4200];
    struct statx st;
    if (strncmp(map->name, "/dev/", 5) != 0 || strncmp(map->name, "/dev/shm/", 9) == 0)
        return false;
    snprintf(path, sizeof path, "/proc/%d/root%s", b->scan.processes.items[map->process].live,
             map->name);
    return statx(AT_FDCWD, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &st) == 0 &&
           S_ISCHR(st.stx_mode) && (st.stx_rdev_major != 1 || st.stx_rdev_minor != 5); /* zero */
}

static void judge_map(StasisBoundary *b, const StasisMap *map)
{
    static const char anon[] = "anon_inode:", ring[] = "anon_inode:[io_uring]";
    const char *reason = NULL;
    if (is_device(b, map))
        reason = "CRIU can't dump mapped memory of a device";
    else if (strncmp(map->name, anon, sizeof anon - 1) == 0 && strcmp(map->name, ring) != 0)
        reason = "CRIU can't dump a mapping of this kind";
    if (reason != NULL)
        stasis_boundary_refuse_member(b, map->process, reason,
                                      stasis_scan_text(&b->scan, "pid %d mapping %llx, %s",
                                                       b->scan.processes.items[map->process].pid,
                                                       (unsigned long long)map->start, map->name));
}

/* ---- processes ---- */

/* In one of these namespaces all members have to be together. Others may be nested. */
static const int common[] = { STASIS_NS_IPC, STASIS_NS_PID, STASIS_NS_UTS, STASIS_NS_USER };

static void judge_namespaces(StasisBoundary *b, int32_t first, int32_t member)
{
    const StasisProcess *a = &b->scan.processes.items[first],
                        *other = &b->scan.processes.items[member];
    for (size_t i = 0; i < sizeof common / sizeof *common; i++) {
        int k = common[i];
        if (a->ns[k] == 0 || other->ns[k] == 0 || a->ns[k] == other->ns[k])
            continue;
        stasis_boundary_refuse_member(
            b, member,
            stasis_scan_text(&b->scan, "CRIU dumps one %s namespace, and pid %d is in another",
                             stasis_ns_names[k], a->pid),
            stasis_scan_text(&b->scan, "pid %d in %s:[%llu], pid %d in %s:[%llu]", other->pid,
                             stasis_ns_names[k], (unsigned long long)other->ns[k], a->pid,
                             stasis_ns_names[k], (unsigned long long)a->ns[k]));
        return;
    }
}

static void judge_process(StasisBoundary *b, int32_t member)
{
    const StasisProcess *p = &b->scan.processes.items[member];
    if (p->live != p->pid)
        stasis_boundary_refuse_member(
            b, member, "CRIU can't dump a process whose first thread has ended",
            stasis_scan_text(&b->scan, "pid %d lives on in its thread %d", p->pid, p->live));
}

/* Hard, so that both come along; and then CRIU can't have them. */
static void judge_edge(StasisBoundary *b, const StasisEdge *e)
{
    if (e->relation == &stasis_scan_vm)
        stasis_boundary_refuse_member(b, e->a, "CRIU can't dump two processes with one memory",
                                      e->witness);
    if (e->relation == &stasis_scan_fs)
        stasis_boundary_refuse_member(
            b, e->a, "CRIU can't dump two processes with one working directory (CLONE_FS)",
            e->witness);
}

void stasis_boundary_judge_criu(StasisBoundary *b)
{
    int32_t first = -1;
    for (size_t i = 0; i < b->members.n; i++) {
        int32_t member = b->members.items[i];
        if (b->scan.processes.items[member].dead)
            continue;
        first = first < 0 ? member : first;
        judge_namespaces(b, first, member);
        judge_process(b, member);
    }
    for (size_t i = 0; i < b->scan.edges.n; i++)
        if (b->place[i] == STASIS_EDGE_INSIDE)
            judge_edge(b, &b->scan.edges.items[i]);
    for (size_t i = 0; i < b->scan.fds.n && stasis_scan_goes_on(&b->scan); i++)
        if (b->is_member[b->scan.fds.items[i].process])
            judge_fd(b, &b->scan.fds.items[i]);
    for (size_t i = 0; i < b->scan.maps.n; i++)
        if (b->is_member[b->scan.maps.items[i].process])
            judge_map(b, &b->scan.maps.items[i]);
}
