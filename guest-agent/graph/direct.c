/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a set may not have that is dumped in the VM itself, where it goes on to run (--direct): CRIU
 * takes no notice of it there, or only when the processes stand still already. A fork of the VM is
 * thrown away, and there it can be had.
 */
#include "graph/internal.h"
#include "scan/internal.h"

#include <string.h>

static const char todo[] = "leave out --direct, so that CRIU works in a fork of the VM";

static bool has_lost_name(const char *path)
{
    static const char end[] = " (deleted)";
    size_t n = strlen(path);
    return path[0] == '/' && n > sizeof end - 1 && strcmp(path + n - (sizeof end - 1), end) == 0;
}

static void judge_fd(StasisBoundary *b, const StasisFd *fd)
{
    const char *what = NULL;
    if (fd->kind == STASIS_FD_MQUEUE)
        what = "a POSIX message queue, whose messages can only be read by taking them out";
    else if (fd->kind == STASIS_FD_REGULAR && fd->nlink > 0 && has_lost_name(fd->link))
        what = "a file that has lost the name it was opened by, and has another";
    if (what != NULL)
        stasis_boundary_refuse(
            b, stasis_scan_text(&b->scan, "%s, which --direct can't take", what),
            stasis_scan_text(&b->scan, "%s, %s", stasis_fd_text(&b->scan, fd), fd->link), todo);
}

static void judge_map(StasisBoundary *b, const StasisMap *map)
{
    if (!map->renamed)
        return;
    stasis_boundary_refuse(
        b,
        "a file (a named semaphore, say) that has lost the name it was mapped by, and has "
        "another, which --direct can't take",
        stasis_scan_text(&b->scan, "pid %d mapping %llx, %s",
                         b->scan.processes.items[map->process].pid, (unsigned long long)map->start,
                         map->name),
        todo);
}

void stasis_boundary_judge_direct(StasisBoundary *b)
{
    for (size_t i = 0; i < b->scan.fds.n; i++)
        if (b->is_member[b->scan.fds.items[i].process])
            judge_fd(b, &b->scan.fds.items[i]);
    for (size_t i = 0; i < b->scan.maps.n; i++)
        if (b->is_member[b->scan.maps.items[i].process])
            judge_map(b, &b->scan.maps.items[i]);
}
