/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One root, working directory and umask in two processes (CLONE_FS): chdir(2) in one moves the
 * other. A dump of one would silently separate them. Hard.
 */
#include "scan/internal.h"

#include <linux/kcmp.h>

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    stasis_kcmp_link(self, scan, KCMP_FS, false, STASIS_EDGE_HARD,
                     "one working directory: a copy of one alone would have its own");
}

const StasisScanner stasis_scan_fs = { "fs", "one root, working directory and umask (CLONE_FS)",
                                       scan_it };
