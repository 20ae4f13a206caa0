/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TCP and UDP on loopback, in one network namespace or two. */
#include "kinds.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static socklen_t inet_address(const Relation *r, struct sockaddr_storage *s)
{
    memset(s, 0, sizeof *s);
    uint16_t port = htons((uint16_t)(10000 + r->index));
    if (r->variant & 1) {
        struct sockaddr_in6 *a = (void *)s;
        a->sin6_family = AF_INET6;
        a->sin6_port = port;
        a->sin6_addr = in6addr_loopback;
        return sizeof *a;
    }
    struct sockaddr_in *a = (void *)s;
    a->sin_family = AF_INET;
    a->sin_port = port;
    a->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sizeof *a;
}
static void act_tcp_listen(Relation *r, int role)
{
    struct sockaddr_storage a;
    if (role != 0)
        return;
    socklen_t n = inet_address(r, &a);
    /* Half of those for IPv6 listen to all addresses, and are reached by IPv4. */
    if ((r->variant & 5) == 5)
        ((struct sockaddr_in6 *)&a)->sin6_addr = in6addr_any;
    r->fd[7] = (int)CHECK(socket(a.ss_family, SOCK_STREAM, 0));
    own_fd(r->fd[7]);
    CHECK(bind(r->fd[7], (void *)&a, n));
    CHECK(listen(r->fd[7], 8));
}
static void act_tcp_connect(Relation *r, int role)
{
    struct sockaddr_storage a;
    if (role == 0)
        return;
    if ((r->variant & 5) == 5)
        r->variant &= ~1u;
    socklen_t n = inet_address(r, &a);
    int fd = (int)CHECK(socket(a.ss_family, SOCK_STREAM, 0));
    CHECK(connect(fd, (void *)&a, n));
    own_fd(fd);
}
static void act_accept_all(Relation *r, int role)
{
    for (int i = 1; role == 0 && i < r->n; i++)
        own_fd((int)CHECK(accept(r->fd[7], NULL, NULL)));
}
static void act_udp_bind(Relation *r, int role)
{
    struct sockaddr_storage a;
    socklen_t n = inet_address(r, &a);
    if (role != 0)
        return;
    int fd = (int)CHECK(socket(a.ss_family, SOCK_DGRAM, 0));
    CHECK(bind(fd, (void *)&a, n));
    own_fd(fd);
}
static void act_udp_connect(Relation *r, int role)
{
    struct sockaddr_storage a;
    socklen_t n = inet_address(r, &a);
    if (role == 0)
        return;
    int fd = (int)CHECK(socket(a.ss_family, SOCK_DGRAM, 0));
    CHECK(connect(fd, (void *)&a, n));
    own_fd(fd);
}

static void act_self_tcp(Relation *r, int role)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof a;
    int l = (int)CHECK(socket(AF_INET, SOCK_STREAM, 0));
    int c = (int)CHECK(socket(AF_INET, SOCK_STREAM, 0));
    CHECK(bind(l, (void *)&a, n));
    CHECK(listen(l, 1));
    CHECK(getsockname(l, (void *)&a, &n));
    CHECK(connect(c, (void *)&a, n));
    own_fd((int)CHECK(accept(l, NULL, NULL)));
    own_fd(l);
    own_fd(c);
}
static void act_udp_free(Relation *r, int role)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = (int)CHECK(socket(AF_INET, SOCK_DGRAM, 0));
    CHECK(bind(fd, (void *)&a, sizeof a));
    own_fd(fd);
}

static int bound(int type, int port)
{
    struct sockaddr_in a = { AF_INET, htons((uint16_t)port), { htonl(INADDR_LOOPBACK) }, { 0 } };
    int fd = (int)CHECK(socket(AF_INET, type, 0));
    CHECK(bind(fd, (void *)&a, sizeof a));
    own_fd(fd);
    return fd;
}
static void reach(int fd, int port)
{
    struct sockaddr_in a = { AF_INET, htons((uint16_t)port), { htonl(INADDR_LOOPBACK) }, { 0 } };
    CHECK(connect(fd, (void *)&a, sizeof a));
}
/* In each of two network namespaces a TCP connection of one's own, by the same addresses, and a
 * UDP socket that is connected to the address that the other one has. */
static void act_other_net(Relation *r, int role)
{
    int listener = bound(SOCK_STREAM, 20000 + r->index),
        client = bound(SOCK_STREAM, 21000 + r->index);
    CHECK(listen(listener, 1));
    reach(client, 20000 + r->index);
    own_fd((int)CHECK(accept(listener, NULL, NULL)));
    reach(bound(SOCK_DGRAM, (role == 0 ? 22000 : 23000) + r->index),
          (role == 0 ? 23000 : 22000) + r->index);
}

const Kind inet_kinds[] = {
    R("tcp", "tcp", 2, 4, KIND_NET, .act = { act_tcp_listen, act_tcp_connect, act_accept_all }),
    R("tcp-backlog", "tcp", 2, 2, KIND_OPAQUE | KIND_TARGET | KIND_NET,
      .act = { act_tcp_listen, act_tcp_connect }),
    R("udp", "udp", 2, 3, KIND_NET, .act = { act_udp_bind, act_udp_connect }),

    R("no-tcp", NULL, 2, 3, KIND_DECOY, .act = { act_self_tcp }),
    R("no-udp", NULL, 2, 3, KIND_DECOY, .act = { act_udp_free }),
    R("no-net", NULL, 2, 2, KIND_DECOY | KIND_NETS, .act = { act_other_net }),
    { 0 },
};
