/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SysV shared memory (shmop(2)) that several processes have attached. CRIU carries segments with
 * the IPC namespace: a copy beside the one that goes on. Hard; and opaque for a process in the IPC
 * namespace of the agent itself, where CRIU refuses, since it could restore it only under another
 * number.
 *
 * The inode's number is the segment's ID, and all IPC namespaces have one device: equal numbers in
 * two namespaces are two segments. (A process that attaches, and then leaves its IPC namespace, is
 * not found: the kernel does not tell.)
 */
#include "scan/internal.h"

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "sysv-shm:%llu", (unsigned long long)user->key[0]);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->maps.n; i++) {
        const StasisMap *m = &scan->maps.items[i];
        const StasisProcess *p = &scan->processes.items[m->process];
        if (strncmp(m->name, "/SYSV", 5) != 0)
            continue;
        stasis_users_add_map(scan, &users, m->ino, p->ns[STASIS_NS_IPC], 0, m);
        if (p->ns[STASIS_NS_IPC] == scan->own_ns[STASIS_NS_IPC])
            stasis_ipc_refuse(self, scan, m->process,
                              stasis_scan_text(scan, "sysv-shm:%llu", (unsigned long long)m->ino),
                              "has attached");
    }
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_HARD,
                      "one memory: what one writes the other reads");
}

const StasisScanner stasis_scan_sysv_shm = { "sysv-shm", "SysV shared memory in common", scan_it };
