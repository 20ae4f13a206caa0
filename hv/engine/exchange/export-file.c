/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where an export goes: a file that is made beside its place and renamed, so that it is whole or
 * not there, or a descriptor of the caller's that takes a stream.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stasis/error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/io.h"
#include "engine/exchange/export-internal.h"

/* A pipe that says that it can be written to has room for as much (pipe(7)). */
#define PIPE_STEP 4096u

static gboolean open_aside(StasisExportFile *file, const char *path, GError **error)
{
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        /* Renaming over a device node or a pipe would do away with it. */
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s is no regular file; name a file to export to", path);
        return FALSE;
    }
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *name = g_path_get_basename(path);
    g_autofree char *template = g_strdup_printf("%s/.%.200s.XXXXXX", dir, name);
    file->fd = mkostemp(template, O_CLOEXEC);
    if (file->fd < 0)
        return stasis_set_errno(error, errno, "cannot make a file in %s", dir);
    file->owned = TRUE;
    file->path = path;
    file->aside = g_steal_pointer(&template);
    return TRUE;
}

gboolean stasis_export_file_open(StasisExportFile *file, const StasisExportOptions *options,
                                 GError **error)
{
    struct stat st;
    *file = (StasisExportFile){ .fd = -1 };
    if (options->path != NULL)
        return open_aside(file, options->path, error);
    if (fstat(options->fd, &st) < 0)
        return stasis_set_errno(error, errno, "cannot write to descriptor %d", options->fd);
    file->path = "the descriptor given";
    file->fd = options->fd;
    file->pipe = !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode);
    return TRUE;
}

void stasis_export_file_clear(StasisExportFile *file)
{
    if (file->owned)
        stasis_clear_fd(&file->fd);
    if (file->aside != NULL)
        unlink(file->aside);
    g_clear_pointer(&file->aside, g_free);
}

/* Wait until a reader makes room. */
static gboolean wait_for_room(StasisExportFile *file, GCancellable *cancellable, GError **error)
{
    GPollFD cancelled;
    gboolean can_wake = g_cancellable_make_pollfd(cancellable, &cancelled);
    struct pollfd fds[] = { { .fd = file->fd, .events = POLLOUT },
                            { .fd = can_wake ? cancelled.fd : -1, .events = POLLIN } };
    int r;
    do
        r = poll(fds, G_N_ELEMENTS(fds), -1);
    while (r < 0 && errno == EINTR);
    if (can_wake)
        g_cancellable_release_fd(cancellable);
    if (g_cancellable_set_error_if_cancelled(cancellable, error))
        return FALSE;
    return r >= 0 || stasis_set_errno(error, errno, "cannot write %s", file->path);
}

gboolean stasis_export_file_append(StasisExportFile *file, const void *data, gsize len,
                                   GCancellable *cancellable, GError **error)
{
    const guint8 *at = data;
    while (len > 0) {
        gsize step = file->pipe ? MIN(len, PIPE_STEP) : len;
        if (file->pipe && !wait_for_room(file, cancellable, error))
            return FALSE;
        int rc = stasis_write_all(file->fd, at, step);
        if (rc < 0)
            return stasis_set_errno(error, -rc, "cannot write %s", file->path);
        at += step;
        len -= step;
    }
    return TRUE;
}

static gboolean is_zero(const guint8 *p, gsize len)
{
    return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

/* Bytes from @at on that are all zeros, or all not, by pages of the file. */
static gsize same_run(const guint8 *data, gsize at, gsize len, gboolean *ret_zero)
{
    gsize n = 0;
    while (at + n < len) {
        gsize step = MIN(STASIS_PAGE_BYTES, len - at - n);
        gboolean zero = is_zero(data + at + n, step);
        if (n == 0)
            *ret_zero = zero;
        else if (zero != *ret_zero)
            break;
        n += step;
    }
    return n;
}

gboolean stasis_export_file_place(StasisExportFile *file, const guint8 *data, gsize len,
                                  guint64 offset, GError **error)
{
    for (gsize at = 0; at < len;) {
        gboolean zero = FALSE;
        gsize n = same_run(data, at, len, &zero);
        int rc = zero ? 0 : stasis_pwrite_all(file->fd, data + at, n, (off_t)(offset + at));
        if (rc < 0)
            return stasis_set_errno(error, -rc, "cannot write %s", file->path);
        at += n;
    }
    return TRUE;
}

gboolean stasis_export_file_commit(StasisExportFile *file, guint64 size_bytes, GError **error)
{
    if (file->aside == NULL)
        return TRUE;
    if (size_bytes > G_MAXINT64 || (size_bytes > 0 && ftruncate(file->fd, (off_t)size_bytes) != 0))
        return stasis_set_errno(error, size_bytes > G_MAXINT64 ? EFBIG : errno, "cannot size %s",
                                file->path);
    if (fsync(file->fd) != 0)
        return stasis_set_errno(error, errno, "cannot write %s", file->path);
    if (rename(file->aside, file->path) != 0)
        return stasis_set_errno(error, errno, "cannot rename to %s", file->path);
    g_clear_pointer(&file->aside, g_free);
    return TRUE;
}
