/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Open descriptors: where the link in /proc/PID/fd points to, statx(2) of it, /proc/PID/fdinfo.
 * Never by asking a file's server: a FUSE or network file system need not answer, and its daemon
 * may be a process that we look at, or one that wants us to hang. What the kernel knows by itself
 * is enough.
 */
#include "scan/internal.h"
#include "scan/mqueue-fs.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static bool starts(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static StasisFdKind kind_of(const StasisFd *fd, int dir, const char *path)
{
    switch (fd->mode & S_IFMT) {
    case S_IFIFO:
        return starts(fd->link, "pipe:[") ? STASIS_FD_PIPE : STASIS_FD_FIFO;
    case S_IFSOCK:
        return starts(fd->link, "socket:[") ? STASIS_FD_SOCKET : STASIS_FD_OTHER;
    case S_IFDIR:
        return STASIS_FD_DIRECTORY;
    case S_IFBLK:
        return STASIS_FD_BLOCK;
    case S_IFCHR:
        if (major(fd->rdev) >= 136 && major(fd->rdev) < 144)
            return STASIS_FD_PTY_SLAVE;
        /* 5:2 is ptmx, in /dev and in each devpts. */
        return fd->rdev == makedev(5, 2) ? STASIS_FD_PTY_MASTER : STASIS_FD_CHAR;
    }
    /* Anonymous inodes have a type of their own, or are said to be files (pidfs). */
    if (starts(fd->link, "anon_inode:") || stasis_text_field(fd->info, "NSpid:") != NULL)
        return STASIS_FD_ANON;
    if (starts(fd->link, "/memfd:"))
        return STASIS_FD_MEMFD;
    if ((fd->mode & S_IFMT) == S_IFREG)
        return stasis_mqueue_is_one(dir, path, &(struct stat){ 0 }) ? STASIS_FD_MQUEUE
                                                                    : STASIS_FD_REGULAR;
    return STASIS_FD_OTHER;
}

/* Behind the lines that every descriptor has. */
static const char *own_lines(const char *text)
{
    static const char *const common[] = { "pos:", "flags:", "mnt_id:", "ino:" };
    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        if (starts(text, common[i])) {
            const char *end = strchr(text, '\n');
            text = end == NULL ? "" : end + 1;
        }
    return text;
}

/* Pipes and sockets, most of all descriptors, tell their inode in the link, and are of one device
 * each. */
static bool identify_by_link(StasisFd *fd, const char *link)
{
    unsigned long long ino;
    char end;
    if (sscanf(link, "pipe:[%llu%c", &ino, &end) == 2 && end == ']')
        fd->mode = S_IFIFO;
    else if (sscanf(link, "socket:[%llu%c", &ino, &end) == 2 && end == ']')
        fd->mode = S_IFSOCK;
    else
        return false;
    fd->ino = ino;
    fd->nlink = 1;
    return true;
}

static bool identify(StasisFd *fd, int dir, const char *path)
{
    struct statx st;
    if (statx(dir, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &st) < 0)
        return false;
    fd->mode = st.stx_mode;
    fd->nlink = st.stx_nlink;
    fd->dev = makedev(st.stx_dev_major, st.stx_dev_minor);
    fd->ino = st.stx_ino;
    fd->rdev = makedev(st.stx_rdev_major, st.stx_rdev_minor);
    return true;
}

bool stasis_fd_fill(StasisScan *scan, StasisFd *fd, int dir, int number)
{
    char path[32], info[32], link[PATH_MAX];
    snprintf(path, sizeof path, "fd/%d", number);
    snprintf(info, sizeof info, "fdinfo/%d", number);
    ssize_t len = readlinkat(dir, path, link, sizeof link - 1);
    if (len < 0)
        return false;
    link[len] = '\0';
    const char *text = identify_by_link(fd, link) || identify(fd, dir, path)
                           ? stasis_read_text(scan, dir, info, STASIS_TEXT_ONE)
                           : NULL;
    if (text == NULL)
        return false;
    const char *flags = stasis_text_field(text, "flags:");
    fd->flags = flags == NULL ? 0 : (unsigned)strtoul(flags, NULL, 8) & ~(unsigned)O_CLOEXEC;
    const char *mount = stasis_text_field(text, "mnt_id:");
    fd->mount = mount == NULL ? 0 : atoi(mount);
    text = own_lines(text);
    fd->info = *text == '\0' ? "" : stasis_scan_text(scan, "%s", text);
    fd->link = stasis_scan_text(scan, "%s", link);
    fd->kind = kind_of(fd, dir, path);
    return true;
}

void stasis_collect_fds(StasisScan *scan, int32_t process, int dir)
{
    int fd = openat(dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (stream == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *e; scan->failure == STASIS_SCAN_OK && (e = readdir(stream)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        int number = atoi(e->d_name);
        StasisFd seen = { .process = process,
                          .fd = number,
                          .carrier = -1,
                          .kcmp_fd = number,
                          .kcmp_pid = scan->processes.items[process].live };
        if (!stasis_fd_fill(scan, &seen, dir, number))
            continue;
        StasisFd *item = STASIS_PUSH(scan, &scan->fds);
        if (item != NULL)
            *item = seen;
    }
    closedir(stream);
}

int stasis_fd_borrow(const StasisFd *fd)
{
    if (fd->carrier >= 0)
        return fcntl(fd->kcmp_fd, F_DUPFD_CLOEXEC, 0);
    int pidfd = (int)syscall(SYS_pidfd_open, fd->kcmp_pid, 0);
    /* A thread whose first one has ended: PIDFD_THREAD, from Linux 6.9 on. */
    if (pidfd < 0)
        pidfd = (int)syscall(SYS_pidfd_open, fd->kcmp_pid, O_EXCL);
    if (pidfd < 0)
        return -1;
    int copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd->kcmp_fd, 0);
    close(pidfd);
    return copy;
}
