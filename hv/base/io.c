/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stasis/error.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

int stasis_pread_all(int fd, void *buf, size_t len, off_t offset)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, offset + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENODATA;
        done += (size_t)n;
    }
    return 0;
}

int stasis_pwrite_all(int fd, const void *buf, size_t len, off_t offset)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(fd, (const char *)buf + done, len - done, offset + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return 0;
}

int stasis_read_all(int fd, void *buf, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = read(fd, (char *)buf + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENODATA;
        done += (size_t)n;
    }
    return 0;
}

int stasis_write_all(int fd, const void *buf, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, (const char *)buf + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return 0;
}

gboolean stasis_write_file_at(int dir_fd, const char *name, const void *data, size_t len,
                              gboolean durable, GError **error)
{
    g_autofree char *aside = g_strdup_printf(".%s.%d", name, (int)getpid());
    stasis_autofd int fd = openat(dir_fd, aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return stasis_set_errno(error, errno, "create %s", aside);
    int r = stasis_write_all(fd, data, len);
    if (r == 0 && durable && fsync(fd) < 0)
        r = -errno;
    if (r == 0 && renameat(dir_fd, aside, dir_fd, name) < 0)
        r = -errno;
    if (r == 0 && durable && fsync(dir_fd) < 0)
        r = -errno;
    if (r < 0) {
        unlinkat(dir_fd, aside, 0);
        return stasis_set_errno(error, -r, "write %s", name);
    }
    return TRUE;
}

char *stasis_read_file_at(int dir_fd, const char *name, size_t max_bytes, size_t *ret_len,
                          GError **error)
{
    stasis_autofd int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        stasis_set_errno(error, errno, "open %s", name);
        return NULL;
    }
    if (!S_ISREG(st.st_mode) || (guint64)st.st_size > max_bytes) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "%s: %" G_GUINT64_FORMAT " bytes, more than the %zu it may have", name,
                    (guint64)st.st_size, max_bytes);
        return NULL;
    }
    g_autofree char *data = g_malloc((gsize)st.st_size + 1);
    int r = stasis_read_all(fd, data, (size_t)st.st_size);
    if (r < 0) {
        stasis_set_errno(error, -r, "read %s", name);
        return NULL;
    }
    data[st.st_size] = '\0';
    if (ret_len != NULL)
        *ret_len = (size_t)st.st_size;
    return g_steal_pointer(&data);
}

gboolean stasis_set_errno(GError **error, int errnum, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "%s: %s", what, g_strerror(errnum));
    return FALSE;
}

gboolean stasis_set_cancelled(GError **error)
{
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CANCELLED,
                        "interrupted; everything is as before");
    return FALSE;
}

int stasis_rename_new(int from_fd, const char *from, int to_fd, const char *to)
{
    int r = renameat2(from_fd, from, to_fd, to, RENAME_NOREPLACE);
    if (r == 0 || errno != EINVAL)
        return r;
    if (faccessat(to_fd, to, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        errno = EEXIST;
    return errno == ENOENT ? renameat(from_fd, from, to_fd, to) : -1;
}
