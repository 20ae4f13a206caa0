/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: TCP and UDP sockets are the same whether sock_diag or /proc/net tells them. */
#include <arpa/inet.h>
#include <glib.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scan/internal.h"

static int make_socket(int family, int type, uint16_t *port, gboolean server)
{
    struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
    struct sockaddr *a = family == AF_INET ? (void *)&v4 : (void *)&v6;
    socklen_t len = family == AF_INET ? sizeof v4 : sizeof v6;
    int fd = socket(family, type | SOCK_CLOEXEC, 0);
    g_assert_cmpint(fd, >=, 0);
    if (server) {
        g_assert_cmpint(bind(fd, a, len), ==, 0);
        if (type == SOCK_STREAM)
            g_assert_cmpint(listen(fd, 4), ==, 0);
        g_assert_cmpint(getsockname(fd, a, &len), ==, 0);
        *port = family == AF_INET ? v4.sin_port : v6.sin6_port;
    } else {
        v4.sin_port = v6.sin6_port = *port;
        g_assert_cmpint(connect(fd, a, len), ==, 0);
    }
    return fd;
}

static const StasisSocket *find(const StasisScan *scan, int fd)
{
    struct stat st;
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    for (size_t i = 0; i < scan->sockets.n; i++)
        if (scan->sockets.items[i].ino == st.st_ino)
            return &scan->sockets.items[i];
    g_assert_not_reached();
}

static void test_same(void)
{
    static const int families[] = { AF_INET, AF_INET6 }, types[] = { SOCK_STREAM, SOCK_DGRAM };
    int fds[8], n = 0;
    for (int i = 0; i < 4; i++) {
        uint16_t port = 0;
        fds[n++] = make_socket(families[i / 2], types[i % 2], &port, TRUE);
        fds[n++] = make_socket(families[i / 2], types[i % 2], &port, FALSE);
    }
    StasisScan diag = { .arena.limit_bytes = 16 << 20,
                        .limits = { .max_bytes = 16 << 20, .deadline_ns = UINT64_MAX } };
    StasisScan proc = diag;
    for (int k = 0; k < 2; k++) {
        StasisScan *scan = k == 0 ? &diag : &proc;
        StasisProcess *self = STASIS_PUSH(scan, &scan->processes);
        *self = (StasisProcess){ .pid = getpid(), .live = getpid() };
        self->ns[STASIS_NS_NET] = scan->own_ns[STASIS_NS_NET] = 1; /* no other one is entered */
    }
    stasis_collect_sockets(&diag);
    for (int i = 0; i < 4; i++)
        stasis_collect_procnet(&proc, 0, families[i / 2], i % 2 == 0 ? IPPROTO_TCP : IPPROTO_UDP);
    for (int i = 0; i < n; i++) {
        const StasisSocket *a = find(&diag, fds[i]), *b = find(&proc, fds[i]);
        g_assert_cmpint(a->family, ==, b->family);
        g_assert_cmpint(a->protocol, ==, b->protocol);
        g_assert_cmpint(a->state, ==, b->state);
        g_assert_cmpuint(a->netns, ==, b->netns);
        g_assert_cmpuint(a->sport, ==, b->sport);
        g_assert_cmpuint(a->dport, ==, b->dport);
        g_assert_cmpmem(a->src, 16, b->src, 16);
        g_assert_cmpmem(a->dst, 16, b->dst, 16);
        g_assert_cmpuint(a->sport, !=, 0);
        close(fds[i]);
    }
    stasis_scan_clear(&diag);
    stasis_scan_clear(&proc);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/scan/sockets/same", test_same);
    return g_test_run();
}
