/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sockets, and descriptors that are under way in them. */
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "criu-cases.h"

static int socket_of(int family, int type, int protocol)
{
    return socket(family, type, protocol);
}

int bound_socket(int type)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "/tmp/case-sock" };
    int fd = socket(AF_UNIX, type, 0);
    unlink(a.sun_path);
    return bind(fd, (struct sockaddr *)&a, sizeof a) == 0 ? fd : -1;
}

static int unix_listening(void)
{
    int fd = bound_socket(SOCK_STREAM);
    return listen(fd, 4) == 0 ? fd : -1;
}

static int unix_deleted(void)
{
    int fd = bound_socket(SOCK_DGRAM);
    return unlink("/tmp/case-sock") == 0 ? fd : -1;
}

static int unix_pair(int type)
{
    int ends[2];
    return socketpair(AF_UNIX, type, 0, ends) == 0 && send(ends[0], "x", 1, 0) == 1 ? ends[1] : -1;
}

static int unix_stream(void)
{
    return unix_pair(SOCK_STREAM);
}

static int unix_packets(void)
{
    return unix_pair(SOCK_SEQPACKET);
}

static int in_flight(int fd)
{
    int ends[2];
    char byte = 'x', room[CMSG_SPACE(sizeof fd)] = { 0 };
    struct iovec io = { &byte, 1 };
    struct msghdr m = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room
    };
    if (fd < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        return -1;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    int r = (int)sendmsg(ends[0], &m, 0);
    close(fd);
    return r == 1 ? ends[1] : -1;
}

static int flight_event(void)
{
    return in_flight(event());
}

static int flight_file(void)
{
    return in_flight(temporary());
}

static int flight_pid(void)
{
    return in_flight(pid_descriptor());
}

static int flight_ring(void)
{
    return in_flight(ring());
}

static int tcp_unconnected(void)
{
    return socket_of(AF_INET, SOCK_STREAM, 0);
}

static int tcp_listening(void)
{
    int fd = tcp_unconnected();
    return listen(fd, 4) == 0 ? fd : -1;
}

static int tcp_multipath(void)
{
    int fd = socket_of(AF_INET, SOCK_STREAM, 262 /* IPPROTO_MPTCP */);
    return listen(fd, 4) == 0 ? fd : -1;
}

static int udp(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket_of(AF_INET, SOCK_DGRAM, 0);
    return bind(fd, (struct sockaddr *)&a, sizeof a) == 0 ? fd : -1;
}

/* With something to read, from itself. */
static int udp_full(void)
{
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    int fd = udp();
    return getsockname(fd, (struct sockaddr *)&a, &len) == 0 &&
                   connect(fd, (struct sockaddr *)&a, len) == 0 && send(fd, "x", 1, 0) == 1
               ? fd
               : -1;
}

static int udp_corked(void)
{
    int one = 1, fd = udp_full();
    return setsockopt(fd, IPPROTO_UDP, UDP_CORK, &one, sizeof one) == 0 ? fd : -1;
}

static int udp_lite(void)
{
    return socket_of(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);
}

static int raw(void)
{
    return socket_of(AF_INET, SOCK_RAW, IPPROTO_ICMP);
}

static int ping(void)
{
    FILE *file = fopen("/proc/sys/net/ipv4/ping_group_range", "we");
    if (file == NULL || fputs("0 100\n", file) < 0 || fclose(file) != 0)
        return -1;
    return socket_of(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
}

static int packet(void)
{
    return socket_of(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
}

static int packet_ring(void)
{
    struct tpacket_req request = { 4096, 1, 2048, 2 };
    int fd = packet();
    return setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) == 0 &&
                   mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED
               ? fd
               : -1;
}

static int netlink(int protocol)
{
    struct sockaddr_nl a = { .nl_family = AF_NETLINK };
    int fd = socket_of(AF_NETLINK, SOCK_RAW, protocol);
    return bind(fd, (struct sockaddr *)&a, sizeof a) == 0 ? fd : -1;
}

static int netlink_route(void)
{
    return netlink(NETLINK_ROUTE);
}

static int netlink_generic(void)
{
    return netlink(NETLINK_GENERIC);
}

static int netlink_full(void)
{
    struct {
        struct nlmsghdr head;
        struct rtgenmsg body;
    } ask = { { .nlmsg_len = sizeof ask,
                .nlmsg_type = RTM_GETLINK,
                .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
              { AF_UNSPEC } };
    int fd = netlink_route();
    return send(fd, &ask, sizeof ask, 0) == sizeof ask ? fd : -1;
}

static int vsock(void)
{
    return socket_of(AF_VSOCK, SOCK_STREAM, 0);
}

static int sctp(void)
{
    return socket_of(AF_INET, SOCK_STREAM, IPPROTO_SCTP);
}

static int crypto(void)
{
    return socket_of(AF_ALG, SOCK_SEQPACKET, 0);
}

static int xdp(void)
{
    return socket_of(AF_XDP, SOCK_RAW, 0);
}

static int keys(void)
{
    return socket_of(AF_KEY, SOCK_RAW, 2);
}

const Case cases_sockets[] = {
    CASE(unix_listening),
    CASE(unix_deleted),
    CASE(unix_stream),
    CASE(unix_packets),
    CASE(flight_event),
    CASE(flight_file),
    CASE(flight_pid),
    CASE(flight_ring),
    CASE(tcp_unconnected),
    CASE(tcp_listening),
    CASE(tcp_multipath),
    CASE(udp),
    CASE(udp_full),
    CASE(udp_corked),
    CASE(udp_lite),
    CASE(raw),
    CASE(ping),
    CASE(packet),
    CASE(packet_ring),
    CASE(netlink_route),
    CASE(netlink_generic),
    CASE(netlink_full),
    CASE(vsock),
    CASE(sctp),
    CASE(crypto),
    CASE(xdp),
    CASE(keys),
    { NULL },
};
