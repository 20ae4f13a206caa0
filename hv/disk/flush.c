/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/flush.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "disk/internal.h"

/* Open for writing, by the flags (octal) in /proc/PID/fdinfo/FD. */
static gboolean is_writable(pid_t pid, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fdinfo/%s", (int)pid, name);
    g_autofree char *text = NULL;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return FALSE;
    const char *flags = strstr(text, "flags:");
    return flags != NULL &&
           (g_ascii_strtoull(flags + strlen("flags:"), NULL, 8) & O_ACCMODE) != O_RDONLY;
}

static gboolean is_on_disk(const char *path)
{
    struct stat st;
    struct statfs fs;
    if (stat(path, &st) < 0)
        return FALSE;
    if (S_ISBLK(st.st_mode))
        return TRUE;
    return S_ISREG(st.st_mode) && statfs(path, &fs) == 0 && fs.f_type != TMPFS_MAGIC &&
           fs.f_type != HUGETLBFS_MAGIC;
}

gboolean stasis_disk_flush(pid_t pid, GCancellable *cancellable, GError **error)
{
    g_autofree char *dir_path = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(dir_path, 0, NULL);
    const char *name;
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        if (cancellable != NULL && g_cancellable_is_cancelled(cancellable))
            return stasis_set_cancelled(error);
        g_autofree char *path = g_build_filename(dir_path, name, NULL);
        if (!is_on_disk(path) || !is_writable(pid, name))
            continue;
        /* Whoever writes back has its own open file: no lock of QEMU's is touched. */
        stasis_autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd >= 0)
            fdatasync(fd);
    }
    return TRUE;
}

/* Its command line has no way to quote a path. */
void stasis_disk_flush_in_qemu(StasisQmp *qmp, const StasisDisk *disk)
{
    if (!disk->writable || disk->has_iothread || strpbrk(disk->qdev, " \t\"\\") != NULL)
        return;
    g_autofree char *line = g_strdup_printf("qemu-io -d %s flush", disk->qdev);
    stasis_disk_do(qmp, NULL, "human-monitor-command", "command-line", line, NULL);
}
