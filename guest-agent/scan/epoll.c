/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * epoll(7). Two relations. Two processes with one epoll descriptor have one list of interest and
 * one of what is ready: a dump of one has a copy, silently. Hard. And an epoll holds on to *files*,
 * not to numbers: a target that its process has closed, or never had, still reports if somebody
 * else has it open. CRIU looks for each target among what it dumps, and fails without it; so who
 * has it open must come along: hard. If nobody has, opaque.
 *
 *     fdinfo:  tfd: 5 events: 19 data: 5 pos:0 ino:40e sdev:10
 *              a number of old; kcmp(KCMP_EPOLL_TFD) says which file it is
 */
#include "scan/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sysmacros.h>

#include <linux/kcmp.h>

/* 1: it is @fd; 0: it is not; -1: that target is no longer there. */
static int is_target(const StasisFd *epoll, struct kcmp_epoll_slot *slot, const StasisFd *fd)
{
    int r = stasis_kcmp(fd->kcmp_pid, epoll->kcmp_pid, KCMP_EPOLL_TFD, (unsigned long)fd->kcmp_fd,
                        (unsigned long)slot);
    return r == 0 ? 1 : r < 0 && errno == ENOENT ? -1 : 0;
}

/* The descriptor that has the target's number now: nearly always the target. */
static const StasisFd *by_number(const StasisScan *scan, const StasisFd *epoll, uint32_t number)
{
    const StasisProcess *p = &scan->processes.items[epoll->process];
    size_t low = p->first_fd, end = low + p->n_fds, high = end;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (scan->fds.items[middle].fd < (int)number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < end && scan->fds.items[low].fd == (int)number ? &scan->fds.items[low] : NULL;
}

static void check(const StasisScanner *self, StasisScan *scan, const StasisFd *epoll,
                  struct kcmp_epoll_slot *slot, uint64_t dev, uint64_t ino)
{
    const StasisFd *holder = NULL, *own = by_number(scan, epoll, slot->tfd);
    int found = own == NULL ? 0 : is_target(epoll, slot, own);
    if (found != 0)
        return;
    for (size_t i = 0; i < scan->fds.n && found >= 0; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if (fd->ino != ino || (fd->dev != 0 && fd->dev != dev) ||
            (holder != NULL && fd->process != epoll->process))
            continue;
        found = is_target(epoll, slot, fd);
        if (found == 1 && fd->process == epoll->process)
            return; /* its own */
        if (found == 1)
            holder = fd;
    }
    if (found < 0)
        return;
    StasisEdge edge = { .relation = self, .a = epoll->process, .b = epoll->process };
    edge.object =
        stasis_scan_text(scan, "epoll:%s target %u", stasis_fd_text(scan, epoll), slot->tfd);
    if (holder != NULL) {
        edge.b = holder->process;
        edge.class = STASIS_EDGE_HARD;
        edge.witness =
            stasis_scan_text(scan, "%s, an epoll, waits for %s (%s)", stasis_fd_text(scan, epoll),
                             stasis_fd_text(scan, holder), holder->link);
        edge.reason = "an epoll is dumped only together with what it waits for";
    } else {
        edge.class = STASIS_EDGE_OPAQUE;
        edge.witness = stasis_scan_text(scan, "%s, an epoll, waits for what was descriptor %u",
                                        stasis_fd_text(scan, epoll), slot->tfd);
        edge.reason = "nobody that is visible has it open any more";
    }
    stasis_edge_add(scan, &edge);
}

typedef struct {
    uint32_t tfd;
    size_t order; /* in fdinfo, which is the kernel's */
    uint64_t dev, ino;
} Target;

static int by_tfd(const void *a, const void *b)
{
    const Target *one = a, *two = b;
    if (one->tfd != two->tfd)
        return one->tfd < two->tfd ? -1 : 1;
    return one->order < two->order ? -1 : 1;
}

static void check_targets(const StasisScanner *self, StasisScan *scan, const StasisFd *epoll)
{
    struct {
        Target *items;
        size_t n, cap;
    } targets = { 0 };
    for (const char *line = epoll->info; (line = strstr(line, "tfd:")) != NULL; line++) {
        Target target = { .order = targets.n };
        unsigned sdev;
        if (sscanf(line, "tfd: %u events: %*x data: %*x pos:%*i ino:%" SCNx64 " sdev:%x",
                   &target.tfd, &target.ino, &sdev) != 3)
            continue;
        target.dev = makedev(sdev >> 20, sdev & 0xfffff);
        Target *item = STASIS_PUSH(scan, &targets);
        if (item == NULL)
            return;
        *item = target;
    }
    if (targets.n > 0)
        qsort(targets.items, targets.n, sizeof *targets.items, by_tfd);
    struct kcmp_epoll_slot slot = { .efd = (uint32_t)epoll->kcmp_fd };
    for (size_t i = 0; i < targets.n && stasis_scan_goes_on(scan); i++) {
        const Target *target = &targets.items[i];
        /* The same number twice: two files, one after the other, had it. The kernel has them in the
         * order of the files' addresses, with others in between. */
        slot.toff = i > 0 && target->tfd == slot.tfd ? slot.toff + 1 : 0;
        slot.tfd = target->tfd;
        check(self, scan, epoll, &slot, target->dev, target->ino);
    }
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    stasis_anon_link(self, scan, "eventpoll", STASIS_EDGE_HARD,
                     "one list of interest: what one adds or gets changes the other's");
    for (size_t i = 0; i < scan->fds.n && stasis_scan_goes_on(scan); i++)
        if (stasis_fd_is_anon(&scan->fds.items[i], "eventpoll"))
            check_targets(self, scan, &scan->fds.items[i]);
}

const StasisScanner stasis_scan_epoll = { "epoll", "epoll lists in common, and what they wait for",
                                          scan_it };
