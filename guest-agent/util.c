/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

uint64_t clock_ns(clockid_t clock)
{
    struct timespec ts = { 0 };
    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int64_t now_ms(void)
{
    return (int64_t)(clock_ns(CLOCK_MONOTONIC) / 1000000u);
}

void read_line(const char *path, char *buffer, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd >= 0 ? read(fd, buffer, size - 1) : 0;
    if (fd >= 0)
        close(fd);
    buffer[n > 0 ? n : 0] = '\0';
    buffer[strcspn(buffer, "\n")] = '\0';
}

void be_ordinary(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    write_all(fd, "0", 1); /* as root it can't fail */
    close(fd);
}

bool write_all(int fd, const void *bytes, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t part = write(fd, (const char *)bytes + done, n - done);
        if (part < 0 && errno != EINTR)
            return false;
        done += part > 0 ? (size_t)part : 0;
    }
    return true;
}

void say(const char *format, ...)
{
    char line[512] = "stasis-agent: ";
    size_t at = strlen(line);
    va_list args;
    va_start(args, format);
    vsnprintf(line + at, sizeof line - at - 1, format, args);
    va_end(args);
    at = strlen(line);
    line[at] = '\n';
    if (write(STDERR_FILENO, line, at + 1) < 0)
        return; /* nobody to tell */
}
