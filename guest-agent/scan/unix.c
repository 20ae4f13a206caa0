/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UNIX sockets (unix(7)): the two ends of a connection, or of a socketpair, and a datagram socket
 * with the one it is connected to. What waits at one end was sent by the other; CRIU refuses half
 * of a stream, and with an option gives the end outside back at restore, without what was in
 * flight: cuttable. A client that a listener has not accepted yet has sent to a socket that nobody
 * has open: it belongs to the listener. An end that is open nowhere we see (kept by the kernel, or
 * in another PID namespace) can't come along: the user must cut it by name.
 *
 * One kind of connection is cut without being named: that into the system's log. Each service of
 * systemd has one from birth, so that each would draw in the log's daemon, by it all other services
 * and the first process, and be refused. Lines go one way there, the service reads nothing from it,
 * and what was in flight at the instant gets through where it was sent.
 *
 * So is what asks the agent itself (lib/wire.h): it answers anew where the process goes on.
 *
 * Descriptors in flight take part in every relation (collect-flight.c). If we could not see all of
 * them, what they share is unknown: opaque.
 */
#include "lib/wire.h"
#include "scan/internal.h"

#include <stdlib.h>
#include <sys/socket.h>

#define LISTENING 10 /* UNIX sockets are told in TCP's states */

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "unix:[%llu]", (unsigned long long)user->key[0]);
}

/* Bound by who takes log lines: syslog(3), or systemd-journald(8) (and one of another namespace,
 * "/run/systemd/journal.NAME/…"). Its socket for varlink, which answers, is none of these. */
bool stasis_socket_is_log(const StasisSocket *s)
{
    static const char journal[] = "/run/systemd/journal";
    static const char *const ends[] = { "/stdout", "/socket", "/dev-log", "/syslog" };
    if (s == NULL || s->name == NULL)
        return false;
    if (strncmp(s->name, journal, strlen(journal)) != 0)
        return strcmp(s->name, "/dev/log") == 0;
    const char *end = strchr(s->name + strlen(journal), '/');
    char next = s->name[strlen(journal)];
    for (size_t i = 0; end != NULL && i < sizeof ends / sizeof *ends; i++)
        if (strcmp(end, ends[i]) == 0)
            return next == '/' || next == '.';
    return false;
}

bool stasis_socket_is_agent(const StasisSocket *s)
{
    return s != NULL && s->name != NULL && strcmp(s->name, STASIS_GUEST_SOCKET) == 0;
}

/* Its other end is nobody's. */
static void add_outside(const StasisScanner *self, StasisScan *scan, const StasisFd *fd,
                        uint64_t peer, bool log)
{
    stasis_edge_add(
        scan,
        &(StasisEdge){
            .relation = self,
            .a = fd->process,
            .b = STASIS_OUTSIDE,
            .class = STASIS_EDGE_CUTTABLE,
            .cut_by_default = log,
            .object = stasis_scan_text(scan, "unix:[%llu]", (unsigned long long)fd->ino),
            .witness = stasis_scan_text(scan, "%s ↔ unix socket %llu, which no process has open",
                                        stasis_fd_text(scan, fd), (unsigned long long)peer),
            .reason = "what is in flight to the other end would be lost" });
}

static void check_flight(const StasisScanner *self, StasisScan *scan)
{
    for (size_t i = 0; i < scan->fds.n && stasis_scan_goes_on(scan); i++) {
        const StasisFd *fd = &scan->fds.items[i];
        const char *count =
            fd->kind == STASIS_FD_SOCKET ? stasis_text_field(fd->info, "scm_fds:") : NULL;
        int wanted = count == NULL ? 0 : atoi(count), found = 0;
        if (wanted == 0 || fd->carrier >= 0)
            continue;
        for (size_t k = 0; k < scan->fds.n; k++)
            found +=
                scan->fds.items[k].process == fd->process && scan->fds.items[k].carrier == fd->fd;
        if (found < wanted)
            stasis_edge_refuse_fd(self, scan, fd,
                                  stasis_scan_text(scan,
                                                   "%d descriptors in flight, of which only %d can "
                                                   "be seen before they are received",
                                                   wanted, found));
    }
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers by_ino = { 0 }, plain = { 0 }, of_log = { 0 }, of_agent = { 0 };
    stasis_socket_users(scan, &by_ino);
    for (size_t i = 0; i < scan->sockets.n; i++) {
        const StasisSocket *s = &scan->sockets.items[i];
        if (s->family != AF_UNIX)
            continue;
        const StasisSocket *peer = stasis_socket_find(scan, s->peer);
        bool log = stasis_socket_is_log(s) || stasis_socket_is_log(peer);
        bool agent = stasis_socket_is_agent(s) || stasis_socket_is_agent(peer);
        StasisUsers *users = log ? &of_log : agent ? &of_agent : &plain;
        if (s->state == LISTENING) {
            stasis_socket_add_users(scan, &by_ino, s->ino, users, s->ino);
            if (s->n_pending > 0)
                stasis_talked_in_flight(scan, self->counted, s->ino);
            for (size_t k = 0; k < s->n_pending; k++)
                stasis_socket_add_users(scan, &by_ino, s->pending[k], users, s->ino);
        } else if (s->peer != 0) {
            /* Both ends say so; one object for them. */
            uint64_t key = s->ino < s->peer ? s->ino : s->peer;
            const StasisFd *here = stasis_socket_add_users(scan, &by_ino, s->ino, users, key);
            const StasisFd *there = stasis_socket_add_users(scan, &by_ino, s->peer, users, key);
            if (here != NULL && there == NULL)
                add_outside(self, scan, here, s->peer, log || agent);
        }
    }
    stasis_users_link(self, scan, &plain, name, STASIS_EDGE_CUTTABLE,
                      "what one end sends the other receives");
    size_t first = scan->edges.n;
    stasis_users_link(self, scan, &of_log, name, STASIS_EDGE_CUTTABLE,
                      "lines for the system's log, which go one way");
    stasis_users_link(self, scan, &of_agent, name, STASIS_EDGE_CUTTABLE,
                      "asking stasis-agent, which answers where the process goes on");
    for (size_t i = first; i < scan->edges.n; i++)
        scan->edges.items[i].cut_by_default = true;
    check_flight(self, scan);
}

const StasisScanner stasis_scan_unix = { "unix", "ends of one UNIX connection", scan_it,
                                         STASIS_COUNTED_SOCKET };
