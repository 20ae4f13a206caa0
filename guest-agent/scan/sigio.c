/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Signals for I/O (O_ASYNC, F_SETOWN: fcntl(2)): a descriptor in one process sends signals to
 * another. CRIU keeps the owner as a number: without the owner in the dump that number is nobody,
 * or somebody else who gets the signals. Silently wrong. Hard. The owner is in no file of /proc: we
 * borrow the descriptor (pidfd_getfd) and ask it; its flags, which /proc shows, tell whether to.
 *
 * Timers that send signals (timer_create(2), /proc/PID/timers) reach their own process only, and
 * mq_notify needs the queue open in the process that is told: no relation.
 */
#include "scan/internal.h"

#include <fcntl.h>
#include <unistd.h>

static void add(const StasisScanner *self, StasisScan *scan, const StasisFd *fd, int32_t owner)
{
    if (owner < 0 || owner == fd->process)
        return;
    const char *who = stasis_fd_text(scan, fd);
    stasis_edge_add(scan, &(StasisEdge){ .relation = self,
                                         .a = fd->process,
                                         .b = owner,
                                         .class = STASIS_EDGE_HARD,
                                         .both = true,
                                         .object = stasis_scan_text(scan, "sigio:%s", who),
                                         .witness = stasis_scan_text(
                                             scan, "%s (%s) sends signals to pid %d", who, fd->link,
                                             scan->processes.items[owner].pid),
                                         .reason = "the copy would send signals to a number" });
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    for (size_t i = 0; i < scan->fds.n && stasis_scan_goes_on(scan); i++) {
        const StasisFd *fd = &scan->fds.items[i];
        struct f_owner_ex owner = { 0 };
        int copy =
            (fd->flags & O_ASYNC) != 0 && (fd->flags & O_PATH) == 0 ? stasis_fd_borrow(fd) : -1;
        if (copy < 0)
            continue;
        int r = fcntl(copy, F_GETOWN_EX, &owner);
        close(copy);
        if (r < 0 || owner.pid == 0)
            continue;
        if (owner.type != F_OWNER_PGRP)
            add(self, scan, fd, stasis_scan_find_thread(scan, owner.pid));
        for (size_t k = 0; owner.type == F_OWNER_PGRP && k < scan->processes.n; k++)
            if (scan->processes.items[k].pgrp == owner.pid)
                add(self, scan, fd, (int32_t)k);
    }
}

const StasisScanner stasis_scan_sigio = { "sigio", "who gets signals for another's I/O", scan_it };
