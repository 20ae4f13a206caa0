/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The few numbers of /proc/PID/stat (proc(5)) by which a process is known. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "watch/watch.h"

bool watch_stat(pid_t pid, WatchStat *ret)
{
    char path[32], line[1024];
    unsigned long long start;
    *ret = (WatchStat){ 0 };
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, line, sizeof line - 1) : -1; /* a name may have line ends, too */
    if (fd >= 0)
        close(fd);
    line[n > 0 ? n : 0] = '\0';
    /* The name may hold anything, also ") S 1": what counts is the last parenthesis. */
    char *open = strchr(line, '('), *end = strrchr(line, ')');
    if (open == NULL || end == NULL || end < open ||
        sscanf(end + 1,
               " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %u %*d %llu",
               &ret->state, &ret->n_threads, &start) != 3)
        return false;
    *end = '\0';
    snprintf(ret->comm, sizeof ret->comm, "%s", open + 1);
    ret->start = start;
    return true;
}

bool watch_stat_is_over(const WatchStat *stat)
{
    /* With more than one, only its first thread has ended. */
    return (stat->state == 'Z' || stat->state == 'X') && stat->n_threads <= 1;
}
