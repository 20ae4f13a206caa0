/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Open devices, and anonymous inodes of kinds that are no relation's. A device's state is the
 * driver's: KVM machines, GPUs, serial lines, FUSE. CRIU knows the memory devices (null, zero …),
 * terminals and consoles, tun; and of anonymous inodes those that have a scanner here, and BPF
 * maps. All others it refuses: said before a fork is made for nothing. Opaque.
 */
#include "scan/internal.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

static bool is_known_device(const StasisFd *fd)
{
    unsigned maj = major(fd->rdev), min = minor(fd->rdev);
    switch (maj) {
    case 1: /* null zero full random urandom …; but who reads kmsg would begin anew */
        return min != 11 || (fd->flags & O_ACCMODE) == O_WRONLY;
    case 4: /* virtual consoles; from 64 on serial lines */
        return min < 64;
    case 5: /* tty console */
        return min <= 1;
    case 10: /* tun autofs */
        return min == 200 || min == 235;
    }
    return false;
}

static bool has_scanner(const StasisFd *fd)
{
    static const char *const kinds[] = { "eventfd",    "eventpoll", "timerfd",  "signalfd",
                                         "inotify",    "fanotify",  "io_uring", "userfaultfd",
                                         "perf_event", "bpf-map" };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (stasis_fd_is_anon(fd, kinds[i]))
            return true;
    return stasis_text_field(fd->info, "Pid:") != NULL; /* a pidfd */
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if ((fd->flags & O_PATH) != 0)
            continue;
        if ((fd->kind == STASIS_FD_CHAR && !is_known_device(fd)) || fd->kind == STASIS_FD_BLOCK)
            stasis_edge_refuse_fd(self, scan, fd, "CRIU can't dump this device");
        else if (fd->kind == STASIS_FD_ANON && !has_scanner(fd))
            stasis_edge_refuse_fd(self, scan, fd, "CRIU knows no such descriptor");
    }
}

const StasisScanner stasis_scan_device = { "device", "devices and descriptors CRIU can't dump",
                                           scan_it };
