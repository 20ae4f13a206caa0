/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

#define TREE_DEPTH 8

struct dirent *stasis_next_entry(DIR *dir)
{
    struct dirent *entry;
    do {
        errno = 0;
        entry = readdir(dir);
    } while (entry != NULL &&
             (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
    return entry;
}

int stasis_empty_dir(int dir_fd, guint depth)
{
    int copy = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
    int r = dir == NULL ? -errno : 0;
    if (dir == NULL)
        stasis_close_fdp(&copy);
    for (struct dirent *entry; r == 0;) {
        entry = stasis_next_entry(dir);
        if (entry == NULL) {
            r = -errno;
            break;
        }
        if (unlinkat(dir_fd, entry->d_name, 0) == 0 || errno == ENOENT)
            continue;
        /* One of our own may be one that nothing can be taken from. */
        if (errno == EACCES && fchmod(dir_fd, 0700) == 0 && unlinkat(dir_fd, entry->d_name, 0) == 0)
            continue;
        if (errno != EISDIR || depth == 0) {
            r = -errno;
            continue;
        }
        stasis_autofd int sub =
            openat(dir_fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        r = sub < 0 ? -errno : stasis_empty_dir(sub, depth - 1);
        if (r == 0 && unlinkat(dir_fd, entry->d_name, AT_REMOVEDIR) < 0)
            r = -errno;
    }
    if (dir != NULL)
        closedir(dir);
    return r;
}

void stasis_remove_tree(const char *path)
{
    stasis_autofd int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && stasis_empty_dir(fd, TREE_DEPTH) == 0)
        rmdir(path);
}
