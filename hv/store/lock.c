/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The one writer lock of a store: an open-file-description lock (fcntl(2)) on the file `lock`,
 * which the kernel drops when the last descriptor of it closes, so that a killed writer leaves no
 * lock behind. What it left in tmp/ is removed by the next one to come, except where somebody works
 * without the lock (work.c). The PID in the file is for the message only.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"

#define POLL_US 2000u

gboolean stasis_store_cant_write(StasisStore *store, int errnum, const char *what, GError **error)
{
    g_set_error(
        error, STASIS_ERROR, STASIS_ERROR_NO_STORE,
        "store %s can't be written: %s: %s; make it writable or choose another with --store",
        store->path, what, g_strerror(errnum));
    return FALSE;
}

static gboolean set_lock(int fd, short type)
{
    struct flock lock = { .l_type = type, .l_whence = SEEK_SET };
    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

static void set_locked_error(StasisStore *store, int fd, GError **error)
{
    char holder[16] = "";
    ssize_t n = pread(fd, holder, sizeof(holder) - 1, 0);
    int pid = n > 0 ? atoi(holder) : 0;
    g_autofree char *who = pid > 0 ? g_strdup_printf("process %d", pid) : g_strdup("a process");
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_LOCKED,
                "store %s is locked: %s is writing to it; try again when that has ended",
                store->path, who);
}

static void remove_leftovers(int tmp_fd)
{
    g_auto(GStrv) names = stasis_store_list_names(tmp_fd);
    for (guint i = 0; names != NULL && names[i] != NULL; i++)
        stasis_work_sweep(tmp_fd, names[i]);
}

int stasis_store_open_tmp(StasisStore *store, GError **error)
{
    if (mkdirat(store->dir_fd, "tmp", 0700) < 0 && errno != EEXIST) {
        stasis_store_cant_write(store, errno, "make tmp/", error);
        return -1;
    }
    int tmp_fd = stasis_store_open_dir(store->dir_fd, "tmp");
    if (tmp_fd < 0)
        stasis_store_cant_write(store, errno, "open tmp/", error);
    return tmp_fd;
}

/* Polled: a blocking fcntl() could not be cancelled. Who waits holds a flock(2) on the same file,
 * which is another lock and the queue's head: a writer that comes back at once stands behind it, so
 * that two that write without a pause don't keep a third out. */
static gboolean try_lock(int fd, gboolean *at_head)
{
    if (!*at_head && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return FALSE;
    *at_head = TRUE;
    if (!set_lock(fd, F_WRLCK))
        return FALSE;
    flock(fd, LOCK_UN);
    return TRUE;
}

static gboolean wait_for_lock(StasisStore *store, int fd, guint wait_ms, GCancellable *cancellable,
                              GError **error)
{
    guint64 until = stasis_now_us() + (guint64)wait_ms * 1000;
    gboolean at_head = FALSE;
    while (!try_lock(fd, &at_head)) {
        if (errno != EAGAIN && errno != EACCES)
            return stasis_store_cant_write(store, errno, "lock", error);
        if (g_cancellable_set_error_if_cancelled(cancellable, error))
            return FALSE;
        if (stasis_now_us() >= until) {
            set_locked_error(store, fd, error);
            return FALSE;
        }
        g_usleep(POLL_US);
    }
    return TRUE;
}

int stasis_store_lock(StasisStore *store, guint wait_ms, GCancellable *cancellable, int *ret_tmp_fd,
                      GError **error)
{
    stasis_autofd int fd =
        openat(store->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        stasis_store_cant_write(store, errno, "open lock", error);
        return -1;
    }
    if (!wait_for_lock(store, fd, wait_ms, cancellable, error))
        return -1;
    char holder[16];
    int len = snprintf(holder, sizeof(holder), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) == 0)
        stasis_pwrite_all(fd, holder, (size_t)len, 0);

    stasis_autofd int tmp_fd = stasis_store_open_tmp(store, error);
    if (tmp_fd < 0)
        return -1;
    remove_leftovers(tmp_fd);
    *ret_tmp_fd = stasis_steal_fd(&tmp_fd);
    return stasis_steal_fd(&fd);
}

void stasis_store_unlock(int *lock_fd)
{
    if (*lock_fd >= 0) {
        if (ftruncate(*lock_fd, 0) < 0)
            errno = 0; /* the PID is for a message only */
        set_lock(*lock_fd, F_UNLCK);
    }
    stasis_clear_fd(lock_fd);
}

gboolean stasis_store_is_locked(StasisStore *store)
{
    stasis_autofd int fd = openat(store->dir_fd, "lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
    return fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}
