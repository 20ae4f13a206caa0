/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * userfaultfd(2): page faults of a memory, ours or another's, that somebody has to answer; who
 * that memory belongs to is not shown. CRIU refuses it, and while it dumped, nobody would answer.
 * Opaque.
 */
#include "scan/internal.h"

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if (stasis_fd_is_anon(fd, "userfaultfd"))
            stasis_edge_refuse_fd(self, scan, fd, "CRIU can't dump userfaultfd");
    }
}

const StasisScanner stasis_scan_userfaultfd = { "userfaultfd", "handlers of page faults", scan_it };
