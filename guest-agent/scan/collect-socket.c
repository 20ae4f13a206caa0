/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All sockets of all network namespaces that a process is in. Taken after the descriptors: a socket
 * that a process had, and which is not here, is gone or of a kind that sock_diag does not list. */
#include "scan/internal.h"

#include <linux/netlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void visit(StasisScan *scan, int32_t process, void *data)
{
    uint64_t netns = scan->processes.items[process].ns[STASIS_NS_NET];
    static const int families[] = { AF_INET, AF_INET6 }, protocols[] = { IPPROTO_TCP, IPPROTO_UDP };
    int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (netlink >= 0)
        stasis_diag_unix(scan, netlink, netns);
    for (int i = 0; i < 4; i++)
        if (netlink < 0 ||
            !stasis_diag_inet(scan, netlink, netns, families[i / 2], protocols[i % 2]))
            stasis_collect_procnet(scan, process, families[i / 2], protocols[i % 2]);
    if (netlink >= 0)
        close(netlink);
}

static int compare_sockets(const void *a, const void *b)
{
    const StasisSocket *x = a, *y = b;
    return x->ino < y->ino ? -1 : x->ino > y->ino;
}

void stasis_collect_sockets(StasisScan *scan)
{
    stasis_scan_enter_each(scan, STASIS_NS_NET, CLONE_NEWNET, visit, NULL);
    if (scan->sockets.n > 0)
        qsort(scan->sockets.items, scan->sockets.n, sizeof *scan->sockets.items, compare_sockets);
}

const StasisSocket *stasis_socket_find(const StasisScan *scan, uint64_t ino)
{
    const StasisSocket key = { .ino = ino };
    if (ino == 0 || scan->sockets.n == 0)
        return NULL;
    return bsearch(&key, scan->sockets.items, scan->sockets.n, sizeof key, compare_sockets);
}

void stasis_socket_users(StasisScan *scan, StasisUsers *ret_by_ino)
{
    for (size_t i = 0; i < scan->fds.n; i++)
        if (scan->fds.items[i].kind == STASIS_FD_SOCKET)
            stasis_users_add_fd(scan, ret_by_ino, scan->fds.items[i].ino, 0, 0,
                                &scan->fds.items[i]);
    stasis_users_sort(ret_by_ino);
}

const StasisFd *stasis_socket_add_users(StasisScan *scan, const StasisUsers *by_ino, uint64_t ino,
                                        StasisUsers *users, uint64_t key)
{
    const StasisFd *first = NULL;
    size_t low = 0, high = by_ino->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (by_ino->items[middle].key[0] < ino)
            low = middle + 1;
        else
            high = middle;
    }
    for (; ino != 0 && low < by_ino->n && by_ino->items[low].key[0] == ino; low++) {
        if (first == NULL)
            first = by_ino->items[low].fd;
        stasis_users_add_fd(scan, users, key, 0, 0, by_ino->items[low].fd);
    }
    return first;
}
