/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Packets to and from the agent. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/internal.h"

int guest_connect(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const char *path = secure_getenv(STASIS_GUEST_SOCKET_VARIABLE);
    snprintf(address.sun_path, sizeof address.sun_path, "%s",
             path != NULL ? path : STASIS_GUEST_SOCKET);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int r;
    while ((r = connect(fd, (struct sockaddr *)&address, sizeof address)) < 0 && errno == EINTR)
        ;
    if (r == 0)
        return fd;
    r = -errno;
    close(fd);
    return r;
}

int guest_send(int fd, StasisGuestWhat what, int64_t value)
{
    return guest_send_text(fd, what, value, "");
}

int guest_send_text(int fd, StasisGuestWhat what, int64_t value, const char *text)
{
    StasisGuestMessage message = { STASIS_GUEST_MAGIC, what, value, "" };
    ssize_t n;
    if (strlen(text) >= sizeof message.text)
        return -ENAMETOOLONG;
    strcpy(message.text, text);
    while ((n = send(fd, &message, sizeof message, MSG_NOSIGNAL)) < 0 && errno == EINTR)
        ;
    return n < 0 ? -errno : 0;
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
