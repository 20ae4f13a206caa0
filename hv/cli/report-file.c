/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files that a command leaves beside its result. A regular one is whole or what it was before:
 * written aside and renamed, at the end of symbolic links. What is none (/dev/null, a pipe, a
 * descriptor's place in /dev/fd) is written to where it is: renaming would do away with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "report-file.h"

static gboolean fail(const char *path, GError **error)
{
    int failed = errno;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "writing %s: %s", path,
                g_strerror(failed));
    return FALSE;
}

/* The number of the descriptor of ours that @path is a name of, or -1. */
static int number_in(const char *path)
{
    static const char *const places[] = { "/dev/fd/", "/proc/self/fd/" };
    for (guint i = 0; i < G_N_ELEMENTS(places); i++) {
        guint64 number;
        if (g_str_has_prefix(path, places[i]) &&
            g_ascii_string_to_unsigned(path + strlen(places[i]), 10, 0, G_MAXINT, &number, NULL))
            return (int)number;
    }
    return -1;
}

/* The same by links: /dev/stdout. */
static int descriptor_of(const char *path)
{
    char target[64];
    ssize_t n = readlink(path, target, sizeof target - 1);
    int number = number_in(path);
    if (number >= 0 || n < 0)
        return number;
    target[n] = '\0';
    return number_in(target);
}

static gboolean is_special(const char *path)
{
    struct stat st;
    return descriptor_of(path) >= 0 || (stat(path, &st) == 0 && !S_ISREG(st.st_mode));
}

/* Where a file that is made by renaming comes to lie: the links' end, also if it is not there. */
static char *find_target(const char *path)
{
    g_autofree char *at = g_strdup(path);
    for (guint i = 0; i < 40; i++) {
        char target[4096];
        ssize_t n = readlink(at, target, sizeof target - 1);
        if (n < 0)
            break;
        target[n] = '\0';
        g_autofree char *dir = g_path_get_dirname(at);
        g_free(at);
        at = target[0] == '/' ? g_strdup(target) : g_build_filename(dir, target, NULL);
    }
    return g_steal_pointer(&at);
}

static gboolean write_in_place(const char *path, const char *text, gsize len, GError **error)
{
    int own = descriptor_of(path);
    int fd =
        own >= 0 ? fcntl(own, F_DUPFD_CLOEXEC, 0) : open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return fail(path, error);
    gboolean ok = TRUE;
    while (ok && len > 0) {
        ssize_t n = write(fd, text, len);
        if (n < 0 && errno == EINTR)
            continue;
        ok = n >= 0 || fail(path, error);
        text += MAX(n, 0);
        len -= (gsize)MAX(n, 0);
    }
    if (close(fd) < 0 && ok)
        return fail(path, error);
    return ok;
}

gboolean cli_write_report(const char *path, const char *text, gsize len, GError **error)
{
    if (is_special(path))
        return write_in_place(path, text, len, error);
    g_autofree char *target = find_target(path);
    return g_file_set_contents(target, text, (gssize)len, error);
}

/* Tried, as rights are not all that it takes. */
static gboolean can_make_file_in(const char *dir)
{
    g_autofree char *path = g_build_filename(dir, ".stasis-report.XXXXXX", NULL);
    int fd = g_mkstemp_full(path, O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0)
        return FALSE;
    close(fd);
    unlink(path);
    return TRUE;
}

gboolean cli_check_report(const CliCall *call, const char *option, GError **error)
{
    const char *path = cli_text(call, option);
    if (path == NULL)
        return TRUE;
    g_autofree char *target = find_target(path);
    g_autofree char *dir = g_path_get_dirname(target);
    struct stat st;
    gboolean there = stat(path, &st) == 0;
    if (there && S_ISDIR(st.st_mode))
        errno = EISDIR;
    else if (there && is_special(path) ? access(path, W_OK) == 0 : can_make_file_in(dir))
        return TRUE;
    int failed = errno;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "--%s can't be written to %s: %s", option,
                path, g_strerror(failed));
    return FALSE;
}
