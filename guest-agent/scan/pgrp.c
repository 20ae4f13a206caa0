/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Process groups: kill(2) with a negative ID, and the terminal's signals, reach all members. A
 * group lies within one session, so this finds nothing new until the session is cut: then a
 * pipeline still stays together. A copy of one member would no longer get what is sent to the
 * group. Cuttable.
 */
#include "scan/internal.h"

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "pgrp:%d", (int)user->key[0]);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->processes.n; i++)
        if (scan->processes.items[i].pgrp > 0)
            stasis_users_add(scan, &users, (uint64_t)scan->processes.items[i].pgrp, 0, 0,
                             (int32_t)i, NULL);
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_CUTTABLE,
                      "signals to the group reach all members");
}

const StasisScanner stasis_scan_pgrp = { "pgrp", "members of one process group", scan_it };
