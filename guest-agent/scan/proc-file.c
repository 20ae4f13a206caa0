/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files of another process in /proc (mem, maps, a directory …) that a process has open: a reference
 * to that process. CRIU opens the same path again at restore; without the process named, that is
 * nobody, or a stranger whose memory is then read or written: silently wrong. The one who has it
 * open needs the other, not the other way round. Cuttable: a tool that watches others is used to
 * their ending. Numbers in a nested PID namespace's own /proc are not ours, and not told.
 */
#include "scan/internal.h"

#include <stdlib.h>

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        char *end;
        if (strncmp(fd->link, "/proc/", 6) != 0 ||
            scan->processes.items[fd->process].pid_depth != 1)
            continue;
        if (!stasis_scan_goes_on(scan))
            return;
        pid_t pid = (pid_t)strtol(fd->link + 6, &end, 10);
        int32_t target = end == fd->link + 6 ? -1 : stasis_scan_find_thread(scan, pid);
        if (target < 0 || target == fd->process)
            continue;
        const char *who = stasis_fd_text(scan, fd);
        stasis_edge_add(scan, &(StasisEdge){ .relation = self,
                                             .a = fd->process,
                                             .b = target,
                                             .class = STASIS_EDGE_CUTTABLE,
                                             .object = stasis_scan_text(scan, "proc-file:%s", who),
                                             .witness = stasis_scan_text(scan, "%s, %s of pid %d",
                                                                         who, fd->link, pid),
                                             .reason = "restored alone it would name a stranger" });
    }
}

const StasisScanner stasis_scan_proc_file = { "proc-file", "open files of others in /proc",
                                              scan_it };
