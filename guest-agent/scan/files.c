/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One table of descriptors in two processes (CLONE_FILES). What one opens or closes, the other has
 * or loses; a dump of one would make it two tables, silently. CRIU restores a table to all tasks
 * that had it, if they are in the same dump. Hard.
 */
#include "scan/internal.h"

#include <linux/kcmp.h>

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    stasis_kcmp_link(self, scan, KCMP_FILES, false, STASIS_EDGE_HARD,
                     "one table of descriptors: a copy of one alone would be a second one");
}

const StasisScanner stasis_scan_files = { "files", "one table of descriptors (CLONE_FILES)",
                                          scan_it };
