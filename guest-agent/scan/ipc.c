/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the scanners of SysV IPC have in common: who waits in a system call, and the refusal. */
#include "scan/internal.h"

#include <stdio.h>
#include <stdlib.h>

void stasis_ipc_refuse(const StasisScanner *self, StasisScan *scan, int32_t process,
                       const char *object, const char *how)
{
    stasis_edge_add(
        scan,
        &(StasisEdge){ .relation = self,
                       .a = process,
                       .b = process,
                       .class = STASIS_EDGE_OPAQUE,
                       .object = object,
                       .witness = stasis_scan_text(scan, "pid %d %s %s",
                                                   scan->processes.items[process].pid, how, object),
                       .reason = "CRIU takes SysV IPC only with an IPC namespace of its "
                                 "own: start the group in one (stasis-session)" });
}

void stasis_ipc_waiting(StasisScan *scan, StasisUsers *users, const long calls[3], const char *how)
{
    for (size_t i = 0; i < scan->tasks.n && stasis_scan_goes_on(scan); i++) {
        const StasisTask *task = &scan->tasks.items[i];
        const StasisProcess *p = &scan->processes.items[task->process];
        char path[64], *end;
        if (p->dead)
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%d/syscall", p->pid, task->tid);
        char *text = stasis_read_text(scan, -1, path, STASIS_TEXT_ONE);
        long call = text == NULL ? -1 : strtol(text, &end, 10);
        if (text == NULL || end == text ||
            (call != calls[0] && call != calls[1] && call != calls[2]))
            continue; /* it runs, has ended, or waits elsewhere */
        stasis_users_add(scan, users, strtoull(end, NULL, 16), p->ns[STASIS_NS_IPC], 0,
                         task->process, how);
    }
}

void stasis_ipc_last(StasisScan *scan, StasisUsers *users, int id, uint64_t ipcns, pid_t pid,
                     const char *how)
{
    int32_t process = stasis_scan_find(scan, pid);
    if (process >= 0 && scan->processes.items[process].ns[STASIS_NS_IPC] == ipcns)
        stasis_users_add(scan, users, (uint64_t)id, ipcns, 0, process, how);
}

void stasis_ipc_link(const StasisScanner *self, StasisScan *scan, StasisUsers *users,
                     StasisObjectName name, const char *reason)
{
    stasis_users_sort(users);
    for (size_t i = 0; i < users->n; i++)
        if (users->items[i].key[1] == scan->own_ns[STASIS_NS_IPC] &&
            (i == 0 || users->items[i].process != users->items[i - 1].process ||
             users->items[i].key[0] != users->items[i - 1].key[0]))
            stasis_ipc_refuse(self, scan, users->items[i].process, name(scan, &users->items[i]),
                              "uses");
    stasis_users_link(self, scan, users, name, STASIS_EDGE_CUTTABLE, reason);
}
