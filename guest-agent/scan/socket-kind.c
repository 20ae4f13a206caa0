/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sockets of families that CRIU does not know (vsock, Bluetooth, ALG, TIPC, SCTP, MPTCP, ping, XDP
 * …), and UNIX sockets that sock_diag does not show (a kernel without unix_diag, or a network
 * namespace that no process is in): of those nobody can say who is at the other end. Opaque. The
 * kernel tells a socket's protocol as an extended attribute of its descriptor (net/socket.c,
 * "system.sockprotoname").
 */
#include "scan/internal.h"

#include <limits.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/xattr.h>
#include <unistd.h>

static bool is_known(const char *protocol)
{
    static const char *const known[] = { "TCP",       "TCPv6", "UDP",   "UDPv6",   "UDP-Lite",
                                         "UDPLITEv6", "RAW",   "RAWv6", "NETLINK", "PACKET" };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(protocol, known[i]) == 0)
            return true;
    return false;
}

static void check(const StasisScanner *self, StasisScan *scan, const StasisFd *fd)
{
    char path[64], protocol[64] = "", link[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", fd->kcmp_pid, fd->kcmp_fd);
    ssize_t n = getxattr(path, "system.sockprotoname", protocol, sizeof protocol - 1);
    ssize_t len = readlink(path, link, sizeof link - 1);
    /* Closed meanwhile, and that is why sock_diag did not show it. */
    if (n <= 0 || len < 0)
        return;
    link[len] = '\0';
    if (strcmp(link, fd->link) != 0 || is_known(protocol))
        return;
    if (strncmp(protocol, "UNIX", 4) == 0)
        stasis_edge_refuse_fd(self, scan, fd,
                              "this kernel does not tell a UNIX socket's other end (unix_diag)");
    else
        stasis_edge_refuse_fd(self, scan, fd,
                              stasis_scan_text(scan, "CRIU knows no sockets of kind %s", protocol));
}

/* One of MPTCP is listed as if it were one of TCP. */
static bool is_unix(const StasisSocket *listed)
{
    return listed != NULL && listed->family == AF_UNIX;
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    for (size_t i = 0; i < scan->fds.n && stasis_scan_goes_on(scan); i++)
        if (scan->fds.items[i].kind == STASIS_FD_SOCKET &&
            !is_unix(stasis_socket_find(scan, scan->fds.items[i].ino)))
            check(self, scan, &scan->fds.items[i]);
}

const StasisScanner stasis_scan_socket_kind = { "socket-kind", "sockets that CRIU can't dump",
                                                scan_it };
