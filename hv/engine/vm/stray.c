/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/vm/stray.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"

#define MAX_ENVIRONMENT ((gsize)1 << 20)
#define ROUNDS 200
#define ROUND_US 20000

/* Of process @pid, up to @room bytes; 0 when there is nothing to be seen. */
static gsize read_environment(const char *pid, char *buffer, gsize room)
{
    char path[64];
    gsize done = 0;
    g_snprintf(path, sizeof path, "/proc/%s/environ", pid);
    stasis_autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;
    while (fd >= 0 && done < room && (n = read(fd, buffer + done, room - done)) > 0)
        done += (gsize)n;
    return done;
}

static gboolean has_word(const char *words, gsize length, const char *word)
{
    gsize n = strlen(word);
    for (const char *at = words, *end = words + length; at < end;) {
        gsize here = strnlen(at, (gsize)(end - at));
        if (here == n && memcmp(at, word, n) == 0)
            return TRUE;
        at += here + 1;
    }
    return FALSE;
}

/* Kill those that there are; how many. One that has ended, and is not waited for yet, has no
 * environment. */
static guint kill_marked(const char *word, char *buffer)
{
    g_autoptr(GDir) dir = g_dir_open("/proc", 0, NULL);
    const char *entry;
    guint n = 0;
    while (dir != NULL && (entry = g_dir_read_name(dir)) != NULL) {
        guint64 pid;
        if (!g_ascii_string_to_unsigned(entry, 10, 2, G_MAXINT32, &pid, NULL) ||
            (pid_t)pid == getpid() ||
            !has_word(buffer, read_environment(entry, buffer, MAX_ENVIRONMENT), word))
            continue;
        n++;
        kill((pid_t)pid, SIGKILL);
    }
    return n;
}

void stasis_end_marked(const char *name, const char *value)
{
    g_autofree char *buffer = g_malloc(MAX_ENVIRONMENT);
    g_autofree char *word = g_strconcat(name, "=", value, NULL);
    /* Again, since one may have started another meanwhile. */
    for (guint round = 0; round < ROUNDS && kill_marked(word, buffer) > 0; round++)
        g_usleep(ROUND_US);
}
