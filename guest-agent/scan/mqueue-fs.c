/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "scan/mqueue-fs.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define MQUEUE_MAGIC 0x19800202 /* linux/magic.h has no such line: ipc/mqueue.c */

/* So that no other file system has to be asked what it is. */
static bool may_be_one(int dir, const char *path)
{
    static const char place[] = "/dev/mqueue/";
    char link[PATH_MAX];
    ssize_t n = readlinkat(dir, path, link, sizeof link - 1);
    link[n > 0 ? n : 0] = '\0';
    return link[0] == '/' &&
           (strchr(link + 1, '/') == NULL || strncmp(link, place, sizeof place - 1) == 0);
}

bool stasis_mqueue_is_one(int dir, const char *path, struct stat *ret)
{
    struct statfs fs;
    if (!may_be_one(dir, path))
        return false;
    int fd = openat(dir, path, O_PATH | O_CLOEXEC);
    bool yes = fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == MQUEUE_MAGIC && fstat(fd, ret) == 0;
    if (fd >= 0)
        close(fd);
    return yes;
}
