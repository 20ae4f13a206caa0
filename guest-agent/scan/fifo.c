/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * FIFOs (fifo(7)): a pipe with a name. CRIU opens it again by that name at restore, and puts back
 * what was in it, so that one end's dump alone doubles data. Silently wrong; cuttable, as the other
 * end may be one that is used to readers that come and go. All who have an end belong to it,
 * whichever. In packet mode (O_DIRECT) CRIU can't restore it: opaque.
 */
#include "scan/internal.h"

#include <fcntl.h>

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "fifo:%s", user->fd->link);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if (fd->kind != STASIS_FD_FIFO || (fd->flags & O_PATH) != 0)
            continue;
        stasis_users_add_fd(scan, &users, fd->dev, fd->ino, 0, fd);
        if ((fd->flags & O_DIRECT) != 0)
            stasis_edge_refuse_fd(self, scan, fd,
                                  "CRIU can't restore a pipe in packet mode (O_DIRECT)");
    }
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_CUTTABLE,
                      "what is in it goes from one to the other");
}

const StasisScanner stasis_scan_fifo = { "fifo", "users of one FIFO", scan_it,
                                         STASIS_COUNTED_PIPE };
