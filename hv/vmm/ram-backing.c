/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is behind a RAM block: anonymous memory, a memfd, a file or huge pages, shared or private.
 *
 * A file behind a shared mapping is opened by us: reads then cost QEMU nothing, no page table and
 * no page for a hole. /proc/PID/map_files leads to the very object that is mapped but needs
 * CAP_CHECKPOINT_RESTORE; without it, one of QEMU's descriptors for the same inode does. What is
 * opened must be the mapped inode, and a plain file: opening a device node could act on the
 * device, so it is looked at first.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "base/fd.h"
#include "vmm/ram-internal.h"

#define PAGE_BYTES 4096
#define HUGETLBFS_MAGIC 0x958458f6

/* A new description of the file at @path when it is a regular file with @inode, else -1. */
static int open_inode(const char *path, guint64 inode, gboolean for_write)
{
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_ino != inode)
        return -1;
    stasis_autofd int fd = open(path, (for_write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && for_write) /* a read-only medium; writes then fail, or go through QEMU */
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_ino != inode)
        return -1;
    return stasis_steal_fd(&fd);
}

static gboolean same_device(const char *path, const StasisMapping *map)
{
    struct stat st;
    return stat(path, &st) == 0 && major(st.st_dev) == map->dev_major &&
           minor(st.st_dev) == map->dev_minor;
}

static int open_by_descriptor(pid_t pid, const StasisMapping *map)
{
    g_autofree char *dir_path = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(dir_path, 0, NULL);
    if (dir == NULL)
        return -1;
    for (const char *name = g_dir_read_name(dir); name != NULL; name = g_dir_read_name(dir)) {
        g_autofree char *path = g_build_filename(dir_path, name, NULL);
        if (!same_device(path, map))
            continue;
        int fd = open_inode(path, map->inode, map->shared);
        if (fd >= 0)
            return fd;
    }
    return -1;
}

static int open_mapped_file(pid_t pid, const StasisMapping *map)
{
    g_autofree char *path =
        g_strdup_printf("/proc/%d/map_files/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x",
                        (int)pid, map->start, map->end);
    int fd = open_inode(path, map->inode, map->shared);
    return fd >= 0 ? fd : open_by_descriptor(pid, map);
}

static gboolean is_device(pid_t pid, const StasisMapping *map)
{
    g_autofree char *path =
        g_strdup_printf("/proc/%d/map_files/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x",
                        (int)pid, map->start, map->end);
    struct stat st;
    if (stat(path, &st) == 0)
        return !S_ISREG(st.st_mode);
    /* Shared anonymous memory is shown as this device, but is a file of the kernel's own. */
    if (g_str_has_prefix(map->path, "/dev/zero"))
        return FALSE;
    return g_str_has_prefix(map->path, "anon_inode:") ||
           (g_str_has_prefix(map->path, "/dev/") && stat(map->path, &st) == 0 &&
            !S_ISREG(st.st_mode));
}

static StasisBacking classify(const StasisMapping *map, guint64 page_bytes, int fd)
{
    struct statfs fs;
    if (page_bytes > PAGE_BYTES || g_str_has_prefix(map->path, "/anon_hugepage") ||
        (fd >= 0 && fstatfs(fd, &fs) == 0 && (guint32)fs.f_type == HUGETLBFS_MAGIC))
        return STASIS_BACKING_HUGETLB;
    if (map->inode == 0)
        return STASIS_BACKING_ANONYMOUS;
    if (g_str_has_prefix(map->path, "/memfd:") || g_str_has_prefix(map->path, "/dev/zero"))
        return STASIS_BACKING_MEMFD;
    return STASIS_BACKING_FILE;
}

gboolean stasis_ram_open_backing(pid_t pid, const GPtrArray *maps, StasisRamBlock *block,
                                 GError **error)
{
    const StasisMapping *map = stasis_procmaps_cover(maps, block->hva, block->max_bytes);
    if (map == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "RAM block \"%s\": 0x%" G_GINT64_MODIFIER "x bytes at 0x%" G_GINT64_MODIFIER
                    "x are not one mapping of QEMU %d",
                    block->name, block->max_bytes, block->hva, (int)pid);
        return FALSE;
    }
    if (map->inode != 0 && is_device(pid, map)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "RAM block \"%s\" is memory of a device (%s): its writes can't be tracked; "
                    "remove the device from the machine",
                    block->name, map->path);
        return FALSE;
    }
    stasis_autofd int fd = map->inode != 0 ? open_mapped_file(pid, map) : -1;
    block->shared = map->shared;
    block->backing = classify(map, block->page_bytes, fd);
    block->fd_offset = map->inode != 0 ? map->offset + (block->hva - map->start) : 0;
    if (map->shared)
        block->fd = stasis_steal_fd(&fd);
    else
        block->source_fd = stasis_steal_fd(&fd);
    return TRUE;
}
