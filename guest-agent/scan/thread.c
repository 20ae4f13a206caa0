/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads. A process is dumped with all of them, so they are one node of the graph and need no
 * edge. But a thread can part from the others, with unshare(2) of CLONE_FILES or CLONE_FS: then it
 * has a table of descriptors, or a working directory, of its own. CRIU restores one for all threads
 * of a process: the thread would be given the others' descriptors, silently. And its own
 * descriptors are not in /proc/PID/fd, where we look. Opaque.
 */
#include "scan/internal.h"

#include <linux/kcmp.h>

static void check(const StasisScanner *self, StasisScan *scan, const StasisTask *task, int type,
                  const char *what)
{
    const StasisProcess *p = &scan->processes.items[task->process];
    int r = stasis_kcmp(p->live, task->tid, type, 0, 0);
    if (r <= 0)
        return;
    stasis_edge_add(scan,
                    &(StasisEdge){ .relation = self,
                                   .a = task->process,
                                   .b = task->process,
                                   .class = STASIS_EDGE_OPAQUE,
                                   .object = stasis_scan_text(scan, "thread:%d", task->tid),
                                   .witness = stasis_scan_text(scan, "pid %d thread %d, its own %s",
                                                               p->pid, task->tid, what),
                                   .reason = "CRIU restores one for all threads of a process" });
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    for (size_t i = 0; i < scan->tasks.n && stasis_scan_goes_on(scan); i++) {
        const StasisTask *task = &scan->tasks.items[i];
        const StasisProcess *p = &scan->processes.items[task->process];
        /* An ended first thread has nothing left; that is no difference that matters. */
        if (p->dead || task->tid == p->live || (task->tid == p->pid && p->live != p->pid))
            continue;
        check(self, scan, task, KCMP_FILES, "table of descriptors");
        check(self, scan, task, KCMP_FS, "working directory");
    }
}

const StasisScanner stasis_scan_thread = { "thread", "threads that parted from their process",
                                           scan_it };
