/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a guest's disk had in it, on its way into a directory of this host. Device nodes and
 * set-user-ID programs of a guest would be the host's: whoever reaches them has the host's disks,
 * or its root. So all is unpacked where nobody else gets in, made harmless there, and moved on
 * entry by entry, by descriptors of directories; no link is followed.
 */
#include <dirent.h>
#include <errno.h>
#include <stasis/error.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "engine/files/files-internal.h"

#define MAX_DEPTH 200u

static gboolean settle_in(int from, int to, guint depth, GError **error);

static int open_dir(int dir_fd, const char *name)
{
    return openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Owner, mode and times come last: it may be one that nothing can be put into. */
static gboolean settle_dir(int from, int to, const char *name, const struct stat *st, guint depth,
                           GError **error)
{
    const struct timespec times[2] = { st->st_atim, st->st_mtim };
    if (depth == 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "more than %u directories in another",
                    MAX_DEPTH);
        return FALSE;
    }
    if ((st->st_mode & 0700) != 0700 && fchmodat(from, name, 0700, 0) < 0)
        return stasis_set_errno(error, errno, "%s", name);
    stasis_autofd int source = open_dir(from, name);
    if (source < 0 || (mkdirat(to, name, 0700) < 0 && errno != EEXIST))
        return stasis_set_errno(error, errno, "make %s", name);
    stasis_autofd int target = open_dir(to, name);
    if (target < 0)
        return stasis_set_errno(error, errno, "make %s", name);
    if (!settle_in(source, target, depth - 1, error))
        return FALSE;
    if (fchown(target, st->st_uid, st->st_gid) < 0 || fchmod(target, st->st_mode & 01777) < 0 ||
        futimens(target, times) < 0 || unlinkat(from, name, AT_REMOVEDIR) < 0)
        return stasis_set_errno(error, errno, "set what %s is", name);
    return TRUE;
}

static gboolean settle_one(int from, int to, const char *name, guint depth, GError **error)
{
    struct stat st;
    if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return stasis_set_errno(error, errno, "%s", name);
    if (S_ISDIR(st.st_mode))
        return settle_dir(from, to, name, &st, depth, error);
    if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
        return unlinkat(from, name, 0) == 0 || stasis_set_errno(error, errno, "remove %s", name);
    if (S_ISREG(st.st_mode) && fchmodat(from, name, st.st_mode & 0777, 0) < 0)
        return stasis_set_errno(error, errno, "set the mode of %s", name);
    return renameat(from, name, to, name) == 0 || stasis_set_errno(error, errno, "make %s", name);
}

static gboolean settle_in(int from, int to, guint depth, GError **error)
{
    int copy = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
    if (dir == NULL) {
        stasis_set_errno(error, errno, "look into a directory");
        stasis_close_fdp(&copy);
        return FALSE;
    }
    gboolean ok = TRUE;
    for (struct dirent *entry; ok && (entry = readdir(dir)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            ok = settle_one(from, to, entry->d_name, depth, error);
    closedir(dir);
    return ok;
}

gboolean stasis_files_settle(const char *from, const char *to, GError **error)
{
    stasis_autofd int source = open_dir(AT_FDCWD, from);
    stasis_autofd int target = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (source < 0 || target < 0)
        return stasis_set_errno(error, errno, "%s", to);
    if (settle_in(source, target, MAX_DEPTH, error))
        return TRUE;
    g_prefix_error(error, "copy to %s: ", to);
    return FALSE;
}
