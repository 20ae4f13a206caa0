/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest writes to its console as much as it likes, and QEMU all of that to a file in the runtime
 * directory, which is memory: without a bound one guest would take the room that every VM's record
 * is written to. QEMU knows no limit for a file, and appends, so the end can't be taken from under
 * it; but the beginning can: it becomes a hole.
 */
#include "vmm/logs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "vmm/registry.h"

#define LOG_BYTES (G_GUINT64_CONSTANT(16) << 20)
#define HOLE_UNIT 65536

static guint64 get_limit(void)
{
    const char *text = g_getenv("STASIS_LOG_BYTES");
    guint64 limit = text != NULL ? g_ascii_strtoull(text, NULL, 10) : 0;
    return limit > 0 ? limit : LOG_BYTES;
}

static void bound_file(const char *dir, const char *file, guint64 limit)
{
    struct stat st;
    g_autofree char *path = g_build_filename(dir, file, NULL);
    stasis_autofd int fd = open(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (guint64)st.st_size <= limit ||
        (guint64)st.st_blocks * 512 <= limit + HOLE_UNIT)
        return;
    off_t end = (st.st_size - (off_t)limit) / HOLE_UNIT * HOLE_UNIT;
    if (end > 0 && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, end) < 0)
        return; /* this file system can't */
}

static void bound_vm(const char *name, guint64 limit)
{
    g_autofree char *dir = stasis_vm_dir(name, NULL);
    if (dir == NULL)
        return;
    bound_file(dir, "console.log", limit);
    bound_file(dir, "qemu.log", limit);
}

void stasis_logs_bound(const char *name)
{
    guint64 limit = get_limit();
    if (name != NULL) {
        bound_vm(name, limit);
        return;
    }
    g_auto(GStrv) names = stasis_record_names(NULL);
    for (char **one = names; one != NULL && *one != NULL; one++)
        bound_vm(*one, limit);
}
