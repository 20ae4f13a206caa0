/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files that several processes have mapped shared, and at least one for writing: databases, POSIX
 * shared memory and named semaphores (shm_overview(7), sem_overview(7): files in /dev/shm), files
 * of hugetlbfs. CRIU leaves the file where it is: after a restore of one of them alone, its memory
 * is what the others have made of the file meanwhile. Silently wrong, unless the user wants just
 * that: cuttable. Deleted files are scanner "ghost"'s. Mappings of devices share the device, not
 * memory.
 */
#include "scan/internal.h"

static bool is_file(const char *name)
{
    static const char end[] = " (deleted)";
    size_t len = strlen(name);
    if (name[0] != '/' || strncmp(name, "/memfd:", 7) == 0 || strncmp(name, "/SYSV", 5) == 0 ||
        strncmp(name, "/[", 2) == 0)
        return false;
    if (len >= sizeof end && strcmp(name + len - (sizeof end - 1), end) == 0)
        return false;
    return strncmp(name, "/dev/", 5) != 0 || strncmp(name, "/dev/shm/", 9) == 0 ||
           strncmp(name, "/dev/hugepages/", 15) == 0;
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->maps.n; i++)
        if (is_file(scan->maps.items[i].name))
            stasis_users_add_map(scan, &users, scan->maps.items[i].dev, scan->maps.items[i].ino, 0,
                                 &scan->maps.items[i]);
    stasis_users_sort(&users);
    for (size_t i = 0, n; i < users.n; i += n) {
        const StasisUser *u = &users.items[i];
        n = stasis_users_span(u, users.n - i);
        if (stasis_users_one_writes(u, n))
            stasis_users_link_one(self, scan, u, n, stasis_scan_text(scan, "map:%s", u->map->name),
                                  STASIS_EDGE_CUTTABLE,
                                  "what one writes into the file's memory the other reads");
    }
}

const StasisScanner stasis_scan_mapped_file = { "mapped-file", "files mapped shared, with a writer",
                                                scan_it };
