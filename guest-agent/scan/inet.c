/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finding the other end of a connection within this machine: the socket whose addresses are the
 * same the other way round. */
#include "scan/inet.h"

#include <arpa/inet.h>
#include <stdlib.h>

static int compare_ports(const void *a, const void *b)
{
    const StasisSocket *x = *(const StasisSocket *const *)a, *y = *(const StasisSocket *const *)b;
    return (x->sport > y->sport) - (x->sport < y->sport);
}

const StasisSocket **stasis_inet_by_port(StasisScan *scan, int protocol)
{
    const StasisSocket **list = stasis_scan_alloc(scan, (scan->sockets.n + 1) * sizeof *list);
    size_t n = 0;
    for (size_t i = 0; list != NULL && i < scan->sockets.n; i++)
        if (scan->sockets.items[i].protocol == protocol)
            list[n++] = &scan->sockets.items[i];
    if (n > 0)
        qsort(list, n, sizeof *list, compare_ports);
    return list;
}

const StasisSocket **stasis_inet_from_port(const StasisSocket **by_port, uint16_t port)
{
    size_t low = 0, high = 0;
    while (by_port[high] != NULL)
        high++;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (by_port[middle]->sport < port)
            low = middle + 1;
        else
            high = middle;
    }
    return by_port + low;
}

bool stasis_inet_is_any(const uint8_t address[16])
{
    static const uint8_t any[16];
    return memcmp(address, any, 16) == 0;
}

bool stasis_inet_is_loopback(const uint8_t address[16])
{
    static const uint8_t one[16] = { [15] = 1 };
    static const uint8_t mapped[13] = { [10] = 0xff, [11] = 0xff, [12] = 127 };
    return memcmp(address, one, 16) == 0 || memcmp(address, mapped, 13) == 0;
}

static const char *end_text(StasisScan *scan, const uint8_t address[16], uint16_t port)
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    char text[INET6_ADDRSTRLEN] = "";
    bool v4 = memcmp(address, mapped, 12) == 0;
    inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? address + 12 : address, text, sizeof text);
    return stasis_scan_text(scan, v4 ? "%s:%u" : "[%s]:%u", text, port);
}

const char *stasis_inet_text(StasisScan *scan, const StasisSocket *s)
{
    const char *here = end_text(scan, s->src, s->sport), *there = end_text(scan, s->dst, s->dport);
    bool first = s->sport < s->dport || (s->sport == s->dport && memcmp(s->src, s->dst, 16) <= 0);
    return stasis_scan_text(scan, "%s-%s", first ? here : there, first ? there : here);
}
