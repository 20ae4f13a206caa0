/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Freezing a cgroup (kernel: Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze). That it shall
 * freeze is written in the loop, at once: in a fork of the VM this is the first thing that happens.
 * That it has frozen is waited for in a worker, asleep.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

#define LIMIT_MS 10000

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

/* Open @file of the cgroup that the request names; -1, answered. */
static int open_in_cgroup(const Request *request, const char *file, int flags, Answer *answer)
{
    char root[1024], group[1024], path[3072];
    if (!request_text(request, STASIS_AGENT_TAG_CGROUP, group, sizeof group) || group[0] == '\0' ||
        strstr(group, "..") != NULL) {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "cgroup: no path, or one with \"..\" in it");
        return -1;
    }
    if (!cgroup_find_root(root, sizeof root)) {
        answer_error(answer, STASIS_AGENT_UNSUPPORTED, 0, "cgroup: no cgroup2 is mounted");
        return -1;
    }
    snprintf(path, sizeof path, "%s/%s/%s", root, group, file);
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        answer_error(answer, STASIS_AGENT_FAILED, errno, "%s", path);
    return fd;
}

static bool set_freeze(const Request *request, const char *value, Answer *answer)
{
    int fd = open_in_cgroup(request, "cgroup.freeze", O_WRONLY, answer);
    if (fd < 0)
        return false;
    bool written = write_all(fd, value, 1);
    int saved = errno;
    close(fd);
    if (!written)
        answer_error(answer, STASIS_AGENT_FAILED, saved, "write cgroup.freeze");
    return written;
}

bool op_cgroup_freeze_before(const Request *request, Answer *answer)
{
    return set_freeze(request, "1", answer);
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

void op_cgroup_freeze(const Request *request, Answer *answer)
{
    int64_t end_ms = now_ms() + request_timeout(request, LIMIT_MS);
    int fd = open_in_cgroup(request, "cgroup.events", O_RDONLY, answer);
    bool frozen = fd >= 0 && cgroup_wait_frozen(fd, end_ms);
    if (fd >= 0)
        close(fd);
    if (fd >= 0 && !frozen && set_freeze(request, "0", answer))
        answer_error(answer, STASIS_AGENT_TIMEOUT, 0, "cgroup: not all tasks froze; thawed again");
    answer_end(answer);
}

void op_cgroup_thaw(const Request *request, Answer *answer)
{
    if (set_freeze(request, "0", answer))
        answer_end(answer);
}
