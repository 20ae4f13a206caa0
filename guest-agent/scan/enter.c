/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Into other namespaces and back: sockets and SysV objects are listed for the caller's own network
 * and IPC namespace only. setns(2) acts on the calling thread alone for these kinds, so nothing
 * else of the program is moved. A thread that can't come back must not go on in a foreign
 * namespace: the pass fails, and the next visit starts from where it is known to be.
 */
#include "scan/internal.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

static bool seen_before(const StasisScan *scan, int ns, int32_t process)
{
    for (int32_t i = 0; i < process; i++)
        if (scan->processes.items[i].ns[ns] == scan->processes.items[process].ns[ns])
            return true;
    return false;
}

static int open_ns(pid_t pid, int ns)
{
    char path[64];
    if (pid == 0)
        snprintf(path, sizeof path, "/proc/thread-self/ns/%s", stasis_ns_names[ns]);
    else
        snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, stasis_ns_names[ns]);
    return open(path, O_RDONLY | O_CLOEXEC);
}

void stasis_scan_enter_each(StasisScan *scan, int ns, int clone_flag,
                            void (*visit)(StasisScan *scan, int32_t process, void *data),
                            void *data)
{
    int home = open_ns(0, ns);
    for (int32_t i = 0; i < (int32_t)scan->processes.n && stasis_scan_goes_on(scan); i++) {
        const StasisProcess *p = &scan->processes.items[i];
        if (p->ns[ns] == 0 || seen_before(scan, ns, i))
            continue;
        if (p->ns[ns] == scan->own_ns[ns]) {
            visit(scan, i, data);
            continue;
        }
        int there = home < 0 ? -1 : open_ns(p->live, ns);
        if (there < 0)
            continue; /* it has ended meanwhile: the next pass tells */
        if (setns(there, clone_flag) == 0) {
            visit(scan, i, data);
            if (setns(home, clone_flag) < 0)
                stasis_scan_fail(scan, STASIS_SCAN_BROKEN);
        }
        close(there);
    }
    if (home >= 0)
        close(home);
}
