/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Anonymous shared memory: mmap(2) with MAP_SHARED | MAP_ANONYMOUS before a fork, of ordinary or of
 * huge pages. Each of CRIU's dumps would have a copy of it, and the processes that were one would
 * write into two: silently wrong, and nothing can be given from outside. Whether a mapping can be
 * written now does not matter: mprotect(2) changes it. Futexes, mutexes and semaphores of threads
 * libraries lie in such memory, and so does what waits for them: they need no scanner. Hard.
 */
#include "scan/internal.h"

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "shm:[%llu]", (unsigned long long)user->key[1]);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->maps.n; i++) {
        const StasisMap *m = &scan->maps.items[i];
        /* The kernel's names for it (mm/shmem.c, mm/mmap.c). */
        if (strcmp(m->name, "/dev/zero (deleted)") == 0 ||
            strcmp(m->name, "/anon_hugepage (deleted)") == 0)
            stasis_users_add_map(scan, &users, m->dev, m->ino, 0, m);
    }
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_HARD,
                      "one memory: what one writes the other reads");
}

const StasisScanner stasis_scan_anon_shm = { "anon-shm", "anonymous shared memory", scan_it };
