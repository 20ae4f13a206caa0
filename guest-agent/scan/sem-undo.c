/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Undo lists of SysV semaphores (SEM_UNDO, semop(2)): what the kernel gives back when a process
 * ends. The kernel shows them to nobody, CRIU does not carry them, and so a restored process that
 * ends leaves its semaphores taken: silently wrong, though many programs never rely on it. The user
 * must say so: an edge to the outside, to be cut by name. Two processes with one list (clone with
 * CLONE_SYSVSEM) belong together: hard.
 *
 * kcmp(2) compares the lists, and finds those that have none equal, too. We have none ourselves:
 * who is equal to us has none. But each process with threads has a list, if an empty one; so to
 * have one is a witness only for processes that are seen to use semaphores.
 */
#include "scan/internal.h"

#include <unistd.h>

#include <linux/kcmp.h>

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    stasis_kcmp_link(self, scan, KCMP_SYSVSEM, true, STASIS_EDGE_HARD,
                     "one list of semaphore adjustments");
    StasisUsers users = { 0 };
    stasis_sem_users(scan, &users);
    stasis_users_sort(&users);
    for (size_t i = 0; i < users.n; i++) {
        const StasisProcess *p = &scan->processes.items[users.items[i].process];
        if (stasis_kcmp(getpid(), p->live, KCMP_SYSVSEM, 0, 0) <= 0)
            continue;
        stasis_edge_add(
            scan, &(StasisEdge){
                      .relation = self,
                      .a = users.items[i].process,
                      .b = STASIS_OUTSIDE,
                      .class = STASIS_EDGE_CUTTABLE,
                      .object = stasis_scan_text(scan, "undo:%d", p->pid),
                      .witness = stasis_scan_text(
                          scan, "pid %d uses SysV semaphores, and may have used SEM_UNDO", p->pid),
                      .reason = "an image does not have what the kernel would give back if it "
                                "ended with a semaphore taken (SEM_UNDO)" });
    }
}

const StasisScanner stasis_scan_sem_undo = { "sem-undo", "undo lists of SysV semaphores", scan_it };
