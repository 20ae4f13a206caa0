/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shared mappings, from /proc/PID/maps. Private ones are of no interest: what is written to them is
 * seen by nobody else.
 *
 * A file is shown by the name that it was opened by, and as deleted when that name has gone, though
 * it may have others: sem_open(3) makes a semaphore by a name of its own, links it to the right
 * one, and unlinks the first. Others have it by its right name; so whether it is deleted is what
 * its inode says.
 */
#include "scan/internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static bool has_links(pid_t pid, const char *range)
{
    char path[80];
    struct statx st;
    snprintf(path, sizeof path, "/proc/%d/map_files/%s", pid, range);
    return statx(AT_FDCWD, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_NLINK, &st) == 0 &&
           st.stx_nlink > 0;
}

/* Without the remark that the name has gone, if the file has not. */
static void set_name(StasisScan *scan, StasisMap *map, pid_t pid, const char *range,
                     const char *name)
{
    static const char end[] = " (deleted)";
    size_t len = strlen(name), n = sizeof end - 1;
    bool gone = len > n && strcmp(name + len - n, end) == 0;
    map->renamed = gone && has_links(pid, range);
    map->name = stasis_scan_text(scan, "%.*s", (int)(map->renamed ? len - n : len), name);
}

void stasis_collect_maps(StasisScan *scan, int32_t process, int dir)
{
    pid_t pid = scan->processes.items[process].live;
    char *text = stasis_read_text(scan, dir, "maps", STASIS_TEXT_RECORDS);
    for (char *line; (line = stasis_text_line(&text)) != NULL;) {
        uint64_t start, ino;
        unsigned maj, min;
        char range[40], perms[8];
        int name = 0;
        if (sscanf(line, "%39s %7s %*x %x:%x %" SCNu64 " %n", range, perms, &maj, &min, &ino,
                   &name) < 5 ||
            sscanf(range, "%" SCNx64, &start) != 1 || strlen(perms) < 4)
            continue;
        const char *path = name > 0 ? line + name : "";
        if (perms[3] != 's' && strncmp(path, "anon_inode:", 11) != 0)
            continue;
        StasisMap *map = STASIS_PUSH(scan, &scan->maps);
        if (map == NULL)
            return;
        *map = (StasisMap){ process, perms[1] == 'w', start, makedev(maj, min), ino };
        set_name(scan, map, pid, range, path);
    }
}
