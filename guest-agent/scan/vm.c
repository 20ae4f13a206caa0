/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One address space in two processes (clone with CLONE_VM but without CLONE_THREAD, or a vfork
 * that has not called exec yet). A dump of one would copy memory that the other goes on writing,
 * and restore two memories where there was one: silently wrong, and CRIU has no option for an end
 * outside. Hard.
 */
#include "scan/internal.h"

#include <linux/kcmp.h>

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    stasis_kcmp_link(self, scan, KCMP_VM, false, STASIS_EDGE_HARD,
                     "one memory: a copy of one alone would be a second one");
}

const StasisScanner stasis_scan_vm = { "memory", "one address space (CLONE_VM)", scan_it };
