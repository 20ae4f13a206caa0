/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who uses an object: lists of uses, sorted by the object's identity, so that the users of one
 * object lie together. Edges make a star: the first process to each of the others, n − 1 for n
 * users. They name the same object, and a cut is of the object; so no edge is missing that would
 * matter.
 */
#include "scan/internal.h"

#include <fcntl.h>
#include <stdlib.h>

static void add(StasisScan *scan, StasisUsers *users, StasisUser user)
{
    StasisUser *u = STASIS_PUSH(scan, users);
    if (u != NULL)
        *u = user;
}

void stasis_users_add_fd(StasisScan *scan, StasisUsers *users, uint64_t k0, uint64_t k1,
                         uint64_t k2, const StasisFd *fd)
{
    add(scan, users, (StasisUser){ .key = { k0, k1, k2 }, .process = fd->process, .fd = fd });
}

void stasis_users_add_map(StasisScan *scan, StasisUsers *users, uint64_t k0, uint64_t k1,
                          uint64_t k2, const StasisMap *map)
{
    add(scan, users, (StasisUser){ .key = { k0, k1, k2 }, .process = map->process, .map = map });
}

void stasis_users_add(StasisScan *scan, StasisUsers *users, uint64_t k0, uint64_t k1, uint64_t k2,
                      int32_t process, const char *how)
{
    add(scan, users, (StasisUser){ .key = { k0, k1, k2 }, .process = process, .how = how });
}

static int compare_u64(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

static int compare_users(const void *a, const void *b)
{
    const StasisUser *x = a, *y = b;
    int r = 0;
    for (int i = 0; i < 3 && r == 0; i++)
        r = compare_u64(x->key[i], y->key[i]);
    if (r == 0)
        r = x->process < y->process ? -1 : x->process > y->process;
    /* A descriptor says more than a mapping, and that more than words. */
    if (r == 0)
        r = (x->fd == NULL) - (y->fd == NULL);
    if (r == 0 && x->fd != NULL)
        r = x->fd->fd < y->fd->fd ? -1 : x->fd->fd > y->fd->fd;
    if (r == 0 && x->map != NULL && y->map != NULL)
        r = compare_u64(x->map->start, y->map->start);
    return r;
}

void stasis_users_sort(StasisUsers *users)
{
    if (users->n > 0)
        qsort(users->items, users->n, sizeof *users->items, compare_users);
}

size_t stasis_users_span(const StasisUser *users, size_t n)
{
    size_t span = n > 0 ? 1 : 0;
    while (span < n && memcmp(users[0].key, users[span].key, sizeof users[0].key) == 0)
        span++;
    return span;
}

bool stasis_users_one_writes(const StasisUser *users, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const StasisUser *u = &users[i];
        if (u->fd != NULL ? (u->fd->flags & O_ACCMODE) != O_RDONLY
                          : u->map != NULL && u->map->write)
            return true;
    }
    return false;
}

const char *stasis_fd_text(StasisScan *scan, const StasisFd *fd)
{
    pid_t pid = scan->processes.items[fd->process].pid;
    if (fd->carrier >= 0)
        return stasis_scan_text(scan, "pid %d fd %d (in flight in it)", pid, fd->carrier);
    return stasis_scan_text(scan, "pid %d fd %d", pid, fd->fd);
}

const char *stasis_user_text(StasisScan *scan, const StasisUser *user)
{
    pid_t pid = scan->processes.items[user->process].pid;
    if (user->fd != NULL)
        return stasis_fd_text(scan, user->fd);
    if (user->map != NULL)
        return stasis_scan_text(scan, "pid %d mapping %llx", pid,
                                (unsigned long long)user->map->start);
    return user->how == NULL ? stasis_scan_text(scan, "pid %d", pid)
                             : stasis_scan_text(scan, "pid %d %s", pid, user->how);
}

void stasis_edge_add(StasisScan *scan, const StasisEdge *edge)
{
    StasisEdge *e = STASIS_PUSH(scan, &scan->edges);
    if (e != NULL)
        *e = *edge;
}

void stasis_edge_refuse_fd(const StasisScanner *self, StasisScan *scan, const StasisFd *fd,
                           const char *reason)
{
    const char *who = stasis_fd_text(scan, fd);
    stasis_edge_add(scan,
                    &(StasisEdge){ .relation = self,
                                   .a = fd->process,
                                   .b = fd->process,
                                   .class = STASIS_EDGE_OPAQUE,
                                   .reason = reason,
                                   .object = stasis_scan_text(scan, "%s:%s", self->name, who),
                                   .witness = stasis_scan_text(scan, "%s, %s", who, fd->link) });
}

/* Users of one object, a process each. */
typedef struct {
    const StasisUser **users;
    bool *talked; /* of each */
    size_t n;
    bool counted;
} Star;

static bool make_star(const StasisScanner *self, StasisScan *scan, const StasisUser *users,
                      size_t n, Star *ret)
{
    *ret = (Star){ .users = stasis_scan_alloc(scan, n * sizeof *ret->users),
                   .talked = stasis_scan_alloc(scan, n) };
    if (ret->users == NULL || ret->talked == NULL)
        return false;
    for (size_t i = 0; i < n; i++)
        if (i == 0 || users[i].process != users[i - 1].process)
            ret->users[ret->n++] = &users[i];
    ret->counted = ret->n > 1 && stasis_talked(self, scan, users, n, ret->talked);
    return true;
}

void stasis_users_link_one(const StasisScanner *self, StasisScan *scan, const StasisUser *users,
                           size_t n, const char *object, StasisEdgeClass class, const char *reason)
{
    Star star;
    size_t hub = 0;
    if (n == 0 || !make_star(self, scan, users, n, &star) || star.n < 2)
        return;
    /* In the middle is one that talked, so that all others that did are bound together. */
    while (star.counted && hub + 1 < star.n && !star.talked[hub])
        hub++;
    hub = star.counted && star.talked[hub] ? hub : 0;
    const char *first = stasis_user_text(scan, star.users[hub]);
    int32_t a = star.users[hub]->process;
    uint64_t sent = star.counted ? stasis_talked_sent(self, scan, users, n, a) : 0;
    for (size_t i = 0; i < star.n; i++) {
        if (i == hub)
            continue;
        int32_t b = star.users[i]->process;
        bool talked = star.counted && star.talked[hub] && star.talked[i];
        uint64_t both = talked ? sent + stasis_talked_sent(self, scan, users, n, b) : 0;
        const char *witness = stasis_scan_text(scan, "%s ↔ %s, %s", first,
                                               stasis_user_text(scan, star.users[i]), object);
        stasis_edge_add(scan, &(StasisEdge){ .relation = self,
                                             .a = a,
                                             .b = b,
                                             .class = class,
                                             .both = true,
                                             .counted = star.counted,
                                             .silent = star.counted && !talked,
                                             .talked = talked && both == 0 ? 1 : both,
                                             .object = object,
                                             .witness = witness,
                                             .reason = reason });
    }
}

void stasis_users_link(const StasisScanner *self, StasisScan *scan, StasisUsers *users,
                       StasisObjectName name, StasisEdgeClass class, const char *reason)
{
    stasis_users_sort(users);
    for (size_t i = 0, n; i < users->n; i += n) {
        n = stasis_users_span(users->items + i, users->n - i);
        /* Sorted by process: more than one if the last is not the first. */
        if (users->items[i].process != users->items[i + n - 1].process)
            stasis_users_link_one(self, scan, users->items + i, n, name(scan, &users->items[i]),
                                  class, reason);
    }
}
