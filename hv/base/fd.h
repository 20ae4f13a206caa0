/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A file descriptor that closes itself: stasis_autofd int fd = open(…); hand over with
 * g_steal_fd-like stasis_steal_fd(). */
#pragma once

#include <fcntl.h>
#include <unistd.h>

static inline void stasis_close_fdp(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline int stasis_steal_fd(int *fd)
{
    int stolen = *fd;
    *fd = -1;
    return stolen;
}

/* Close *fd now and leave -1 behind. */
static inline void stasis_clear_fd(int *fd)
{
    stasis_close_fdp(fd);
    *fd = -1;
}

/* For programs that are executed with all descriptors closed: 0, 1 and 2 are not for sockets. */
static inline void stasis_occupy_standard_fds(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= STDERR_FILENO);
    stasis_close_fdp(&fd);
}

#define stasis_autofd __attribute__((cleanup(stasis_close_fdp)))
