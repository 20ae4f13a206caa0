/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One table of signal handlers in two processes (CLONE_SIGHAND, which needs CLONE_VM, so that
 * "memory" finds the same pairs; but not after one has ended its sharing of memory by exec: then
 * both end). sigaction(2) in one changes the other. Hard.
 */
#include "scan/internal.h"

#include <linux/kcmp.h>

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    stasis_kcmp_link(self, scan, KCMP_SIGHAND, false, STASIS_EDGE_HARD,
                     "one table of signal handlers: a copy of one alone would have its own");
}

const StasisScanner stasis_scan_sighand = { "sighand",
                                            "one table of signal handlers (CLONE_SIGHAND)",
                                            scan_it };
