/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a guest's disk had in it, on its way into a directory of this host. Device nodes and
 * set-user-ID programs of a guest would be the host's: whoever reaches them has the host's disks,
 * or its root. So all is unpacked where nobody else gets in, made harmless there, and moved on
 * entry by entry, by descriptors of directories; no link is followed.
 */
#include <errno.h>
#include <stasis/error.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/tree.h"
#include "engine/files/files-internal.h"

#define MAX_DEPTH 200u

typedef struct {
    GError *first; /* what could not be done; the rest is */
} Settling;

static void settle_in(Settling *settling, int from, int to, guint depth);

/* With errno. */
static void fail(Settling *settling, const char *what, const char *name)
{
    int errnum = errno;
    if (settling->first != NULL)
        return;
    if (errnum == EXDEV)
        g_set_error(&settling->first, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "%s %s: its place is on another file system than the directory that all of it "
                    "goes to; copy it into one of that file system",
                    what, name);
    else
        stasis_set_errno(&settling->first, errnum, "%s %s", what, name);
}

static int open_dir(int dir_fd, const char *name)
{
    return openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Owner, mode and times come last: it may be one that nothing can be put into. One that was there
 * and is somebody else's keeps its own. */
static void settle_dir(Settling *settling, int from, int to, const char *name,
                       const struct stat *st, guint depth)
{
    const struct timespec times[2] = { st->st_atim, st->st_mtim };
    if (depth == 0) {
        if (settling->first == NULL)
            g_set_error(&settling->first, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "more than %u directories in another", MAX_DEPTH);
        return;
    }
    if ((st->st_mode & 0700) != 0700 && fchmodat(from, name, 0700, 0) < 0)
        return fail(settling, "open", name);
    stasis_autofd int source = open_dir(from, name);
    gboolean made = source >= 0 && mkdirat(to, name, 0700) == 0;
    if (source < 0 || (!made && errno != EEXIST))
        return fail(settling, "make", name);
    stasis_autofd int target = open_dir(to, name);
    if (target < 0)
        return fail(settling, "make", name);
    settle_in(settling, source, target, depth - 1);
    if ((fchown(target, st->st_uid, st->st_gid) < 0 || fchmod(target, st->st_mode & 01777) < 0 ||
         futimens(target, times) < 0) &&
        (made || errno != EPERM))
        fail(settling, "set what is", name);
}

static void settle_one(Settling *settling, int from, int to, const char *name, guint depth)
{
    struct stat st;
    if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return fail(settling, "look at", name);
    if (S_ISDIR(st.st_mode))
        return settle_dir(settling, from, to, name, &st, depth);
    if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
        return;
    if (S_ISREG(st.st_mode) && fchmodat(from, name, st.st_mode & 0777, 0) < 0)
        return fail(settling, "set the mode of", name);
    if (renameat(from, name, to, name) < 0)
        fail(settling, "make", name);
}

static void settle_in(Settling *settling, int from, int to, guint depth)
{
    int copy = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
    if (dir == NULL) {
        fail(settling, "look into", "a directory");
        stasis_close_fdp(&copy);
        return;
    }
    for (struct dirent *entry; (entry = stasis_next_entry(dir)) != NULL;)
        settle_one(settling, from, to, entry->d_name, depth);
    if (errno != 0)
        fail(settling, "look into", "a directory");
    closedir(dir);
}

gboolean stasis_files_settle(const char *from, const char *to, GError **error)
{
    Settling settling = { NULL };
    stasis_autofd int source = open_dir(AT_FDCWD, from);
    stasis_autofd int target = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (source < 0 || target < 0)
        return stasis_set_errno(error, errno, "%s", to);
    settle_in(&settling, source, target, MAX_DEPTH);
    if (settling.first == NULL)
        return TRUE;
    g_propagate_prefixed_error(error, settling.first, "copy to %s: ", to);
    return FALSE;
}
