/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Deleted files that several processes still have open or mapped. CRIU puts such a file's content
 * into the image (a ghost file), since no name leads to it: then there are two files where there
 * was one, silently. Hard, if one of them can write to it; what nobody writes (libraries after an
 * upgrade) stays the same in two copies.
 */
#include "scan/internal.h"

static bool is_ghost_map(const StasisMap *map)
{
    static const char end[] = " (deleted)";
    /* These are memory, not files, and have scanners of their own. */
    static const char *const memory[] = { "/dev/zero", "/memfd:",        "/SYSV",
                                          "/[aio]",    "/anon_hugepage", "anon_inode:" };
    size_t len = strlen(map->name);
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (strncmp(map->name, memory[i], strlen(memory[i])) == 0)
            return false;
    return len >= sizeof end && strcmp(map->name + len - (sizeof end - 1), end) == 0;
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if (fd->kind == STASIS_FD_REGULAR && fd->nlink == 0)
            stasis_users_add_fd(scan, &users, fd->dev, fd->ino, 0, fd);
    }
    for (size_t i = 0; i < scan->maps.n; i++)
        if (is_ghost_map(&scan->maps.items[i]))
            stasis_users_add_map(scan, &users, scan->maps.items[i].dev, scan->maps.items[i].ino, 0,
                                 &scan->maps.items[i]);
    stasis_users_sort(&users);
    for (size_t i = 0, n; i < users.n; i += n) {
        const StasisUser *u = &users.items[i];
        n = stasis_users_span(u, users.n - i);
        if (stasis_users_one_writes(u, n))
            stasis_users_link_one(
                self, scan, u, n,
                stasis_scan_text(scan, "ghost:%s[%llu]", u->fd != NULL ? u->fd->link : u->map->name,
                                 (unsigned long long)u->key[1]),
                STASIS_EDGE_HARD, "a deleted file: its content would be copied with each of them");
    }
}

const StasisScanner stasis_scan_ghost = { "ghost", "deleted files in use by several", scan_it };
