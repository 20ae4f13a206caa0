/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sockets that several processes have open, by fork or by SCM_RIGHTS, of whatever family: one
 * queue, from which each takes what the others then don't get; one listener, of which any may
 * accept. A dump of one of them copies the queue: silently wrong. Cuttable: a listening socket that
 * a service manager keeps is passed in again at restore.
 */
#include "scan/internal.h"

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return user->fd->link;
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->fds.n; i++)
        if (scan->fds.items[i].kind == STASIS_FD_SOCKET)
            stasis_users_add_fd(scan, &users, scan->fds.items[i].ino, 0, 0, &scan->fds.items[i]);
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_CUTTABLE,
                      "one socket: what one takes from it the others don't get");
}

const StasisScanner stasis_scan_socket = { "socket", "sockets open in several processes", scan_it,
                                           STASIS_COUNTED_SOCKET };
