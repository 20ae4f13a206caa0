/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Control groups (kernel: Documentation/admin-guide/cgroup-v2.rst): where they are, and when one
 * has frozen. */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

bool cgroup_find_root(char *path, size_t size)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char line[4096], mount_point[1024];
    bool found = false;
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL) {
        const char *type = strstr(line, " - ");
        found = type != NULL && strncmp(type, " - cgroup2 ", 11) == 0 &&
                sscanf(line, "%*d %*d %*s %*s %1023s", mount_point) == 1;
    }
    if (file != NULL)
        fclose(file);
    if (found)
        snprintf(path, size, "%s", mount_point);
    return found;
}

static bool is_frozen(int events_fd)
{
    char text[256];
    ssize_t n = pread(events_fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return strstr(text, "frozen 1") != NULL;
}

bool cgroup_wait_frozen(int events_fd, int64_t end_ms)
{
    bool frozen;
    while (!(frozen = is_frozen(events_fd)) && now_ms() < end_ms) {
        struct pollfd fds = { .fd = events_fd, .events = POLLPRI };
        poll(&fds, 1, (int)(end_ms - now_ms()));
    }
    return frozen;
}
