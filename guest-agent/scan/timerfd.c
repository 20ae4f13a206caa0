/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * timerfd_create(2): one timer that several processes have by fork or SCM_RIGHTS: a tick that one
 * has read the other does not get, and setting it sets it for both. A copy would tick beside it:
 * silently wrong. Hard.
 */
#include "scan/internal.h"

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    stasis_anon_link(self, scan, "timerfd", STASIS_EDGE_HARD,
                     "one timer: a tick read by one is gone for the other");
}

const StasisScanner stasis_scan_timerfd = { "timerfd", "timers in common", scan_it };
