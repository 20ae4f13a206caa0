/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files of a store's directories. A directory may come from anywhere: links are not followed, a
 * FIFO or device in place of a file is refused, and nothing is mapped (a file that shrinks under
 * a mapping kills the process).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/tree.h"
#include "store/internal.h"

/* Messages may quote what they complain about: keep them one line that is safe on a terminal. */
static char *make_printable(const char *message)
{
    char *text = g_utf8_make_valid(message, -1);
    for (char *c = text; *c != '\0'; c++)
        if (g_ascii_iscntrl(*c))
            *c = '?';
    return text;
}

gboolean stasis_corrupt(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *printable = make_printable(message);
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, printable);
    return FALSE;
}

gboolean stasis_store_cant_open(GError **error, int errnum, const char *name)
{
    if (errnum != EMFILE)
        return stasis_set_errno(error, errnum, "%s: open", name);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "%s: open: %s, as the files of all images of a chain are opened at once; make it "
                "shorter with store-fold --max-depth, or allow more files (ulimit -n)",
                name, g_strerror(errnum));
    return FALSE;
}

int stasis_store_open_file(int dir_fd, const char *name, guint64 *ret_size, GError **error)
{
    stasis_autofd int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        if (errno == ENOENT)
            stasis_corrupt(error, "%s: the file is missing", name);
        else
            stasis_store_cant_open(error, errno, name);
        return -1;
    }
    if (!S_ISREG(st.st_mode)) {
        stasis_corrupt(error, "%s: not a regular file", name);
        return -1;
    }
    if (ret_size != NULL)
        *ret_size = (guint64)st.st_size;
    return stasis_steal_fd(&fd);
}

guint8 *stasis_store_read_checked(int fd, const char *name, guint64 size, const char *sha256,
                                  GError **error)
{
    struct stat st;
    if (fstat(fd, &st) < 0) {
        stasis_set_errno(error, errno, "%s: fstat", name);
        return NULL;
    }
    if ((guint64)st.st_size != size) {
        stasis_corrupt(error,
                       "%s: %" G_GUINT64_FORMAT " bytes, the manifest says %" G_GUINT64_FORMAT,
                       name, (guint64)st.st_size, size);
        return NULL;
    }
    g_autofree guint8 *data = g_try_malloc(size > 0 ? size : 1);
    int r = data == NULL ? -ENOMEM : stasis_pread_all(fd, data, size, 0);
    if (r < 0) {
        stasis_set_errno(error, -r, "%s: read %" G_GUINT64_FORMAT " bytes", name, size);
        return NULL;
    }
    StasisDigest digest;
    char hex[STASIS_DIGEST_HEX];
    if (!stasis_digest_of(&digest, data, size, NULL, 0, error))
        return NULL;
    stasis_digest_to_hex(&digest, hex);
    if (strcmp(hex, sha256) != 0) {
        stasis_corrupt(error,
                       "%s: SHA-256 of its %" G_GUINT64_FORMAT
                       " bytes is %.16s…, the manifest says %.16s…",
                       name, size, hex, sha256);
        return NULL;
    }
    return g_steal_pointer(&data);
}

char *stasis_store_read_text(int dir_fd, const char *name, gsize max_bytes, gsize *ret_len,
                             GError **error)
{
    guint64 size;
    stasis_autofd int fd = stasis_store_open_file(dir_fd, name, &size, error);
    if (fd < 0)
        return NULL;
    if (size > max_bytes) {
        stasis_corrupt(error, "larger than %" G_GSIZE_FORMAT " bytes", max_bytes);
        return NULL;
    }
    g_autofree char *text = g_malloc0(size + 1);
    int r = stasis_pread_all(fd, text, size, 0);
    if (r < 0) {
        stasis_set_errno(error, -r, "read");
        return NULL;
    }
    *ret_len = size;
    return g_steal_pointer(&text);
}

int stasis_store_create_file(int dir_fd, const char *name, GError **error)
{
    int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        stasis_set_errno(error, errno, "%s: create", name);
    return fd;
}

gboolean stasis_store_write_new(int dir_fd, const char *name, const char *text, gsize len,
                                GError **error)
{
    stasis_autofd int fd = stasis_store_create_file(dir_fd, name, error);
    if (fd < 0)
        return FALSE;
    int r = stasis_pwrite_all(fd, text, len, 0);
    if (r == 0 && fdatasync(fd) < 0)
        r = -errno;
    return r == 0 || stasis_set_errno(error, -r, "%s: write", name);
}

int stasis_store_open_dir(int parent_fd, const char *name)
{
    return openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

static gint compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

char **stasis_store_list_names(int dir_fd)
{
    /* A descriptor of its own: the position in the directory is not shared. */
    stasis_autofd int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL)
        return NULL;
    stasis_steal_fd(&fd);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    for (struct dirent *entry; (entry = stasis_next_entry(dir)) != NULL;)
        g_ptr_array_add(names, g_strdup(entry->d_name));
    int errnum = errno;
    closedir(dir);
    if (errnum != 0) {
        errno = errnum;
        return NULL;
    }
    g_ptr_array_sort(names, compare_names);
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&names), FALSE);
}

void stasis_store_remove_dir(int parent_fd, const char *name)
{
    stasis_autofd int fd = stasis_store_open_dir(parent_fd, name);
    g_auto(GStrv) names = fd < 0 ? NULL : stasis_store_list_names(fd);
    for (guint i = 0; names != NULL && names[i] != NULL; i++)
        unlinkat(fd, names[i], 0);
    if (unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 && errno == ENOTDIR)
        unlinkat(parent_fd, name, 0);
}
