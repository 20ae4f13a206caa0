/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ptrace(2). CRIU has to trace what it dumps, and a task has one tracer: a tracee can't be dumped
 * while somebody traces it. A tracer without its tracee would wait for events that never come, so
 * the tracee has to come, and then refuses. Both say who traces whom: opaque from the tracee's
 * side, hard from the tracer's.
 */
#include "scan/internal.h"

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    for (size_t i = 0; i < scan->tasks.n && stasis_scan_goes_on(scan); i++) {
        const StasisTask *task = &scan->tasks.items[i];
        if (task->tracer == 0)
            continue;
        int32_t tracer = stasis_scan_find_thread(scan, task->tracer);
        StasisEdge edge = {
            .relation = self,
            .a = task->process,
            .b = tracer < 0 ? STASIS_OUTSIDE : tracer,
            .class = STASIS_EDGE_OPAQUE,
            .object = stasis_scan_text(scan, "ptrace:%d", task->tid),
            .witness =
                stasis_scan_text(scan, "pid %d thread %d is traced by pid %d",
                                 scan->processes.items[task->process].pid, task->tid, task->tracer),
            .reason = "a task has one tracer, and CRIU would have to be it",
        };
        stasis_edge_add(scan, &edge);
        if (tracer >= 0) {
            edge.a = tracer;
            edge.b = task->process;
            edge.class = STASIS_EDGE_HARD;
            stasis_edge_add(scan, &edge);
        }
    }
}

const StasisScanner stasis_scan_ptrace = { "ptrace", "tracers and what they trace", scan_it };
