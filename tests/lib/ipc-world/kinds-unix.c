/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* UNIX sockets, sockets in common, and what is in flight in them. */
#include "kinds.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void prepare_socketpair(Relation *r)
{
    static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
    int s[2];
    CHECK(socketpair(AF_UNIX, types[r->variant % 3], 0, s));
    keep_fd(r, s[0], 1u);
    keep_fd(r, s[1], ALL & ~1u);
}
/* With KIND_DECOY: a name of the system's log, in a namespace of its own for each. */
static socklen_t unix_address(const Relation *r, struct sockaddr_un *a)
{
    static const char *const ends[] = { "stdout", "socket", "dev-log", "syslog" };
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    bool log = r->kind->flags & KIND_DECOY, abstract = !log && (r->variant & 1);
    int n = log ? snprintf(a->sun_path, sizeof a->sun_path, "/run/systemd/journal.%d/%s", r->index,
                           ends[r->variant % 4])
                : snprintf(a->sun_path + abstract, sizeof a->sun_path - 1, DIR_W "/s%d", r->index);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n + 1);
}
static void act_unix_listen(Relation *r, int role)
{
    struct sockaddr_un a;
    if (role != 0)
        return;
    r->fd[7] = (int)CHECK(socket(AF_UNIX, SOCK_STREAM, 0));
    own_fd(r->fd[7]);
    CHECK(bind(r->fd[7], (void *)&a, unix_address(r, &a)));
    CHECK(listen(r->fd[7], 8));
}
static void act_unix_connect(Relation *r, int role)
{
    struct sockaddr_un a;
    if (role == 0)
        return;
    int fd = (int)CHECK(socket(AF_UNIX, SOCK_STREAM, 0));
    socklen_t n = unix_address(r, &a);
    CHECK(connect(fd, (void *)&a, n));
    own_fd(fd);
}
static void prepare_log_socket(Relation *r)
{
    char path[64];
    snprintf(path, sizeof path, "/run/systemd/journal.%d", r->index);
    mkdir("/run/systemd", 0700);
    CHECK(mkdir(path, 0700));
}
static void act_accept(Relation *r, int role)
{
    /* Half of them stay in the listener's queue. */
    for (int i = 1; role == 0 && i < r->n && (r->variant & 2); i++)
        own_fd((int)CHECK(accept(r->fd[7], NULL, NULL)));
}
static void act_dgram_bind(Relation *r, int role)
{
    struct sockaddr_un a;
    if (role != 0)
        return;
    int fd = (int)CHECK(socket(AF_UNIX, SOCK_DGRAM, 0));
    CHECK(bind(fd, (void *)&a, unix_address(r, &a)));
    own_fd(fd);
}
static void act_dgram_connect(Relation *r, int role)
{
    struct sockaddr_un a;
    if (role == 0)
        return;
    int fd = (int)CHECK(socket(AF_UNIX, SOCK_DGRAM, 0));
    socklen_t n = unix_address(r, &a);
    CHECK(connect(fd, (void *)&a, n));
    own_fd(fd);
}
static void prepare_shared_socket(Relation *r)
{
    static const int families[] = { AF_INET, AF_UNIX, AF_NETLINK, AF_INET6 };
    int family = families[r->variant % 4];
    keep_fd(r, (int)CHECK(socket(family, SOCK_DGRAM, 0)), ALL);
}
static void send_away(int socket, int fd)
{
    char byte = 0;
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec iov = { &byte, 1 };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof(int));
    CHECK(sendmsg(socket, &msg, 0));
    close(fd);
}
/* A pipe's end on its way to role 0, within a socketpair of its own. */
static void prepare_flight(Relation *r)
{
    int p[2], s[2];
    CHECK(pipe(p));
    CHECK(socketpair(AF_UNIX, r->variant & 1 ? SOCK_DGRAM : SOCK_STREAM, 0, s));
    send_away(s[0], p[0]);
    keep_fd(r, s[0], 1u);
    keep_fd(r, s[1], 1u);
    keep_fd(r, p[1], ALL & ~1u);
}
/* Two messages with a descriptor each, of which the second can't be seen. */
static void prepare_flight_unseen(Relation *r)
{
    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    send_away(s[0], (int)CHECK(open("/dev/null", O_RDWR)));
    send_away(s[0], (int)CHECK(open("/dev/null", O_RDWR)));
    keep_fd(r, s[0], 1u);
    keep_fd(r, s[1], 1u);
}

const Kind unix_kinds[] = {
    R("unix-pair", "unix", 2, 3, 0, .prepare = prepare_socketpair),
    R("unix-path", "unix", 2, 4, KIND_NET,
      .act = { act_unix_listen, act_unix_connect, act_accept }),
    R("unix-dgram", "unix", 2, 3, KIND_NET, .act = { act_dgram_bind, act_dgram_connect }),
    R("socket", "socket", 2, 4, 0, .prepare = prepare_shared_socket),
    R("in-flight", "pipe", 2, 3, KIND_BORROWS, .prepare = prepare_flight),
    R("flight-unseen", "unix", 1, 1, KIND_OPAQUE, .prepare = prepare_flight_unseen),

    R("no-journal", NULL, 2, 4, KIND_DECOY, .prepare = prepare_log_socket,
      .act = { act_unix_listen, act_unix_connect, act_accept }),
    R("no-syslog", NULL, 2, 3, KIND_DECOY, .prepare = prepare_log_socket,
      .act = { act_dgram_bind, act_dgram_connect }),
    { 0 },
};
