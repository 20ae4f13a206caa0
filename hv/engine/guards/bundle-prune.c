/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a name or an age says of a file is not enough to delete it. A bundle goes when it is whole
 * as far as its heads tell, says that @by wrote it of that VM, and has the name that it was given
 * then: so one that was copied, or renamed to be kept, or is not all there, stays.
 */
#include "engine/guards/bundle-prune.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/bundle.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"

#define SUFFIX ".bundle"

typedef struct {
    char *name;
    gint64 created_us;
    ino_t ino;
} Own;

static void own_free(gpointer data)
{
    Own *own = data;
    g_free(own->name);
    g_free(own);
}

/* A file of ours of that name, opened; or -1. */
static int open_own(int dir_fd, const char *name, struct stat *ret)
{
    stasis_autofd int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, ret) < 0 || !S_ISREG(ret->st_mode) || ret->st_uid != geteuid())
        return -1;
    return stasis_steal_fd(&fd);
}

/* NULL: it is none of those. */
static Own *read_own(int dir_fd, const char *name, const char *by, const char *domain)
{
    struct stat st;
    stasis_autofd int fd = open_own(dir_fd, name, &st);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autoptr(StasisBundle) bundle = fd >= 0 ? stasis_bundle_open(path, NULL) : NULL;
    const StasisBundleInfo *info = bundle != NULL ? stasis_bundle_get_info(bundle) : NULL;
    if (info == NULL || g_strcmp0(info->by, by) != 0 || g_strcmp0(info->name, name) != 0 ||
        g_strcmp0(info->domain, domain) != 0)
        return NULL;
    Own *own = g_new0(Own, 1);
    *own = (Own){ g_strdup(name), info->created_us, st.st_ino };
    return own;
}

static gint compare_age(gconstpointer a, gconstpointer b)
{
    const Own *x = *(Own *const *)a, *y = *(Own *const *)b;
    if (x->created_us != y->created_us)
        return x->created_us < y->created_us ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* All of them, oldest first. */
static GPtrArray *find_all(int dir_fd, const char *by, const char *domain, const char *newest)
{
    GPtrArray *all = g_ptr_array_new_with_free_func(own_free);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", dir_fd);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;) {
        Own *own = name[0] != '.' && g_str_has_suffix(name, SUFFIX)
                       ? read_own(dir_fd, name, by, domain)
                       : NULL;
        if (own == NULL)
            continue;
        if (g_strcmp0(name, newest) == 0)
            own->created_us = G_MAXINT64;
        g_ptr_array_add(all, own);
    }
    g_ptr_array_sort(all, compare_age);
    return all;
}

gboolean stasis_bundle_prune(const char *dir, const char *by, const char *domain, guint keep,
                             const char *newest, char ***ret_removed, GError **error)
{
    g_autoptr(GStrvBuilder) removed = g_strv_builder_new();
    g_autoptr(GError) local = NULL;
    stasis_autofd int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        stasis_set_errno(&local, errno, "open %s", dir);
    g_autoptr(GPtrArray) all = dir_fd >= 0 ? find_all(dir_fd, by, domain, newest) : NULL;
    for (guint i = 0; all != NULL && i + keep < all->len; i++) {
        const Own *own = all->pdata[i];
        struct stat now;
        /* Another by now? */
        if (fstatat(dir_fd, own->name, &now, AT_SYMLINK_NOFOLLOW) < 0 || now.st_ino != own->ino)
            continue;
        g_autofree char *path = g_build_filename(dir, own->name, NULL);
        if (unlinkat(dir_fd, own->name, 0) == 0)
            g_strv_builder_add(removed, path);
        else if (local == NULL)
            stasis_set_errno(&local, errno, "remove %s", path);
    }
    *ret_removed = g_strv_builder_end(removed);
    if (local == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}
