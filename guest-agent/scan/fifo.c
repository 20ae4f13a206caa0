/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * FIFOs (fifo(7)): a pipe with a name. CRIU opens it again by that name at restore, and puts back
 * what was in it, so that one end's dump alone doubles data. Silently wrong; cuttable, as the other
 * end may be one that is used to readers that come and go. All who have an end belong to it,
 * whichever. In packet mode (O_DIRECT) CRIU can't restore it: opaque.
 */
#include "scan/internal.h"

static const char *name_of(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "fifo:%s", user->fd->link);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    stasis_pipe_link(self, scan, STASIS_FD_FIFO, name_of);
}

const StasisScanner stasis_scan_fifo = { "fifo", "users of one FIFO", scan_it,
                                         STASIS_COUNTED_PIPE };
