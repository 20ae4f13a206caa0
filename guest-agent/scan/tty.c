/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which pseudo-terminal: its number alone is not enough, as each mount of devpts counts from 0. A
 * slave is an inode of its devpts. A master opened as /dev/pts/ptmx is, too; one opened as
 * /dev/ptmx belongs to the devpts that is mounted beside it, at "pts" (linux fs/devpts/inode.c), so
 * we look there, in the root directory of its process. A controlling terminal is told by device
 * number only; a master says exactly whose it is, when a borrowed copy is asked for its session
 * (TIOCGSID). Where that can't be asked, we take a slave with this number that the process has
 * open, or else that of its /dev/pts.
 */
#include "scan/internal.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static uint64_t slave_number(uint64_t rdev)
{
    return (uint64_t)(major(rdev) - 136) * 256 + minor(rdev);
}

/* The device of directory @path as seen by @pid; 0: unknown. */
static uint64_t device_of(pid_t pid, const char *path)
{
    char full[PATH_MAX + 32];
    struct statx st;
    snprintf(full, sizeof full, "/proc/%d/root%s", pid, path);
    return statx(AT_FDCWD, full, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO, &st) == 0
               ? makedev(st.stx_dev_major, st.stx_dev_minor)
               : 0;
}

bool stasis_pty_of_fd(StasisScan *scan, const StasisFd *fd, uint64_t *ret_instance,
                      uint64_t *ret_number)
{
    if (fd->kind == STASIS_FD_PTY_SLAVE) {
        *ret_instance = fd->dev;
        *ret_number = slave_number(fd->rdev);
        return true;
    }
    const char *number =
        fd->kind == STASIS_FD_PTY_MASTER ? stasis_text_field(fd->info, "tty-index:") : NULL;
    if (number == NULL)
        return false;
    const char *slash = strrchr(fd->link, '/');
    const char *beside =
        stasis_scan_text(scan, "%.*s/pts", slash == NULL ? 0 : (int)(slash - fd->link), fd->link);
    uint64_t instance = device_of(scan->processes.items[fd->process].live, beside);
    /* Nothing beside it: it was opened in the devpts itself. */
    *ret_instance = instance != 0 ? instance : fd->dev;
    *ret_number = strtoull(number, NULL, 10);
    return true;
}

void stasis_pty_masters(StasisScan *scan, StasisPtyMasters *ret)
{
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        StasisPtyMaster seen = { 0 };
        int copy = fd->kind == STASIS_FD_PTY_MASTER &&
                           stasis_pty_of_fd(scan, fd, &seen.instance, &seen.number)
                       ? stasis_fd_borrow(fd)
                       : -1;
        if (copy < 0)
            continue;
        StasisPtyMaster *m = ioctl(copy, TIOCGSID, &seen.sid) == 0 ? STASIS_PUSH(scan, ret) : NULL;
        close(copy);
        if (m != NULL)
            *m = seen;
    }
}

bool stasis_pty_of_process(StasisScan *scan, int32_t process, const StasisPtyMasters *masters,
                           uint64_t *ret_instance, uint64_t *ret_number)
{
    const StasisProcess *p = &scan->processes.items[process];
    /* The kernel's encoding of a device number (new_encode_dev). */
    unsigned maj = (p->tty >> 8) & 0xfff, min = (p->tty & 0xff) | ((p->tty >> 12) & 0xfff00);
    if (maj < 136 || maj >= 144)
        return false;
    *ret_number = slave_number(makedev(maj, min));
    for (size_t i = 0; i < masters->n; i++)
        if (masters->items[i].sid == p->sid && masters->items[i].number == *ret_number) {
            *ret_instance = masters->items[i].instance;
            return true;
        }
    for (size_t i = p->first_fd; i < p->first_fd + p->n_fds; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if (fd->kind == STASIS_FD_PTY_SLAVE && slave_number(fd->rdev) == *ret_number) {
            *ret_instance = fd->dev;
            return true;
        }
    }
    *ret_instance = device_of(p->live, "/dev/pts");
    return *ret_instance != 0;
}
