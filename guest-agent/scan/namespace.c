/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Namespaces. To be in one together is no communication: told (for those that are not the agent's
 * own), and no more. One thing is: a process in a PID namespace below ours lives only as long as
 * that namespace's init, and CRIU restores it only together with that init: hard, towards the init.
 */
#include "scan/internal.h"

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "%s:[%llu]", stasis_ns_names[user->key[0]],
                            (unsigned long long)user->key[1]);
}

static int32_t find_init(const StasisScan *scan, uint64_t pidns)
{
    for (size_t i = 0; i < scan->processes.n; i++)
        if (scan->processes.items[i].inner_pid == 1 &&
            scan->processes.items[i].ns[STASIS_NS_PID] == pidns)
            return (int32_t)i;
    return -1;
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->processes.n && stasis_scan_goes_on(scan); i++) {
        const StasisProcess *p = &scan->processes.items[i];
        for (uint64_t k = 0; k < STASIS_N_NS; k++)
            if (p->ns[k] != 0 && p->ns[k] != scan->own_ns[k])
                stasis_users_add(scan, &users, k, p->ns[k], 0, (int32_t)i, NULL);
        uint64_t pidns = p->ns[STASIS_NS_PID];
        if (pidns == 0 || pidns == scan->own_ns[STASIS_NS_PID] || p->inner_pid == 1)
            continue;
        int32_t init = find_init(scan, pidns);
        if (init < 0)
            continue;
        stasis_edge_add(
            scan, &(StasisEdge){
                      .relation = self,
                      .a = (int32_t)i,
                      .b = init,
                      .class = STASIS_EDGE_HARD,
                      .object = stasis_scan_text(scan, "pid:[%llu]", (unsigned long long)pidns),
                      .witness = stasis_scan_text(
                          scan, "pid %d lives in the PID namespace whose init is pid %d", p->pid,
                          scan->processes.items[init].pid),
                      .reason = "it is restored only together with that init" });
    }
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_INFO,
                      "to be in one namespace is no communication");
}

const StasisScanner stasis_scan_namespace = { "namespace", "namespaces in common", scan_it };
