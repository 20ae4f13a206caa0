/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared mappings, from /proc/PID/maps. Private ones are of no interest: what is written to them is
 * seen by nobody else. */
#include "scan/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/sysmacros.h>

void stasis_collect_maps(StasisScan *scan, int32_t process, int dir)
{
    char *text = stasis_read_text(scan, dir, "maps", STASIS_TEXT_RECORDS);
    for (char *line; (line = stasis_text_line(&text)) != NULL;) {
        uint64_t start, ino;
        unsigned maj, min;
        char perms[8];
        int name = 0;
        if (sscanf(line, "%" SCNx64 "-%*x %7s %*x %x:%x %" SCNu64 " %n", &start, perms, &maj, &min,
                   &ino, &name) < 5 ||
            strlen(perms) < 4)
            continue;
        const char *path = name > 0 ? line + name : "";
        if (perms[3] != 's' && strncmp(path, "anon_inode:", 11) != 0)
            continue;
        StasisMap *map = STASIS_PUSH(scan, &scan->maps);
        if (map == NULL)
            return;
        *map = (StasisMap){ process, perms[1] == 'w',
                            start,   makedev(maj, min),
                            ino,     stasis_scan_text(scan, "%s", path) };
    }
}
