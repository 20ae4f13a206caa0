/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A directory in tmp/ to prepare something in while others write to the store. A writer that takes
 * the lock removes what is in tmp/, as its owner must be dead; here the owner lives, and shows it
 * by a flock(2) on the directory, which ends with it. So a killed worker leaves what the next
 * writer sweeps, like a killed writer, and a live one is left alone.
 *
 * Whoever sweeps holds that lock too, while it removes, and leaves what it can't lock, for whatever
 * reason; and whoever makes a directory looks, once it has the lock, whether it is still there.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"

#define MAX_TRIES 100
#define PREFIX "work-"

static gboolean is_there(int tmp_fd, const char *name, int dir_fd)
{
    struct stat a, b;
    return fstat(dir_fd, &a) == 0 && fstatat(tmp_fd, name, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static gboolean give_up(StasisStore *store, int tmp_fd, const char *name, GError **error)
{
    int errnum = errno;
    unlinkat(tmp_fd, name, AT_REMOVEDIR);
    return stasis_set_errno(error, errnum, "store %s: open and lock tmp/%s", store->path, name);
}

gboolean stasis_work_open(StasisWork *work, StasisStore *store, GError **error)
{
    stasis_autofd int tmp_fd = stasis_store_open_tmp(store, error);
    if (tmp_fd < 0)
        return FALSE;
    for (guint tries = 0; tries < MAX_TRIES; tries++) {
        g_autofree char *name = g_strdup_printf(PREFIX "%08x%08x", g_random_int(), g_random_int());
        int errnum = mkdirat(tmp_fd, name, 0700) < 0 ? errno : 0;
        if (errnum == EROFS || errnum == EACCES || errnum == EPERM)
            return stasis_store_cant_write(store, errnum, "make a directory in tmp/", error);
        if (errnum != 0 && errnum != EEXIST)
            return stasis_set_errno(error, errnum, "store %s: make tmp/%s", store->path, name);
        stasis_autofd int dir_fd = stasis_store_open_dir(tmp_fd, name);
        if (dir_fd < 0 || flock(dir_fd, LOCK_EX | LOCK_NB) < 0) {
            if (errno == ENOENT || errno == EWOULDBLOCK)
                continue;
            return give_up(store, tmp_fd, name, error);
        }
        if (!is_there(tmp_fd, name, dir_fd))
            continue;
        work->tmp_fd = stasis_steal_fd(&tmp_fd);
        work->dir_fd = stasis_steal_fd(&dir_fd);
        work->name = g_steal_pointer(&name);
        return TRUE;
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "store %s: no directory to work in: those made in tmp/ vanish", store->path);
    return FALSE;
}

void stasis_work_close(StasisWork *work)
{
    if (work->name != NULL)
        stasis_store_remove_dir(work->tmp_fd, work->name);
    stasis_clear_fd(&work->dir_fd);
    stasis_clear_fd(&work->tmp_fd);
    g_clear_pointer(&work->name, g_free);
}

void stasis_work_sweep(int tmp_fd, const char *name)
{
    stasis_autofd int dir_fd = stasis_store_open_dir(tmp_fd, name);
    gboolean no_dir = dir_fd < 0 && (errno == ENOTDIR || errno == ELOOP);
    /* Ours is left for whatever reason it can't be locked; another, if somebody has it locked. */
    if (!no_dir && (dir_fd < 0 || flock(dir_fd, LOCK_EX | LOCK_NB) < 0) &&
        (g_str_has_prefix(name, PREFIX) || errno == EWOULDBLOCK))
        return;
    stasis_store_remove_dir(tmp_fd, name);
}

gboolean stasis_work_is_alive(int tmp_fd, const char *name)
{
    stasis_autofd int dir_fd = stasis_store_open_dir(tmp_fd, name);
    return dir_fd >= 0 && flock(dir_fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}
