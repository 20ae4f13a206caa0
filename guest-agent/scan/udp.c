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
    const StasisSocket *s = stasis_socket_find(scan, user->key[0]);
    return stasis_scan_text(scan, "udp:%s", s == NULL ? "" : stasis_inet_text(scan, s));
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers by_ino = { 0 }, users = { 0 };
    StasisSocketList list;
    stasis_inet_list(scan, IPPROTO_UDP, &list);
    stasis_socket_users(scan, &by_ino);
    for (size_t i = 0; i < list.n && stasis_scan_goes_on(scan); i++) {
        const StasisSocket *s = list.items[i];
        if (s->ino == 0 || s->dport == 0)
            continue;
        for (size_t k = stasis_inet_from(&list, s->dport, 0);
             k < list.n && list.items[k]->sport == s->dport; k++) {
            const StasisSocket *c = list.items[k];
            if (c == s || c->ino == 0 || !receives(c, s))
                continue;
            stasis_socket_add_users(scan, &by_ino, s->ino, &users, s->ino);
            stasis_socket_add_users(scan, &by_ino, c->ino, &users, s->ino);
        }
    }
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_CUTTABLE,
                      "one is connected to the address that the other receives at");
}

const StasisScanner stasis_scan_udp = { "udp", "UDP sockets that are connected to each other",
                                        scan_it, STASIS_COUNTED_SOCKET };
