/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * pidfd_open(2), clone(CLONE_PIDFD): a descriptor of a process. CRIU (3.17) refuses it, even
 * when the process it names comes along. Opaque, but only for the holder: to be named by an
 * outsider's pidfd (as a service manager has of each service) takes nothing from the process named.
 */
#include "scan/internal.h"

#include <stdlib.h>

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        const char *pid = fd->kind == STASIS_FD_ANON ? stasis_text_field(fd->info, "Pid:") : NULL;
        if (pid == NULL)
            continue;
        if (!stasis_scan_goes_on(scan))
            return;
        int32_t target = stasis_scan_find_thread(scan, atoi(pid));
        const char *who = stasis_fd_text(scan, fd);
        stasis_edge_add(scan, &(StasisEdge){ .relation = self,
                                             .a = fd->process,
                                             .b = target < 0 ? STASIS_OUTSIDE : target,
                                             .class = STASIS_EDGE_OPAQUE,
                                             .object = stasis_scan_text(scan, "pidfd:%s", who),
                                             .witness = stasis_scan_text(
                                                 scan, "%s, a pidfd of pid %d", who, atoi(pid)),
                                             .reason = "CRIU can't dump a pidfd" });
    }
}

const StasisScanner stasis_scan_pidfd = { "pidfd", "descriptors of processes", scan_it };
