/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU locks bytes 100 to 299 of what it opens, with open file description locks, shared or not
 * according to what it does (block/file-posix.c). Writing needs that nobody has any. A write lease
 * (fcntl(2), F_SETLEASE) is given on a file that nobody else has open at all, by whatever name.
 */
#include "disk/in-use.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/io.h"

/* Of a qcow2 header (QEMU's docs/interop/qcow2.txt). */
#define QCOW2_MAGIC "QFI\xfb"
#define BACKING_OFFSET 8
#define VERSION_OFFSET 4
#define FEATURES_OFFSET 72
#define HEADER_BYTES 104
#define FEATURE_DATA_FILE ((guint64)1 << 2)

static gboolean busy(const char *path, const char *who, GError **error)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                "%s is in use: %s; nothing was changed, shut down what uses it first", path, who);
    return FALSE;
}

static gboolean is_behind_loop(const char *path)
{
    g_autofree char *full = g_canonicalize_filename(path, NULL);
    g_autoptr(GDir) dir = g_dir_open("/sys/block", 0, NULL);
    const char *name;
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *file = g_strdup_printf("/sys/block/%s/loop/backing_file", name);
        g_autofree char *backing = NULL;
        if (g_str_has_prefix(name, "loop") && g_file_get_contents(file, &backing, NULL, NULL) &&
            strcmp(g_strchomp(backing), full) == 0)
            return TRUE;
    }
    return FALSE;
}

/* Where the kernel can't say, as on file systems without leases, nobody has. */
static gboolean somebody_has_it_open(int fd)
{
    /* Who opens it in between breaks the lease; the signal for that would end us. */
    fcntl(fd, F_SETSIG, SIGURG);
    if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
        return errno == EAGAIN;
    fcntl(fd, F_SETLEASE, F_UNLCK);
    return FALSE;
}

gboolean stasis_disk_check_unused(const char *path, GError **error)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return stasis_set_errno(error, errno, "%s", path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s is no disk: no file and no block "
                    "device",
                    path);
        return FALSE;
    }
    /* Of a block device: that it is not mounted. */
    int exclusive = S_ISBLK(st.st_mode) ? O_EXCL : 0;
    stasis_autofd int fd = open(path, O_RDWR | O_CLOEXEC | exclusive);
    if (fd < 0 && errno == EBUSY)
        return busy(path, "it is mounted, or part of another device", error);
    if (fd < 0)
        return stasis_set_errno(error, errno, "%s", path);
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        return stasis_set_errno(error, errno, "%s: its locks", path);
    if (lock.l_type != F_UNLCK)
        return busy(path, "a QEMU, or another program, has it locked", error);
    if (is_behind_loop(path))
        return busy(path, "a loop device shows it", error);
    return exclusive != 0 || !somebody_has_it_open(fd) ||
           busy(path, "a program has it open (fuser -v shows which)", error);
}

static guint64 number_at(const guint8 *header, gsize offset, gsize bytes)
{
    guint64 n = 0;
    for (gsize i = 0; i < bytes; i++)
        n = n << 8 | header[offset + i];
    return n;
}

const char *stasis_disk_guess_format(const char *path, GError **error)
{
    guint8 header[HEADER_BYTES] = { 0 };
    stasis_autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
    int r = fd < 0 ? -errno : stasis_pread_all(fd, header, sizeof header, 0);
    if (r < 0 && r != -ENODATA) {
        stasis_set_errno(error, -r, "%s", path);
        return NULL;
    }
    if (r < 0 || memcmp(header, QCOW2_MAGIC, 4) != 0)
        return "raw";
    gboolean old = number_at(header, VERSION_OFFSET, 4) < 3;
    if (number_at(header, BACKING_OFFSET, 8) == 0 &&
        (old || (number_at(header, FEATURES_OFFSET, 8) & FEATURE_DATA_FILE) == 0))
        return "qcow2";
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "%s begins as a qcow2 file that lies on another one, which the guest of a raw disk "
                "can write, too; say which it is (--format, or --image-format of ci-run)",
                path);
    return NULL;
}
