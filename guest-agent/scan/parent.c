/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Parenthood. CRIU dumps trees: a process comes with all its descendants, zombies too, or
 * not at all, so a child follows its parent, and this can't be cut. It does not go the other way:
 * the parent of a tree's root always stays outside (it would end at PID 1). What that parent loses
 * is the child's exit status, and it knows that from any child that is killed.
 */
#include "scan/internal.h"

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    for (size_t i = 0; i < scan->processes.n; i++) {
        const StasisProcess *p = &scan->processes.items[i];
        int32_t parent = stasis_scan_find(scan, p->ppid);
        if (parent < 0)
            continue;
        stasis_edge_add(
            scan, &(StasisEdge){ .relation = self,
                                 .a = parent,
                                 .b = (int32_t)i,
                                 .class = STASIS_EDGE_HARD,
                                 .object = stasis_scan_text(scan, "parent:%d-%d", p->ppid, p->pid),
                                 .witness = stasis_scan_text(scan, "pid %d is the parent of pid %d",
                                                             p->ppid, p->pid),
                                 .reason = "a process is dumped with all its descendants" });
    }
}

const StasisScanner stasis_scan_parent = { "parent", "children come with their parent", scan_it };
