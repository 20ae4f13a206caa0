/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Signals that one process sent another (kill(2)), as they were counted. One that is not taken yet
 * lies with its receiver, and is in its image; the sender keeps nothing of it. So nothing is lost
 * whoever is left out: told, not followed.
 */
#include "scan/internal.h"

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    const StasisCounts *counts = scan->limits.counts;
    for (size_t i = 0; counts != NULL && i < counts->n; i++) {
        const StasisCount *c = &counts->items[i];
        if (c->key.kind != STASIS_COUNTED_SIGNAL)
            continue;
        int32_t from = stasis_scan_find(scan, (pid_t)c->key.pid);
        int32_t to = stasis_scan_find(scan, (pid_t)c->key.object);
        if (from < 0 || to < 0)
            continue;
        const char *object =
            stasis_scan_text(scan, "signal:%u-%u", c->key.pid, (unsigned)c->key.object);
        stasis_edge_add(
            scan, &(StasisEdge){ .relation = self,
                                 .a = from,
                                 .b = to,
                                 .class = STASIS_EDGE_INFO,
                                 .counted = true,
                                 .talked = c->sent,
                                 .object = object,
                                 .witness = stasis_scan_text(scan, "pid %u sent pid %u signals",
                                                             c->key.pid, (unsigned)c->key.object),
                                 .reason = "one that is not taken yet is the receiver's" });
    }
}

const StasisScanner stasis_scan_signal = { "signal", "signals sent, where they are counted",
                                           scan_it, STASIS_COUNTED_SIGNAL };
