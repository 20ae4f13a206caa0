/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Packets to and from the agent. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/internal.h"

int guest_connect(void)
{
    return guest_connect_within(0);
}

int guest_connect_within(unsigned ms)
{
    const struct timeval limit = { ms / 1000, (suseconds_t)(ms % 1000) * 1000 };
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const char *path = secure_getenv(STASIS_GUEST_SOCKET_VARIABLE);
    snprintf(address.sun_path, sizeof address.sun_path, "%s",
             path != NULL ? path : STASIS_GUEST_SOCKET);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* unix(7): of connect(2), too */
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    int r;
    while ((r = connect(fd, (struct sockaddr *)&address, sizeof address)) < 0 && errno == EINTR)
        ;
    if (r == 0)
        return fd;
    r = -errno;
    close(fd);
    return r;
}

static int send_packet(int fd, const StasisGuestMessage *message, int flags)
{
    ssize_t n;
    while ((n = send(fd, message, sizeof *message, MSG_NOSIGNAL | flags)) < 0 && errno == EINTR)
        ;
    return n < 0 ? -errno : 0;
}

int guest_send(int fd, StasisGuestWhat what, int64_t value)
{
    return guest_send_text(fd, what, value, "");
}

int guest_send_now(int fd, StasisGuestWhat what, int64_t value)
{
    const StasisGuestMessage message = { STASIS_GUEST_MAGIC, what, value, "" };
    int r = send_packet(fd, &message, MSG_DONTWAIT);
    return r == -EPIPE || r == -ECONNRESET ? -ENOTCONN : r;
}

int guest_send_text(int fd, StasisGuestWhat what, int64_t value, const char *text)
{
    StasisGuestMessage message = { STASIS_GUEST_MAGIC, what, value, "" };
    if (strlen(text) >= sizeof message.text)
        return -ENAMETOOLONG;
    strcpy(message.text, text);
    return send_packet(fd, &message, 0);
}

int guest_receive(int fd, StasisGuestMessage *ret)
{
    ssize_t n;
    while ((n = recv(fd, ret, sizeof *ret, 0)) < 0 && errno == EINTR)
        ;
    /* Restored by hand, with something else in the socket's place (proc-export). */
    if (n < 0 && errno == ENOTSOCK) {
        *ret = (StasisGuestMessage){ STASIS_GUEST_MAGIC, STASIS_GUEST_RESUMED, 0, "" };
        return 1;
    }
    if (n <= 0)
        return n < 0 ? -errno : 0;
    return n == sizeof *ret && ret->magic == STASIS_GUEST_MAGIC ? 1 : -EPROTO;
}
