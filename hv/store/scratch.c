/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/tree.h"
#include "store/internal.h"

/* Names the store that a directory is of, so that one of a store that is gone can be cleared. */
#define OWNER_FILE "store"
#define MAX_PATH_BYTES 4096u
#define DISKS "disks"

gboolean stasis_store_scratch_is_memory(StasisStore *store)
{
    /* Encrypted images may also be in another store, where only who has a key can open them. */
    return store->config.keys.encrypt[0] != '\0' ||
           stasis_keys_has_kind(store->keys, STASIS_KEY_SEAL);
}

static char *base_path(void)
{
    return g_strdup_printf("/dev/shm/stasis-sealed-%u", (guint)geteuid());
}

/* Ours alone, and in memory: whoever can read there reads what is encrypted in the store. */
static gboolean is_safe(int fd)
{
    struct stat st;
    struct statfs fs;
    return fstat(fd, &st) == 0 && fstatfs(fd, &fs) == 0 && st.st_uid == geteuid() &&
           (st.st_mode & (S_IRWXG | S_IRWXO)) == 0 &&
           (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

static int open_base(const char *base, GError **error)
{
    if (mkdir(base, 0700) < 0 && errno != EEXIST) {
        stasis_set_errno(error, errno, "make %s", base);
        return -1;
    }
    stasis_autofd int fd = stasis_store_open_dir(AT_FDCWD, base);
    if (fd < 0) {
        stasis_set_errno(error, errno, "open %s", base);
        return -1;
    }
    if (is_safe(fd))
        return stasis_steal_fd(&fd);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "%s is not ours alone (mode 700) and in memory (tmpfs), as it must be to have what "
                "an encrypted store's images hold; remove it, or mount a tmpfs on /dev/shm",
                base);
    return -1;
}

/* Directories of stores that are no more; but not of one that may only be somewhere else now, while
 * VMs have their disks there (whose sweep knows which of these are wanted). */
static void sweep(const char *base, int base_fd, const char *own)
{
    g_auto(GStrv) names = stasis_store_list_names(base_fd);
    for (guint i = 0; names != NULL && names[i] != NULL; i++) {
        if (strcmp(names[i], own) == 0)
            continue;
        gsize len;
        stasis_autofd int fd = stasis_store_open_dir(base_fd, names[i]);
        g_autofree char *owner =
            fd >= 0 ? stasis_read_file_at(fd, OWNER_FILE, MAX_PATH_BYTES, &len, NULL) : NULL;
        g_autofree char *dir = g_build_filename(base, names[i], NULL);
        if (owner != NULL && access(owner, F_OK) < 0 && errno == ENOENT &&
            (unlinkat(fd, DISKS, AT_REMOVEDIR) == 0 || errno == ENOENT))
            stasis_remove_tree(dir);
    }
}

static int open_memory(StasisStore *store, GError **error)
{
    const char *uuid = store->config.uuid;
    g_autofree char *base = base_path();
    if (!g_uuid_string_is_valid(uuid)) {
        stasis_corrupt(error, "store %s: \"%s\" is no UUID", store->path, uuid);
        return -1;
    }
    stasis_autofd int base_fd = open_base(base, error);
    if (base_fd < 0)
        return -1;
    if (mkdirat(base_fd, uuid, 0700) < 0 && errno != EEXIST) {
        stasis_set_errno(error, errno, "make %s/%s", base, uuid);
        return -1;
    }
    stasis_autofd int fd = stasis_store_open_dir(base_fd, uuid);
    if (fd < 0) {
        stasis_set_errno(error, errno, "open %s/%s", base, uuid);
        return -1;
    }
    if (!stasis_write_file_at(fd, OWNER_FILE, store->path, strlen(store->path), FALSE, error))
        return -1;
    sweep(base, base_fd, uuid);
    return stasis_steal_fd(&fd);
}

int stasis_store_scratch_fd(StasisStore *store, GError **error)
{
    static GMutex mutex;
    if (!stasis_store_scratch_is_memory(store))
        return store->dir_fd;
    g_mutex_lock(&mutex);
    if (store->scratch_fd < 0)
        store->scratch_fd = open_memory(store, error);
    int fd = store->scratch_fd;
    g_mutex_unlock(&mutex);
    return fd;
}

char *stasis_store_scratch_path(StasisStore *store, const char *name, GError **error)
{
    if (!stasis_store_scratch_is_memory(store))
        return g_build_filename(store->path, name, NULL);
    int fd = stasis_store_scratch_fd(store, error);
    if (fd < 0)
        return NULL;
    if (mkdirat(fd, name, 0700) < 0 && errno != EEXIST) {
        stasis_set_errno(error, errno, "make a directory for %s in memory", name);
        return NULL;
    }
    g_autofree char *base = base_path();
    return g_build_filename(base, store->config.uuid, name, NULL);
}

char **stasis_scratch_find(const char *name)
{
    g_autofree char *base = base_path();
    stasis_autofd int fd = stasis_store_open_dir(AT_FDCWD, base);
    g_auto(GStrv) stores = fd >= 0 && is_safe(fd) ? stasis_store_list_names(fd) : NULL;
    g_autoptr(GPtrArray) found = g_ptr_array_new();
    for (guint i = 0; stores != NULL && stores[i] != NULL; i++)
        g_ptr_array_add(found, g_build_filename(base, stores[i], name, NULL));
    g_ptr_array_add(found, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&found), FALSE);
}
