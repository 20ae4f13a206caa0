/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * perf_event_open(2): counters of the CPU or of another process, with a ring in memory that the
 * kernel writes. The target is not shown. CRIU refuses it. Opaque.
 */
#include "scan/internal.h"

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if (stasis_fd_is_anon(fd, "perf_event"))
            stasis_edge_refuse_fd(self, scan, fd, "CRIU can't dump perf events");
    }
}

const StasisScanner stasis_scan_perf = { "perf", "performance counters", scan_it };
