/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The directory STORE/cache: one lock for those who make something large in it, and a place aside
 * that is cleared by the next one to hold the lock. Readers take no lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/fd.h"
#include "base/io.h"
#include "store/cache-internal.h"
#include "store/scratch.h"

#define LOCK_POLL_US 20000

static gboolean cant_write(StasisStore *store, const char *what, GError **error)
{
    int errnum = errno;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NO_STORE,
                "store %s: cache/ can't be written: %s: %s", store->path, what, g_strerror(errnum));
    return FALSE;
}

int stasis_cache_open(StasisStore *store, gboolean create, GError **error)
{
    int dir_fd = stasis_store_scratch_fd(store, error);
    if (dir_fd < 0)
        return -1;
    if (create && mkdirat(dir_fd, "cache", 0700) < 0 && errno != EEXIST) {
        cant_write(store, "make it", error);
        return -1;
    }
    int fd = stasis_store_open_dir(dir_fd, "cache");
    if (fd < 0)
        cant_write(store, "open it", error);
    return fd;
}

char *stasis_cache_name(const char *id, const char *what)
{
    return g_strdup_printf("%s.%s", id, what);
}

#define HALF_AFTER_S 3600

/* Written beside what it was to replace (stasis_write_file_at()) by a process that is gone? It may
 * be one of another machine or container, whose processes we can't see: not if it is a new one. */
static gboolean is_half(int cache_fd, const char *name)
{
    struct stat st;
    const char *pid = name[0] == '.' ? strrchr(name, '.') + 1 : "";
    return g_ascii_isdigit(*pid) && fstatat(cache_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           st.st_mtime < time(NULL) - HALF_AFTER_S;
}

/* Of one who shares it with nobody (template.c), and is gone? */
static gboolean is_left(int cache_fd, const char *name)
{
    if (strchr(name, STASIS_CACHE_OWN[0]) == NULL)
        return FALSE;
    stasis_autofd int fd = stasis_store_open_dir(cache_fd, name);
    return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
}

/* What is kept for images that are gone, and what a killed maker left. */
static void sweep(StasisStore *store, int cache_fd, int aside_fd)
{
    g_auto(GStrv) left = stasis_store_list_names(aside_fd);
    g_auto(GStrv) names = stasis_store_list_names(cache_fd);
    for (guint i = 0; left != NULL && left[i] != NULL; i++)
        stasis_store_remove_dir(aside_fd, left[i]);
    for (guint i = 0; names != NULL && names[i] != NULL; i++) {
        g_autofree char *id = g_strndup(names[i], STASIS_ID_CHARS);
        if (is_half(cache_fd, names[i]))
            unlinkat(cache_fd, names[i], 0);
        if (stasis_id_is_valid(id) && names[i][STASIS_ID_CHARS] == '.' &&
            (is_left(cache_fd, names[i]) ||
             (faccessat(store->images_fd, id, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)))
            stasis_store_remove_dir(cache_fd, names[i]);
    }
}

int stasis_cache_lock(StasisStore *store, int cache_fd, int *ret_aside_fd,
                      GCancellable *cancellable, GError **error)
{
    stasis_autofd int lock =
        openat(cache_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0) {
        cant_write(store, "open lock", error);
        return -1;
    }
    while (flock(lock, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            cant_write(store, "lock it", error);
            return -1;
        }
        if (cancellable != NULL && g_cancellable_is_cancelled(cancellable)) {
            stasis_set_cancelled(error);
            return -1;
        }
        g_usleep(LOCK_POLL_US);
    }
    if (mkdirat(cache_fd, "tmp", 0700) < 0 && errno != EEXIST) {
        cant_write(store, "make tmp/", error);
        return -1;
    }
    stasis_autofd int aside = stasis_store_open_dir(cache_fd, "tmp");
    if (aside < 0) {
        cant_write(store, "open tmp/", error);
        return -1;
    }
    sweep(store, cache_fd, aside);
    *ret_aside_fd = stasis_steal_fd(&aside);
    return stasis_steal_fd(&lock);
}

void stasis_cache_remove(StasisStore *store, const char *id)
{
    static const char *const kinds[] = { STASIS_CACHE_RAM, STASIS_CACHE_DISK,
                                         STASIS_CACHE_TOUCHED };
    stasis_autofd int cache_fd = stasis_cache_open(store, FALSE, NULL);
    for (gsize i = 0; cache_fd >= 0 && i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *name = stasis_cache_name(id, kinds[i]);
        stasis_store_remove_dir(cache_fd, name);
    }
}
