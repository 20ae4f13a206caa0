/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/guards/memory-store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stasis/error.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/tree.h"
#include "engine/guards/kept.h"
#include "engine/transactions/transaction-file.h"
#include "vmm/registry.h"

#define LOCK_FILE "lock"
#define STORE_DIR "store"
#define POLL_US 5000

/* Whoever can write there can have us load a machine of his choice. */
static gboolean check_owner(const char *dir, GError **error)
{
    struct stat st;
    if (lstat(dir, &st) < 0)
        return stasis_set_errno(error, errno, "%s", dir);
    if (S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & (S_IRWXG | S_IRWXO)) == 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "%s is not ours alone (a directory of ours, mode 700); remove it, or set "
                "STASIS_RUNTIME_DIR",
                dir);
    return FALSE;
}

static char *base_dir(GError **error)
{
    const char *chosen = g_getenv("STASIS_RUNTIME_DIR");
    g_autofree char *dir = NULL;
    if (chosen != NULL && *chosen != '\0') {
        g_autofree char *runtime = stasis_runtime_dir(error);
        if (runtime == NULL)
            return NULL;
        dir = g_build_filename(runtime, ".memory", NULL);
    } else {
        dir = g_strdup_printf("/dev/shm/stasis-%u", (guint)geteuid());
    }
    if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
        stasis_set_errno(error, errno, "make %s", dir);
        return NULL;
    }
    return check_owner(dir, error) ? g_steal_pointer(&dir) : NULL;
}

static int try_hold(const char *dir, GError **error)
{
    g_autofree char *path = g_build_filename(dir, LOCK_FILE, NULL);
    if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
        stasis_set_errno(error, errno, "make %s", dir);
        return -1;
    }
    stasis_autofd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat ours, now;
    if (fd < 0) {
        if (errno != ENOENT) /* being removed */
            stasis_set_errno(error, errno, "open %s", path);
        return -1;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &ours) < 0 || stat(path, &now) < 0 ||
        ours.st_ino != now.st_ino)
        return -1;
    return stasis_steal_fd(&fd);
}

/* Of VMs that are no more, unless something waits to be put right, or for its place. */
static void sweep(const char *base, const char *but)
{
    g_autoptr(GDir) dir = g_dir_open(base, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;) {
        g_autoptr(StasisRecord) record = NULL;
        if (strcmp(name, but) == 0 || !stasis_vm_name_check(name, NULL))
            continue;
        record = stasis_record_load(name, NULL);
        g_autofree char *path = g_build_filename(base, name, NULL);
        g_autofree char *kept = stasis_kept_find(path);
        if (record != NULL || kept != NULL || stasis_transaction_file_exists(path))
            continue;
        stasis_autofd int fd = try_hold(path, NULL);
        if (fd >= 0)
            stasis_remove_tree(path);
    }
}

StasisMemory *stasis_memory_open(const char *name, const char *doing, guint wait_ms, GError **error)
{
    g_autofree char *base = stasis_vm_name_check(name, error) ? base_dir(error) : NULL;
    if (base == NULL)
        return NULL;
    sweep(base, name);
    g_autoptr(StasisMemory) memory = g_new0(StasisMemory, 1);
    memory->dir = g_build_filename(base, name, NULL);
    guint64 until = stasis_now_us() + wait_ms * G_GUINT64_CONSTANT(1000);
    g_autoptr(GError) local = NULL;
    while ((memory->lock_fd = try_hold(memory->dir, &local)) < 0) {
        if (local != NULL) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
        if (stasis_now_us() >= until) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                        "VM %s: %s has to wait: another transaction or guard of it is under way",
                        name, doing);
            return NULL;
        }
        g_usleep(POLL_US);
    }
    return g_steal_pointer(&memory);
}

void stasis_memory_close(StasisMemory *memory, gboolean drop)
{
    g_autofree char *store = g_build_filename(memory->dir, STORE_DIR, NULL);
    if (drop)
        stasis_remove_tree(store);
    stasis_memory_free(memory);
}

void stasis_memory_free(StasisMemory *memory)
{
    if (memory == NULL)
        return;
    stasis_clear_fd(&memory->lock_fd);
    g_free(memory->dir);
    g_free(memory);
}

StasisStore *stasis_memory_get_store(StasisMemory *memory, GError **error)
{
    g_autofree char *path = g_build_filename(memory->dir, STORE_DIR, NULL);
    return stasis_store_open(path, STASIS_STORE_CREATE, error);
}

gboolean stasis_memory_is_ram(const StasisMemory *memory)
{
    struct statfs fs;
    return statfs(memory->dir, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

gboolean stasis_memory_has(const StasisMemory *memory, StasisStore *store)
{
    g_autofree char *path = g_build_filename(memory->dir, STORE_DIR, NULL);
    return g_strcmp0(stasis_store_get_path(store), path) == 0;
}
