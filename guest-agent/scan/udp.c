/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UDP within this machine (udp(7)): a socket that is connected to an address names the one that is
 * bound to it. Datagrams in a queue are not in CRIU's image, so a request that was sent before the
 * instant is answered to nobody afterwards; programs on UDP bear loss, but not two of them
 * answering: cuttable. A socket that is not connected names nobody: what it talks to is not known
 * from looking. Loss on the way to other machines is UDP's own.
 */
#include "scan/inet.h"

#include <netinet/in.h>

static bool receives(const StasisSocket *c, const StasisSocket *from)
{
    if (c->netns != from->netns &&
        (stasis_inet_is_loopback(from->dst) || stasis_inet_is_any(c->src)))
        return false;
    if (memcmp(c->src, from->dst, 16) != 0 && !stasis_inet_is_any(c->src))
        return false;
    return c->dport == 0 || (c->dport == from->sport && memcmp(c->dst, from->src, 16) == 0);
}

static const char *name(StasisScan *scan, const StasisUser *user)
{
    const StasisSocket *s = stasis_socket_find(scan, user->key[1]);
    return stasis_scan_text(scan, "udp:%s", s == NULL ? "" : stasis_inet_text(scan, s));
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers by_ino = { 0 }, users = { 0 };
    const StasisSocket **by_port = stasis_inet_by_port(scan, IPPROTO_UDP);
    stasis_socket_users(scan, &by_ino);
    for (size_t i = 0; by_port != NULL && by_port[i] != NULL; i++) {
        const StasisSocket *s = by_port[i];
        if (s->ino == 0 || s->dport == 0)
            continue;
        for (const StasisSocket **c = stasis_inet_from_port(by_port, s->dport);
             *c != NULL && (*c)->sport == s->dport; c++) {
            if (*c == s || (*c)->ino == 0 || !receives(*c, s))
                continue;
            size_t first = users.n;
            stasis_socket_add_users(scan, &by_ino, s->ino, &users, s->ino);
            stasis_socket_add_users(scan, &by_ino, (*c)->ino, &users, s->ino);
            for (; first < users.n; first++)
                users.items[first].key[1] = s->ino;
        }
    }
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_CUTTABLE,
                      "one is connected to the address that the other receives at");
}

const StasisScanner stasis_scan_udp = { "udp", "UDP sockets that are connected to each other",
                                        scan_it };
