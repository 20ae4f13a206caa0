/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Open file descriptions of files, directories and devices that two processes have in common,
 * by fork or by SCM_RIGHTS: one position, one set of flags. Two dumps would have two positions, and
 * their writes would overwrite each other's: silently wrong. The file itself is no part of an
 * image, so the user may want that: cuttable. Nothing is lost where there is no position to lose:
 * a file only appended to (a log) is told, and no more. That two processes opened the same file,
 * each for itself, is no relation: what they do to it is on disk.
 */
#include "scan/internal.h"

#include <fcntl.h>

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "file:%s", user->fd->link);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 }, appended = { 0 };
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if (fd->description == 0 || (fd->kind != STASIS_FD_REGULAR &&
                                     fd->kind != STASIS_FD_DIRECTORY && fd->kind != STASIS_FD_CHAR))
            continue;
        bool append = fd->kind == STASIS_FD_REGULAR &&
                      (fd->flags & (O_APPEND | O_ACCMODE)) == (O_APPEND | O_WRONLY);
        stasis_users_add_fd(scan, append ? &appended : &users, fd->description, 0, 0, fd);
    }
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_CUTTABLE,
                      "one position in the file, which two copies would no longer share");
    stasis_users_link(self, scan, &appended, name, STASIS_EDGE_INFO,
                      "only appended to: no position to share");
}

const StasisScanner stasis_scan_file = { "file", "open file descriptions of files in common",
                                         scan_it };
