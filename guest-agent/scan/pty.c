/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pseudo-terminals (pty(7)): master and slave are two ends of one buffer with settings of its own
 * (termios, window size, packet mode). A dump of the slave's side alone loses what is in the
 * buffer and, on restore, who reads it; of the master's side alone leaves the slave's side hung up.
 * CRIU takes the slave's side as a shell job on a new terminal: cuttable.
 */
#include "scan/internal.h"

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "pty:%llu", (unsigned long long)user->key[1]);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    uint64_t instance, number;
    for (size_t i = 0; i < scan->fds.n; i++)
        if (stasis_pty_of_fd(scan, &scan->fds.items[i], &instance, &number))
            stasis_users_add_fd(scan, &users, instance, number, 0, &scan->fds.items[i]);
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_CUTTABLE,
                      "what one end writes the other reads");
}

const StasisScanner stasis_scan_pty = { "pty", "ends of one pseudo-terminal", scan_it };
