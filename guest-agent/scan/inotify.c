/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * inotify(7) and fanotify(7): one queue of events that several processes have by fork or
 * SCM_RIGHTS; an event that one reads the other does not get, and watches are common. A copy has
 * its own queue: silently wrong. Hard. What is watched is files, not processes.
 */
#include "scan/internal.h"

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    stasis_anon_link(self, scan, "inotify", STASIS_EDGE_HARD,
                     "one queue of events: what one reads is gone for the other");
    stasis_anon_link(self, scan, "fanotify", STASIS_EDGE_HARD,
                     "one queue of events: what one reads is gone for the other");
}

const StasisScanner stasis_scan_inotify = { "inotify", "watches of files in common", scan_it };
