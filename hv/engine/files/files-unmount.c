/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Taking a mount of stasis_files_mount() back. It says itself in the kernel's list of mounts
 * (proc(5), mountinfo) which process serves it: "stasis:IMAGE:PID".
 */
#include <errno.h>
#include <poll.h>
#include <stasis/error.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "engine/files/files-internal.h"

#define END_MS 30000

/* "\040" and the like, as the list has them. */
static char *unescape(const char *word)
{
    g_autofree char *text = g_strcompress(word);
    return g_steal_pointer(&text);
}

/* The source of what is mounted last at @dir; NULL when nothing is. */
static char *find_source(const char *dir)
{
    g_autofree char *text = NULL;
    char *source = NULL;
    if (!g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL))
        return NULL;
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (guint i = 0; lines[i] != NULL; i++) {
        g_auto(GStrv) words = g_strsplit(lines[i], " ", -1);
        guint n = g_strv_length(words), dash = 6;
        while (dash < n && strcmp(words[dash], "-") != 0)
            dash++;
        if (dash + 2 >= n)
            continue;
        g_autofree char *point = unescape(words[4]);
        if (strcmp(point, dir) != 0)
            continue;
        g_free(source);
        source = unescape(words[dash + 2]);
    }
    return source;
}

/* The process of a mount of ours; 0 if it is none. */
static pid_t find_server(const char *dir)
{
    g_autofree char *source = find_source(dir);
    const char *colon = source != NULL ? strrchr(source, ':') : NULL;
    guint64 pid;
    if (colon == NULL || !g_str_has_prefix(source, "stasis:") ||
        !g_ascii_string_to_unsigned(colon + 1, 10, 1, G_MAXINT, &pid, NULL))
        return 0;
    return (pid_t)pid;
}

static gboolean take_down(const char *dir, GError **error)
{
    if (umount2(dir, UMOUNT_NOFOLLOW) == 0)
        return TRUE;
    int errnum = errno;
    if (errnum == EBUSY)
        return stasis_set_errno(error, errnum, "%s is in use", dir);
    /* Not root: FUSE's own program may. */
    const char *argv[] = { "fusermount3", "-u", dir, NULL };
    int status;
    if (g_spawn_sync(NULL, (char **)argv, NULL,
                     G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL,
                     NULL, NULL, NULL, NULL, &status, NULL) &&
        g_spawn_check_wait_status(status, NULL))
        return TRUE;
    return stasis_set_errno(error, errnum, "cannot unmount %s", dir);
}

/* It ends by itself once nothing is mounted, and its appliance with it. */
static void wait_for_end(int pidfd, GCancellable *cancellable)
{
    guint64 deadline = stasis_now_us() + END_MS * G_GUINT64_CONSTANT(1000);
    struct pollfd fd = { .fd = pidfd, .events = POLLIN };
    while (pidfd >= 0 && stasis_now_us() < deadline && !g_cancellable_is_cancelled(cancellable))
        if (poll(&fd, 1, 100) > 0)
            return;
}

gboolean stasis_files_unmount(const char *dir, GCancellable *cancellable, GError **error)
{
    g_autofree char *full = g_canonicalize_filename(dir, NULL);
    pid_t pid = find_server(full);
    if (pid == 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "%s is no mount of an image's files", full);
        return FALSE;
    }
    stasis_autofd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (!take_down(full, error))
        return FALSE;
    wait_for_end(pidfd, cancellable);
    return TRUE;
}
