/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "keeper.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

/* ---- the keeper ---- */

static void __attribute__((noreturn))
be_keeper(const KeeperOps *ops, const void *what, int socket_fd, int64_t end_ms)
{
    static KeeperReport report;
    setsid();
    prctl(PR_SET_NAME, ops->name);
    dup2(socket_fd, KEEPER_SOCKET);
    close_range(KEEPER_SOCKET + 1, ~0u, 0);
    mlockall(MCL_CURRENT);
    ops->hold(what, end_ms, &report);
    send(KEEPER_SOCKET, &report, sizeof report, MSG_NOSIGNAL);
    bool told = false;
    if (report.error_number == 0 && report.n > 0) {
        struct pollfd fds = { .fd = KEEPER_SOCKET, .events = POLLIN };
        int64_t now = now_ms();
        /* Told to, or the agent is gone, or time is up: then it was not held until it is told. */
        told = poll(&fds, 1, end_ms > now ? (int)(end_ms - now) : 0) > 0;
        ops->let_go(&report);
    }
    /* A socket closed with something unread in it gives an error at the other end. */
    char byte;
    while (recv(KEEPER_SOCKET, &byte, 1, MSG_DONTWAIT) == 1)
        ;
    if (told)
        send(KEEPER_SOCKET, &report, sizeof report, MSG_NOSIGNAL);
    _exit(0);
}

/* ---- in the agent ---- */

bool keeper_is_holding(Keeper *keeper)
{
    char byte;
    if (keeper->fd < 0)
        return false;
    ssize_t n = recv(keeper->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return true;
    if (n > 0) /* a report that nobody has fetched: it has done it, or failed to */
        return true;
    close(keeper->fd);
    keeper->fd = -1;
    return false;
}

bool keeper_start(Keeper *keeper, const void *what, int64_t end_ms)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return false;
    pid_t pid = fork();
    if (pid == 0) {
        /* The keeper is init's child, and our end of the socket not in it. */
        close(ends[0]);
        if (fork() == 0)
            be_keeper(keeper->ops, what, ends[1], end_ms);
        _exit(0);
    }
    close(ends[1]);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    keeper->fd = ends[0];
    return true; /* a failed fork shows as an end of file */
}

bool keeper_tell(Keeper *keeper)
{
    return keeper_is_holding(keeper) && send(keeper->fd, "t", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

bool keeper_get_report(Keeper *keeper, KeeperReport *report)
{
    ssize_t n;
    while ((n = recv(keeper->fd, report, sizeof *report, 0)) < 0 && errno == EINTR)
        ;
    return n == sizeof *report;
}

void keeper_let_go_now(Keeper *keeper)
{
    if (keeper->fd < 0)
        return;
    send(keeper->fd, "t", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(keeper->fd);
    keeper->fd = -1;
}
