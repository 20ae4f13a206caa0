/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Controlling terminals: a process need not have its terminal open to get SIGINT, SIGTTOU or SIGHUP
 * from it, or to open it anew as /dev/tty. So it belongs to those who hold an end of it: without
 * the one who writes to the master, nobody would ever press Ctrl-C. Cuttable, as CRIU restores a
 * session onto another terminal (a shell job). Consoles and serial lines have no other end that is
 * a process.
 */
#include "scan/internal.h"

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "tty:%llu", (unsigned long long)user->key[1]);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    StasisPtyMasters masters = { 0 };
    stasis_pty_masters(scan, &masters);
    uint64_t instance, number;
    bool any = false;
    for (size_t i = 0; i < scan->processes.n; i++)
        if (!scan->processes.items[i].dead &&
            stasis_pty_of_process(scan, (int32_t)i, &masters, &instance, &number)) {
            stasis_users_add(scan, &users, instance, number, 0, (int32_t)i, "controlling terminal");
            any = true;
        }
    for (size_t i = 0; any && i < scan->fds.n; i++)
        if (stasis_pty_of_fd(scan, &scan->fds.items[i], &instance, &number))
            stasis_users_add_fd(scan, &users, instance, number, 0, &scan->fds.items[i]);
    /* Ends that are nobody's controlling terminal belong to scanner "pty". */
    stasis_users_sort(&users);
    for (size_t i = 0, n; i < users.n; i += n) {
        const StasisUser *first = &users.items[i];
        bool controls = false;
        n = stasis_users_span(first, users.n - i);
        for (size_t k = 0; k < n; k++)
            controls = controls || first[k].how != NULL;
        if (controls && first[0].process != first[n - 1].process)
            stasis_users_link_one(self, scan, first, n, name(scan, first), STASIS_EDGE_CUTTABLE,
                                  "its signals come from the terminal's other end");
    }
}

const StasisScanner stasis_scan_ctty = { "ctty", "a controlling terminal and who holds its ends",
                                         scan_it };
