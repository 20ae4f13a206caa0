/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * io_uring(7): requests in flight inside the kernel, rings in memory that the kernel writes,
 * registered files and buffers that no table shows. CRIU refuses it. The rings may stay mapped
 * after the descriptor was closed, so mappings are looked at, too. Opaque.
 */
#include "scan/internal.h"

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if (stasis_fd_is_anon(fd, "io_uring"))
            stasis_edge_refuse_fd(self, scan, fd, "CRIU can't dump io_uring");
    }
    for (size_t i = 0; i < scan->maps.n; i++) {
        const StasisMap *m = &scan->maps.items[i];
        if (strcmp(m->name, "anon_inode:[io_uring]") != 0)
            continue;
        const char *witness =
            stasis_scan_text(scan, "pid %d mapping %llx, %s", scan->processes.items[m->process].pid,
                             (unsigned long long)m->start, m->name);
        stasis_edge_add(scan, &(StasisEdge){ .relation = self,
                                             .a = m->process,
                                             .b = m->process,
                                             .class = STASIS_EDGE_OPAQUE,
                                             .object = witness,
                                             .witness = witness,
                                             .reason = "CRIU can't dump io_uring" });
    }
}

const StasisScanner stasis_scan_io_uring = { "io-uring", "rings of io_uring", scan_it };
