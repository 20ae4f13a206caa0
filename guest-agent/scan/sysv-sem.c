/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SysV semaphores (semop(2)). That two processes are in one IPC namespace, and could use a set, is
 * no witness: everything in a machine is. What the kernel shows of who does: for each semaphore
 * the process that operated on it last (GETPID), and who waits in semop for a set
 * (/proc/PID/syscall). Both are facts of the past or of now; a user that is neither is not seen
 * (count what happens, or cut by starting the group in a namespace of its own). CRIU carries a set
 * with its namespace, so that one user's copy counts on without the other: silently wrong;
 * cuttable. In the agent's own namespace CRIU does not even take the set along: opaque.
 */
#include "scan/internal.h"

#include <sched.h>
#include <sys/sem.h>
#include <sys/syscall.h>

typedef union {
    int val;
    struct semid_ds *set;
    struct seminfo *info;
} Argument;

static void visit(StasisScan *scan, int32_t process, void *data)
{
    struct seminfo info;
    struct semid_ds set;
    uint64_t ipcns = scan->processes.items[process].ns[STASIS_NS_IPC];
    int last = semctl(0, 0, SEM_INFO, (Argument){ .info = &info });
    for (int i = 0; i <= last && stasis_scan_goes_on(scan); i++) {
        int id = semctl(i, 0, SEM_STAT, (Argument){ .set = &set });
        for (unsigned long k = 0; id >= 0 && k < set.sem_nsems && stasis_scan_goes_on(scan); k++)
            stasis_ipc_last(scan, data, id, ipcns, semctl(id, (int)k, GETPID),
                            "operated last on a semaphore");
    }
}

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "sysv-sem:%llu", (unsigned long long)user->key[0]);
}

void stasis_sem_users(StasisScan *scan, StasisUsers *users)
{
    static const long calls[] = { SYS_semop, SYS_semtimedop, SYS_semtimedop };
    stasis_scan_enter_each(scan, STASIS_NS_IPC, CLONE_NEWIPC, visit, users);
    stasis_ipc_waiting(scan, users, calls, "waits in semop");
    stasis_talked_users(scan, users, STASIS_COUNTED_SEM);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    stasis_sem_users(scan, &users);
    stasis_ipc_link(self, scan, &users, name, "a semaphore counts what both do");
}

const StasisScanner stasis_scan_sysv_sem = { "sysv-sem", "SysV semaphores that several operate on",
                                             scan_it, STASIS_COUNTED_SEM };
