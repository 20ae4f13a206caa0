/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * eventfd(2): a counter that several processes have by fork or SCM_RIGHTS. A dump of one of them
 * would have a counter of its own that nobody else ever raises: silently wrong, and CRIU has no
 * way to give one in from outside. Hard. All anonymous inodes are one inode, so the open file
 * descriptions are compared (kcmp).
 */
#include "scan/internal.h"

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    stasis_anon_link(self, scan, "eventfd", STASIS_EDGE_HARD,
                     "one counter: what one adds the other takes");
}

const StasisScanner stasis_scan_eventfd = { "eventfd", "event counters in common", scan_it };
