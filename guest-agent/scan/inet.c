/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finding the other end of a connection within this machine: the socket whose addresses are the
 * same the other way round. */
#include "scan/inet.h"

#include <arpa/inet.h>
#include <stdlib.h>

static uint32_t ports(const StasisSocket *s)
{
    return (uint32_t)s->sport << 16 | s->dport;
}

static int compare_ports(const void *a, const void *b)
{
    uint32_t x = ports(*(const StasisSocket *const *)a), y = ports(*(const StasisSocket *const *)b);
    return (x > y) - (x < y);
}

void stasis_inet_list(StasisScan *scan, int protocol, StasisSocketList *ret)
{
    ret->items = stasis_scan_alloc(scan, (scan->sockets.n + 1) * sizeof *ret->items);
    ret->n = 0;
    for (size_t i = 0; ret->items != NULL && i < scan->sockets.n; i++)
        if (scan->sockets.items[i].protocol == protocol)
            ret->items[ret->n++] = &scan->sockets.items[i];
    if (ret->n > 0)
        qsort(ret->items, ret->n, sizeof *ret->items, compare_ports);
}

size_t stasis_inet_from(const StasisSocketList *list, uint16_t sport, uint16_t dport)
{
    size_t low = 0, high = list->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (ports(list->items[middle]) < ((uint32_t)sport << 16 | dport))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
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
