/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* UNIX connections that a cut has parted: for whoever takes the one end alone. */
#include "scan/internal.h"

#include <stdio.h>
#include <sys/socket.h>

static bool is_here(const StasisScan *scan, uint64_t ino)
{
    for (size_t i = 0; i < scan->fds.n; i++)
        if (scan->fds.items[i].kind == STASIS_FD_SOCKET && scan->fds.items[i].ino == ino)
            return true;
    return false;
}

static bool has(const StasisHalf *halves, size_t n, uint64_t ino)
{
    for (size_t i = 0; i < n; i++)
        if (halves[i].ino == ino)
            return true;
    return false;
}

bool stasis_scan_halves(const StasisScanLimits *limits, StasisHalf *ret, size_t max, size_t *ret_n)
{
    StasisScan scan;
    bool good = true;
    *ret_n = 0;
    stasis_scan_collect(&scan, limits);
    stasis_collect_sockets(&scan);
    for (size_t i = 0; good && i < scan.fds.n; i++) {
        const StasisFd *fd = &scan.fds.items[i];
        const StasisSocket *s =
            fd->kind == STASIS_FD_SOCKET ? stasis_socket_find(&scan, fd->ino) : NULL;
        if (s == NULL || s->family != AF_UNIX || s->type == SOCK_DGRAM || s->peer == 0 ||
            is_here(&scan, s->peer) || has(ret, *ret_n, s->ino))
            continue;
        good = *ret_n < max;
        if (!good)
            break;
        StasisHalf *half = &ret[(*ret_n)++];
        const StasisSocket *peer = stasis_socket_find(&scan, s->peer);
        *half = (StasisHalf){ .ino = s->ino,
                              .log = stasis_socket_is_log(peer),
                              .agent = stasis_socket_is_agent(peer) };
        snprintf(half->comm, sizeof half->comm, "%s", scan.processes.items[fd->process].comm);
    }
    good = good && scan.failure == STASIS_SCAN_OK;
    stasis_scan_clear(&scan);
    return good;
}
