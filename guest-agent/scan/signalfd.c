/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * signalfd(2): a read gives the reader's own signals, whoever made the descriptor. What two
 * processes have in common is only the mask, which is set once and for all: a copy is as good.
 * Told, and no more.
 */
#include "scan/internal.h"

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    stasis_anon_link(self, scan, "signalfd", STASIS_EDGE_INFO,
                     "each reads its own signals from it");
}

const StasisScanner stasis_scan_signalfd = { "signalfd", "signal descriptors in common", scan_it };
