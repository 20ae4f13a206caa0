/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memfd_create(2): memory with a descriptor. Whoever has the descriptor or a shared mapping can
 * read and write it; CRIU puts the content into each image: two memories where there was one,
 * silently. Hard. Not so when the memory is sealed against writing (F_SEAL_WRITE, as for keymaps or
 * messages that are handed on): then two copies stay the same. Told, and no more.
 */
#include "scan/internal.h"

#include <fcntl.h>
#include <unistd.h>

static bool is_sealed(const StasisUser *users, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (users[i].fd == NULL)
            continue;
        int copy = stasis_fd_borrow(users[i].fd);
        if (copy < 0)
            continue;
        int seals = fcntl(copy, F_GET_SEALS);
        close(copy);
        return seals >= 0 && (seals & F_SEAL_WRITE) != 0;
    }
    return false;
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if (fd->kind == STASIS_FD_MEMFD && (fd->flags & O_PATH) == 0)
            stasis_users_add_fd(scan, &users, fd->dev, fd->ino, 0, fd);
    }
    for (size_t i = 0; i < scan->maps.n; i++) {
        const StasisMap *m = &scan->maps.items[i];
        if (strncmp(m->name, "/memfd:", 7) == 0)
            stasis_users_add_map(scan, &users, m->dev, m->ino, 0, m);
    }
    stasis_users_sort(&users);
    for (size_t i = 0, n; i < users.n; i += n) {
        const StasisUser *u = &users.items[i];
        n = stasis_users_span(u, users.n - i);
        if (u[0].process == u[n - 1].process)
            continue;
        bool sealed = is_sealed(u, n);
        stasis_users_link_one(self, scan, u, n,
                              stasis_scan_text(scan, "%s[%llu]",
                                               u->fd != NULL ? u->fd->link : u->map->name,
                                               (unsigned long long)u->key[1]),
                              sealed ? STASIS_EDGE_INFO : STASIS_EDGE_HARD,
                              sealed ? "sealed against writing: copies stay the same"
                                     : "one memory: what one writes the other reads");
    }
}

const StasisScanner stasis_scan_memfd = { "memfd", "memory of memfd_create in common", scan_it };
