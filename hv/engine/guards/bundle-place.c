/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * O_TMPFILE: a file without a name is gone with whoever had it open. A file system that has no such
 * files (NFS, FAT, some FUSE) gets a hidden one beside its place:
 *
 *     maker     open O_EXCL ── flock ── still there? ── … ── rename
 *     sweeper   open ── flock, or it is in use ── ours, still that one? ── unlink
 *
 * Its maker holds the lock for as long as he lives, so one that can be locked is nobody's; he who
 * was swept before he had it begins again.
 */
#include "engine/guards/bundle-place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"

#define PREFIX ".bundle."
#define DIGITS 8u
#define MAX_TRIES 10

/* ---- what was left ---- */

static gboolean is_partial(const char *name)
{
    return g_str_has_prefix(name, PREFIX) && strlen(name) == strlen(PREFIX) + DIGITS &&
           strspn(name + strlen(PREFIX), "0123456789abcdef") == DIGITS;
}

/* Is it a file of ours alone, which nobody works on? Then it is held by *@ret_fd. */
static gboolean is_left(int dir_fd, const char *name, int *ret_fd)
{
    struct stat held, now;
    *ret_fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return *ret_fd >= 0 && fstat(*ret_fd, &held) == 0 && S_ISREG(held.st_mode) &&
           held.st_uid == geteuid() && held.st_nlink == 1 &&
           flock(*ret_fd, LOCK_EX | LOCK_NB) == 0 &&
           fstatat(dir_fd, name, &now, AT_SYMLINK_NOFOLLOW) == 0 && now.st_ino == held.st_ino &&
           now.st_dev == held.st_dev;
}

static void sweep(int dir_fd)
{
    stasis_autofd int list_fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = list_fd >= 0 ? fdopendir(list_fd) : NULL;
    if (list == NULL)
        return;
    stasis_steal_fd(&list_fd);
    for (struct dirent *entry; (entry = readdir(list)) != NULL;) {
        stasis_autofd int fd = -1;
        if (is_partial(entry->d_name) && is_left(dir_fd, entry->d_name, &fd))
            unlinkat(dir_fd, entry->d_name, 0);
    }
    closedir(list);
}

void stasis_bundle_sweep(const char *dir)
{
    stasis_autofd int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd >= 0)
        sweep(dir_fd);
}

/* ---- a new one ---- */

/* $STASIS_BUNDLE_FILE=hidden: as where there are no files without a name, for tests. */
static int open_nameless(int dir_fd)
{
    if (g_strcmp0(g_getenv("STASIS_BUNDLE_FILE"), "hidden") == 0) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return openat(dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

/* −1 with errno; 0 also when it is to be tried again. */
static int open_hidden(StasisBundlePlace *place)
{
    struct stat st;
    g_autofree char *name = g_strdup_printf(PREFIX "%08x", g_random_int());
    stasis_autofd int fd = openat(place->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno == EEXIST ? 0 : -1;
    /* A file system without locks (some FUSE) is swept by nobody. */
    flock(fd, LOCK_EX);
    if (fstat(fd, &st) < 0)
        return -1;
    if (st.st_nlink == 0)
        return 0;
    place->fd = stasis_steal_fd(&fd);
    place->partial = g_steal_pointer(&name);
    return 0;
}

static gboolean open_file(StasisBundlePlace *place)
{
    place->fd = open_nameless(place->dir_fd);
    if (place->fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT))
        return place->fd >= 0;
    for (int tries = 0; tries < MAX_TRIES && place->fd < 0; tries++)
        if (open_hidden(place) < 0)
            return FALSE;
    errno = EEXIST;
    return place->fd >= 0;
}

static char *path_of(int fd)
{
    return g_strdup_printf("/proc/self/fd/%d", fd);
}

gboolean stasis_bundle_place_open(StasisBundlePlace *place, const char *dir, GError **error)
{
    *place = (StasisBundlePlace){ .fd = -1, .direct_fd = -1 };
    place->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (place->dir_fd < 0)
        return stasis_set_errno(error, errno, "open %s", dir);
    sweep(place->dir_fd);
    if (!open_file(place))
        return stasis_set_errno(error, errno, "a new file in %s", dir);
    g_autofree char *path = path_of(place->fd);
    place->direct_fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    return TRUE;
}

/* 0, or −1 with errno: EEXIST when there is one of that name. */
static int rename_hidden(StasisBundlePlace *place, const char *base)
{
    int r = renameat2(place->dir_fd, place->partial, place->dir_fd, base, RENAME_NOREPLACE);
    if (r == 0 || errno != EINVAL) /* EINVAL: NFS can't be asked for that */
        return r;
    return linkat(place->dir_fd, place->partial, place->dir_fd, base, 0) == 0
               ? unlinkat(place->dir_fd, place->partial, 0)
               : -1;
}

gboolean stasis_bundle_place_name(StasisBundlePlace *place, const char *base, GError **error)
{
    if (!stasis_fault(STASIS_FAULT_BUNDLE_WRITTEN, error))
        return FALSE;
    if (fsync(place->fd) < 0)
        return stasis_set_errno(error, errno, "sync the bundle");
    g_autofree char *path = path_of(place->fd);
    int r = place->partial != NULL ? rename_hidden(place, base)
                                   : linkat(AT_FDCWD, path, place->dir_fd, base, AT_SYMLINK_FOLLOW);
    if (r < 0)
        return stasis_set_errno(error, errno, "name the bundle %s", base);
    g_clear_pointer(&place->partial, g_free);
    if (fsync(place->dir_fd) < 0)
        return stasis_set_errno(error, errno, "sync the bundle's directory");
    return TRUE;
}

void stasis_bundle_place_clear(StasisBundlePlace *place)
{
    if (place->partial != NULL)
        unlinkat(place->dir_fd, place->partial, 0);
    g_clear_pointer(&place->partial, g_free);
    stasis_clear_fd(&place->direct_fd);
    stasis_clear_fd(&place->fd);
    stasis_clear_fd(&place->dir_fd);
}
