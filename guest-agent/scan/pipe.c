/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Anonymous pipes (pipe(2)). CRIU dumps one end without a word: the reader gets its own copy of
 * what was in the pipe, and after restore an end of file where the writer was. Silently wrong; but
 * a pipe can be given to CRIU from outside (--external, --inherit-fd), losing what is in it:
 * cuttable. All who have an end belong to it, whichever. In packet mode (O_DIRECT) CRIU can't
 * restore it: opaque.
 */
#include "scan/internal.h"

#include <fcntl.h>

void stasis_pipe_link(const StasisScanner *self, StasisScan *scan, StasisFdKind kind,
                      StasisObjectName name)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if (fd->kind != kind || (fd->flags & O_PATH) != 0)
            continue;
        stasis_users_add_fd(scan, &users, fd->dev, fd->ino, 0, fd);
        if ((fd->flags & O_DIRECT) != 0)
            stasis_edge_refuse_fd(self, scan, fd,
                                  "CRIU can't restore a pipe in packet mode (O_DIRECT)");
    }
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_CUTTABLE,
                      "what is in it goes from one to the other");
}

static const char *name_of(StasisScan *scan, const StasisUser *user)
{
    return user->fd->link;
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    stasis_pipe_link(self, scan, STASIS_FD_PIPE, name_of);
}

const StasisScanner stasis_scan_pipe = { "pipe", "ends of one anonymous pipe", scan_it,
                                         STASIS_COUNTED_PIPE };
