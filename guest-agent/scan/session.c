/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sessions (setsid(2), credentials(7)). A member without its leader can be restored only as a
 * "shell job", into whatever session the restore runs in: then job control and SIGHUP at the end of
 * the terminal are those of the new session. That is a change that the user must want: cuttable.
 * The scanning process's own session is nothing special; sessions outside our PID namespace show
 * as 0 and are left out, since nobody of theirs could come along.
 */
#include "scan/internal.h"

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "session:%d", (int)user->key[0]);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->processes.n; i++)
        if (scan->processes.items[i].sid > 0)
            stasis_users_add(scan, &users, (uint64_t)scan->processes.items[i].sid, 0, 0, (int32_t)i,
                             NULL);
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_CUTTABLE,
                      "a session comes whole, or its members are restored as a shell job");
}

const StasisScanner stasis_scan_session = { "session", "members of one session", scan_it };
