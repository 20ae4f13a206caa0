/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which tasks have the same kernel object, where /proc shows no identity of it: kcmp(2). It gives
 * an order of the (obfuscated) addresses, so a list is sorted with it, n log n calls, and equal
 * ones lie side by side. A call fails once a task has ended; it then counts as "before the other",
 * which may leave such a list in disorder and an edge out: the next pass sees other processes, and
 * the two passes don't agree.
 */
#include "scan/internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <linux/kcmp.h>

typedef struct {
    pid_t pid;
    unsigned long number; /* of the descriptor */
    int32_t process;
    StasisFd *fd;
} Item;

int stasis_kcmp(pid_t a, pid_t b, int type, unsigned long x, unsigned long y)
{
    return (int)syscall(SYS_kcmp, a, b, type, x, y);
}

static int order(const Item *a, const Item *b, int type)
{
    int r = stasis_kcmp(a->pid, b->pid, type, a->number, b->number);
    return r == 0 ? 0 : r == 2 ? 1 : -1;
}

/* Merge sort: unlike qsort() it is at ease with an order that breaks on the way. */
static void sort(Item *items, Item *room, size_t n, int type)
{
    if (n < 2)
        return;
    size_t half = n / 2, a = 0, b = half;
    sort(items, room, half, type);
    sort(items + half, room, n - half, type);
    for (size_t i = 0; i < n; i++)
        room[i] = b == n || (a < half && order(&items[a], &items[b], type) <= 0) ? items[a++]
                                                                                 : items[b++];
    memcpy(items, room, n * sizeof *items);
}

/* ---- resources of processes ---- */

static const char *resource_name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "%s:pid %d", user->how, scan->processes.items[user->process].pid);
}

void stasis_kcmp_link(const StasisScanner *self, StasisScan *scan, int type, bool skip_own,
                      StasisEdgeClass class, const char *reason)
{
    size_t n = 0, max = scan->processes.n;
    Item *items = stasis_scan_alloc(scan, 2 * max * sizeof *items + 1);
    for (size_t i = 0; items != NULL && i < max; i++) {
        const StasisProcess *p = &scan->processes.items[i];
        if (!p->dead &&
            !(skip_own && stasis_kcmp(getpid(), p->live, type, 0, 0) == 0 && p->pid != getpid()))
            items[n++] = (Item){ .pid = p->live, .process = (int32_t)i };
    }
    if (n == 0)
        return;
    sort(items, items + max, n, type);
    StasisUsers users = { 0 };
    uint64_t object = 0;
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || order(&items[i - 1], &items[i], type) != 0)
            object++;
        stasis_users_add(scan, &users, object, 0, 0, items[i].process, self->name);
    }
    stasis_users_link(self, scan, &users, resource_name, class, reason);
}

/* ---- open file descriptions ---- */

/* Devices without a state: a description of theirs holds nothing. */
static bool is_stateless(const StasisFd *fd)
{
    if (fd->kind != STASIS_FD_CHAR || major(fd->rdev) != 1)
        return false;
    unsigned m = minor(fd->rdev);
    return m == 3 || m == 5 || m == 7 || m == 8 || m == 9; /* null zero full random urandom */
}

static int compare_files(const void *a, const void *b)
{
    const StasisFd *x = ((const Item *)a)->fd, *y = ((const Item *)b)->fd;
    if (x->dev != y->dev)
        return x->dev < y->dev ? -1 : 1;
    if (x->ino != y->ino)
        return x->ino < y->ino ? -1 : 1;
    /* All anonymous inodes are one inode; the kind is in the link. */
    int r = x->kind == STASIS_FD_ANON ? strcmp(x->link, y->link) : 0;
    if (r == 0)
        r = x->process < y->process ? -1 : x->process > y->process;
    return r;
}

static bool same_file(const Item *a, const Item *b)
{
    return a->fd->dev == b->fd->dev && a->fd->ino == b->fd->ino &&
           (a->fd->kind != STASIS_FD_ANON || strcmp(a->fd->link, b->fd->link) == 0);
}

void stasis_collect_descriptions(StasisScan *scan)
{
    size_t n = 0, max = scan->fds.n;
    Item *items = stasis_scan_alloc(scan, 2 * max * sizeof *items + 1);
    for (size_t i = 0; items != NULL && i < max; i++) {
        StasisFd *fd = &scan->fds.items[i];
        /* The whole pipe or socket is the object; and O_PATH has no state. */
        if (fd->kind != STASIS_FD_PIPE && fd->kind != STASIS_FD_FIFO &&
            fd->kind != STASIS_FD_SOCKET && (fd->flags & O_PATH) == 0 && !is_stateless(fd))
            items[n++] = (Item){ fd->kcmp_pid, (unsigned long)fd->kcmp_fd, fd->process, fd };
    }
    if (n == 0)
        return;
    qsort(items, n, sizeof *items, compare_files);
    uint32_t description = 0;
    for (size_t i = 0, span; i < n && stasis_scan_goes_on(scan); i += span) {
        for (span = 1; i + span < n && same_file(&items[i], &items[i + span]); span++)
            ;
        /* Open in one process only: nobody to share with. */
        if (items[i].process == items[i + span - 1].process)
            continue;
        sort(items + i, items + max, span, KCMP_FILE);
        for (size_t k = i; k < i + span; k++) {
            if (k == i || order(&items[k - 1], &items[k], KCMP_FILE) != 0)
                description++;
            items[k].fd->description = description;
        }
    }
}

bool stasis_fd_is_anon(const StasisFd *fd, const char *kind)
{
    static const char prefix[] = "anon_inode:";
    if (fd->kind != STASIS_FD_ANON || strncmp(fd->link, prefix, sizeof prefix - 1) != 0)
        return false;
    /* "anon_inode:[eventfd]", and for a few "anon_inode:inotify" */
    const char *name = fd->link + sizeof prefix - 1;
    size_t len = strlen(kind);
    name += *name == '[';
    return strncmp(name, kind, len) == 0 && (name[len] == '\0' || name[len] == ']');
}

static const char *description_name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "%s of %s", user->fd->link + strlen("anon_inode:"),
                            stasis_fd_text(scan, user->fd));
}

void stasis_anon_link(const StasisScanner *self, StasisScan *scan, const char *kind,
                      StasisEdgeClass class, const char *reason)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if (fd->description != 0 && stasis_fd_is_anon(fd, kind))
            stasis_users_add_fd(scan, &users, fd->description, 0, 0, fd);
    }
    stasis_users_link(self, scan, &users, description_name, class, reason);
}
