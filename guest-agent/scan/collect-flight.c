/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors in flight: sent over a UNIX socket (SCM_RIGHTS, unix(7)) and not received yet. No
 * process has them open, so nothing in /proc names them; but a pipe whose other end is in flight is
 * as shared as any. fdinfo tells how many wait in a socket ("scm_fds:"). We borrow the socket
 * (pidfd_getfd), and look at its queue without taking anything out (MSG_PEEK), which gives us
 * copies; they take part in all relations as if the receiver had them.
 *
 * A peek sees the first message with descriptors only (the rest would need SO_PEEK_OFF, which the
 * owner of the socket could notice); if there are more, scanner "unix" refuses.
 */
#include "scan/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_IN_MESSAGE 253 /* SCM_MAX_FD, linux/net/scm.h */
#define MAX_DEPTH 4        /* a socket in flight may have descriptors in flight */

static void add_copy(StasisScan *scan, const StasisFd *socket, int copy, int depth)
{
    int *held = STASIS_PUSH(scan, &scan->held);
    if (held == NULL) {
        close(copy);
        return;
    }
    *held = copy;
    int self = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    StasisFd seen = { .process = socket->process,
                      .fd = -1,
                      .kcmp_pid = getpid(),
                      .kcmp_fd = copy,
                      .carrier = socket->carrier >= 0 ? socket->carrier : socket->fd };
    bool ok = self >= 0 && stasis_fd_fill(scan, &seen, self, copy);
    if (self >= 0)
        close(self);
    StasisFd *item = ok ? STASIS_PUSH(scan, &scan->fds) : NULL;
    if (item == NULL)
        return;
    *item = seen;
    if (seen.kind == STASIS_FD_SOCKET)
        stasis_collect_flight(scan, scan->fds.n - 1, depth + 1);
}

void stasis_collect_flight(StasisScan *scan, size_t index, int depth)
{
    const StasisFd socket = scan->fds.items[index]; /* a copy: the array moves */
    const char *count = stasis_text_field(socket.info, "scm_fds:");
    int borrowed;
    if (count == NULL || atoi(count) <= 0 || depth >= MAX_DEPTH ||
        (borrowed = stasis_fd_borrow(&socket)) < 0)
        return;
    char byte;
    struct iovec iov = { &byte, 1 };
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(MAX_IN_MESSAGE * sizeof(int)) + 256];
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
    };
    ssize_t n = recvmsg(borrowed, &msg, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    close(borrowed);
    for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&msg); c != NULL;
         c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int copy;
            memcpy(&copy, CMSG_DATA(c) + i * sizeof copy, sizeof copy);
            add_copy(scan, &socket, copy, depth);
        }
    }
}
