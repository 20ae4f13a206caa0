/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SysV message queues (msgop(2)). Witnesses, as for semaphores: who sent last, who received last
 * (msg_lspid, msg_lrpid), and who waits in msgsnd or msgrcv now. A copy of the queue beside the one
 * that goes on delivers its messages twice: silently wrong; cuttable; opaque in the agent's own
 * IPC namespace, as CRIU does not take the queue along there.
 */
#include "scan/internal.h"

#include <sched.h>
#include <sys/msg.h>
#include <sys/syscall.h>

static void visit(StasisScan *scan, int32_t process, void *data)
{
    struct msginfo info;
    struct msqid_ds queue;
    uint64_t ipcns = scan->processes.items[process].ns[STASIS_NS_IPC];
    int last = msgctl(0, MSG_INFO, (struct msqid_ds *)&info);
    for (int i = 0; i <= last && stasis_scan_goes_on(scan); i++) {
        int id = msgctl(i, MSG_STAT, &queue);
        if (id < 0)
            continue;
        if (queue.msg_qnum > 0)
            stasis_talked_in_flight(scan, STASIS_COUNTED_MSG, (uint64_t)id);
        stasis_ipc_last(scan, data, id, ipcns, queue.msg_lspid, "sent last to a queue");
        stasis_ipc_last(scan, data, id, ipcns, queue.msg_lrpid, "received last from a queue");
    }
}

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "sysv-msg:%llu", (unsigned long long)user->key[0]);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    static const long calls[] = { SYS_msgrcv, SYS_msgsnd, SYS_msgsnd };
    StasisUsers users = { 0 };
    stasis_scan_enter_each(scan, STASIS_NS_IPC, CLONE_NEWIPC, visit, &users);
    stasis_ipc_waiting(scan, &users, calls, "waits in msgsnd or msgrcv");
    stasis_talked_users(scan, &users, STASIS_COUNTED_MSG);
    stasis_ipc_link(self, scan, &users, name, "what one sends the other receives");
}

const StasisScanner stasis_scan_sysv_msg = { "sysv-msg", "SysV queues that several use", scan_it,
                                             STASIS_COUNTED_MSG };
