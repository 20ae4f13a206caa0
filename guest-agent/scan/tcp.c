/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP connections (tcp(7)) whose two ends are both in this machine. CRIU dumps an end with the
 * option for established connections, with its queues; the other end, if it goes on, acknowledges
 * and sends what the copy does not know of: the copy is silently of another moment. So both come,
 * or the user says by name that the connection may break: cuttable. A connection to another machine
 * has an end that can't come: an edge to the outside, to be cut by name.
 *
 * Loopback addresses mean one network namespace; other addresses are looked for in all of them, as
 * containers are connected by virtual Ethernet. A client that is not accepted yet belongs to the
 * listener; it can't be dumped, as CRIU does not take what waits to be accepted, and the client
 * would find its connection broken, silently: opaque.
 */
#include "scan/inet.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

static const StasisSocket *find_reverse(const StasisSocketList *list, const StasisSocket *s)
{
    const StasisSocket *found = NULL;
    for (size_t i = stasis_inet_from(list, s->dport, s->sport); i < list->n; i++) {
        const StasisSocket *c = list->items[i];
        if (c->sport != s->dport || c->dport != s->sport)
            break;
        if (c == s || memcmp(c->src, s->dst, 16) != 0 || memcmp(c->dst, s->src, 16) != 0)
            continue;
        if (c->netns == s->netns)
            return c;
        if (!stasis_inet_is_loopback(s->dst))
            found = c;
    }
    return found;
}

static const StasisSocket *find_listener(const StasisSocketList *list, const StasisSocket *end)
{
    const StasisSocket *found = NULL;
    for (size_t i = stasis_inet_from(list, end->sport, 0); i < list->n; i++) {
        const StasisSocket *c = list->items[i];
        if (c->sport != end->sport || c->dport != 0)
            break;
        if (c->state == TCP_LISTEN && c->netns == end->netns &&
            (memcmp(c->src, end->src, 16) == 0 || (found == NULL && stasis_inet_is_any(c->src))))
            found = c;
    }
    return found;
}

static const char *name(StasisScan *scan, const StasisUser *user)
{
    const StasisSocket *s = stasis_socket_find(scan, user->fd->ino);
    return s == NULL || s->state == TCP_LISTEN
               ? stasis_scan_text(scan, "tcp:[%llu]", (unsigned long long)user->key[0])
               : stasis_scan_text(scan, "tcp:%s", stasis_inet_text(scan, s));
}

static void add_outside(const StasisScanner *self, StasisScan *scan, const StasisFd *fd,
                        const StasisSocket *s)
{
    const char *object = stasis_scan_text(scan, "tcp:%s", stasis_inet_text(scan, s));
    const char *witness =
        stasis_scan_text(scan, "%s ↔ another machine, %s", stasis_fd_text(scan, fd), object);
    stasis_edge_add(scan, &(StasisEdge){ .relation = self,
                                         .a = fd->process,
                                         .b = STASIS_OUTSIDE,
                                         .class = STASIS_EDGE_CUTTABLE,
                                         .object = object,
                                         .witness = witness,
                                         .reason = "the other end goes on by itself" });
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers by_ino = { 0 }, users = { 0 };
    StasisSocketList list;
    stasis_inet_list(scan, IPPROTO_TCP, &list);
    stasis_socket_users(scan, &by_ino);
    for (size_t i = 0; i < list.n && stasis_scan_goes_on(scan); i++) {
        const StasisSocket *s = list.items[i];
        if (s->ino == 0 || s->dport == 0 || s->state == TCP_LISTEN || s->state == TCP_CLOSE)
            continue;
        const StasisSocket *end = find_reverse(&list, s);
        bool waits = false;
        if (end != NULL && end->ino == 0) {
            /* Not accepted yet, or closed by a process that need not be there any more. */
            end = end->state == TCP_ESTABLISHED || end->state == TCP_CLOSE_WAIT
                      ? find_listener(&list, end)
                      : NULL;
            if (end == NULL)
                continue;
            stasis_talked_in_flight(scan, self->counted, s->ino);
            waits = true;
        }
        uint64_t key = end != NULL && end->ino < s->ino ? end->ino : s->ino;
        const StasisFd *fd = stasis_socket_add_users(scan, &by_ino, s->ino, &users, key);
        if (waits && fd != NULL)
            stasis_edge_refuse_fd(self, scan, fd,
                                  "its TCP connection is not accepted yet, which CRIU can't take");
        if (end != NULL)
            stasis_socket_add_users(scan, &by_ino, end->ino, &users, key);
        else if (fd != NULL)
            add_outside(self, scan, fd, s);
    }
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_CUTTABLE,
                      "what one end sends the other receives");
}

const StasisScanner stasis_scan_tcp = { "tcp", "ends of one TCP connection", scan_it,
                                        STASIS_COUNTED_SOCKET };
