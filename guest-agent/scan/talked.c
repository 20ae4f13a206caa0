/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Of those who use an object, who used it: sent something to it, or got something out of it, since
 * the last checkpoint (or since counting began). What an object can't have carried from one to
 * another binds nobody together, so only edges between two that talked draw in.
 *
 * Doubt always means "talked":
 *   * something is in flight: it may be anybody's, and is lost with a cut;
 *   * somebody who has ended talked: parent and children may live on with what came of it;
 *   * a process that is younger than the counting begins with what its parent knew;
 *   * of a socket or a semaphore is counted who asks for something, not who gets it, and who waits
 *     in the kernel since before that asks for nothing: what was sent is taken as received by all
 *     who could have. Pipes and POSIX queues are counted when it is done, and need no such guess;
 *   * counting has only begun.
 */
#include "scan/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/sockios.h>

#define NS_PER_TICK 10000000u /* USER_HZ is 100 */
#define MAX_ANCESTORS 64

/* ---- looking up ---- */

/* Entries of one object; the first of them, and how many. */
static const StasisCount *entries(const StasisCounts *counts, StasisCounted kind, uint64_t object,
                                  size_t *ret_n)
{
    size_t low = 0, high = counts->n, n = 0;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const StasisCountKey *key = &counts->items[middle].key;
        if (key->kind < kind || (key->kind == kind && key->object < object))
            low = middle + 1;
        else
            high = middle;
    }
    while (low + n < counts->n && counts->items[low + n].key.kind == kind &&
           counts->items[low + n].key.object == object)
        n++;
    *ret_n = n;
    return counts->items + low;
}

static const StasisCount *entry(const StasisCount *of_object, size_t n, pid_t pid)
{
    for (size_t i = 0; i < n; i++)
        if (of_object[i].key.pid == (uint32_t)pid)
            return &of_object[i];
    return NULL;
}

/* The number by which @user's use is counted: of a socket's end, not of the connection. */
static uint64_t counted_object(const StasisUser *user)
{
    return user->fd != NULL ? user->fd->ino : user->key[0];
}

/* ---- in flight ---- */

void stasis_talked_in_flight(StasisScan *scan, StasisCounted kind, uint64_t object)
{
    StasisCountKey *key = scan->limits.counts != NULL ? STASIS_PUSH(scan, &scan->in_flight) : NULL;
    if (key != NULL)
        *key = (StasisCountKey){ .kind = kind, .object = object };
}

static bool is_noted(const StasisScan *scan, StasisCounted kind, uint64_t object)
{
    for (size_t i = 0; i < scan->in_flight.n; i++)
        if (scan->in_flight.items[i].kind == kind && scan->in_flight.items[i].object == object)
            return true;
    return false;
}

/* Whether something waits in it. Who can't be asked may be full. */
static bool holds_data(StasisCounted kind, const StasisFd *fd)
{
    int waiting = 0, sent = 0, copy = stasis_fd_borrow(fd);
    if (copy < 0)
        return errno != ESRCH && errno != EBADF; /* it has gone: the next pass will tell */
    bool holds;
    if (kind == STASIS_COUNTED_MQUEUE) {
        struct mq_attr attr = { 0 };
        holds = syscall(SYS_mq_getsetattr, copy, NULL, &attr) < 0 || attr.mq_curmsgs > 0;
    } else {
        bool told = ioctl(copy, FIONREAD, &waiting) == 0;
        if (kind == STASIS_COUNTED_SOCKET && ioctl(copy, SIOCOUTQ, &sent) < 0)
            sent = 0;
        /* One that listens tells of nothing, and has nothing. */
        holds = (!told && kind == STASIS_COUNTED_PIPE) || waiting > 0 || sent > 0;
    }
    close(copy);
    return holds;
}

static bool is_in_flight(const StasisScanner *self, StasisScan *scan, const StasisUser *users,
                         size_t n)
{
    uint64_t last = 0;
    for (size_t i = 0; i < n && stasis_scan_goes_on(scan); i++) {
        uint64_t object = counted_object(&users[i]);
        if (is_noted(scan, self->counted, object))
            return true;
        /* All uses of a pipe, and of one end of a socket, see the same. */
        if (users[i].fd == NULL || object == last)
            continue;
        last = object;
        if (holds_data(self->counted, users[i].fd))
            return true;
    }
    return false;
}

/* ---- who talked ---- */

static bool is_alive(const StasisScan *scan, uint32_t pid)
{
    int32_t process = stasis_scan_find(scan, (pid_t)pid);
    return process >= 0 && !scan->processes.items[process].dead;
}

/* What was counted at one end of an object: the pipe, a socket, the semaphores. */
typedef struct {
    uint64_t number;
    const StasisCount *items;
    size_t n;
    bool by_ended; /* one that has ended talked */
    bool sent;     /* somebody sent */
    uint64_t to;   /* … to the end with this number; 0: to any other */
} End;

static bool has_end(const End *ends, size_t n, uint64_t number)
{
    for (size_t i = n; i-- > 0;)
        if (ends[i].number == number)
            return true;
    return false;
}

static End *collect_ends(const StasisScanner *self, StasisScan *scan, const StasisUser *users,
                         size_t n, size_t *ret_n)
{
    End *ends = stasis_scan_alloc(scan, n * sizeof *ends);
    *ret_n = 0;
    for (size_t i = 0; ends != NULL && i < n; i++) {
        End end = { .number = counted_object(&users[i]) };
        if (has_end(ends, *ret_n, end.number))
            continue;
        end.items = entries(scan->limits.counts, self->counted, end.number, &end.n);
        for (size_t k = 0; k < end.n; k++) {
            end.by_ended |= !is_alive(scan, end.items[k].key.pid);
            end.sent |= end.items[k].sent > 0;
        }
        ends[(*ret_n)++] = end;
    }
    for (size_t i = 0; ends != NULL && self->counted == STASIS_COUNTED_SOCKET && i < *ret_n; i++) {
        const StasisSocket *s = stasis_socket_find(scan, ends[i].number);
        ends[i].to = s != NULL && has_end(ends, *ret_n, s->peer) ? s->peer : 0;
    }
    return ends;
}

/* Whether it talked at this end, or its parents did before it was born. */
static bool has_past(const StasisScan *scan, const End *end, int32_t process)
{
    for (int i = 0; process >= 0 && i < MAX_ANCESTORS; i++) {
        const StasisProcess *p = &scan->processes.items[process];
        if (entry(end->items, end->n, p->pid) != NULL)
            return true;
        if ((p->start + 1) * NS_PER_TICK < scan->limits.counts->since_ns)
            return false;
        process = stasis_scan_find(scan, p->ppid);
    }
    return false;
}

/* Whether what was sent to @end may have been received through end @own without being counted:
 * where it is counted when it is asked for. */
static bool may_have_got(const StasisScanner *self, const End *end, uint64_t own)
{
    if (!end->sent)
        return false;
    if (self->counted == STASIS_COUNTED_SOCKET)
        return end->number != own && (end->to == 0 || end->to == own);
    return self->counted == STASIS_COUNTED_SEM || self->counted == STASIS_COUNTED_MSG;
}

static bool user_talked(const StasisScanner *self, const StasisScan *scan, const End *ends,
                        size_t n_ends, const StasisUser *user)
{
    uint64_t own = counted_object(user);
    for (size_t i = 0; i < n_ends; i++)
        if (ends[i].by_ended || may_have_got(self, &ends[i], own) ||
            (ends[i].number == own && has_past(scan, &ends[i], user->process)))
            return true;
    return false;
}

bool stasis_talked(const StasisScanner *self, StasisScan *scan, const StasisUser *users, size_t n,
                   bool *ret_talked)
{
    if (self->counted == STASIS_COUNTED_NOT || scan->limits.counts == NULL)
        return false;
    bool all = scan->limits.counts->unknown || is_in_flight(self, scan, users, n);
    size_t n_ends = 0, process = 0;
    const End *ends = all ? NULL : collect_ends(self, scan, users, n, &n_ends);
    for (size_t i = 0; i < n; i++) {
        bool first = i == 0 || users[i].process != users[i - 1].process;
        process += first && i > 0;
        ret_talked[process] = all || (!first && ret_talked[process]) ||
                              user_talked(self, scan, ends, n_ends, &users[i]);
    }
    return true;
}

uint64_t stasis_talked_sent(const StasisScanner *self, const StasisScan *scan,
                            const StasisUser *users, size_t n, int32_t process)
{
    uint64_t sent = 0, last = 0;
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        uint64_t end = counted_object(&users[i]);
        size_t n_entries;
        /* Several descriptors of one end are one use. */
        if (users[i].process != process || (any && end == last))
            continue;
        const StasisCount *of_end = entries(scan->limits.counts, self->counted, end, &n_entries);
        const StasisCount *own = entry(of_end, n_entries, scan->processes.items[process].pid);
        sent += own != NULL ? own->sent : 0;
        last = end;
        any = true;
    }
    return sent;
}

void stasis_talked_users(StasisScan *scan, StasisUsers *users, StasisCounted kind)
{
    const StasisCounts *counts = scan->limits.counts;
    for (size_t i = 0; counts != NULL && i < counts->n; i++) {
        const StasisCountKey *key = &counts->items[i].key;
        int32_t process = key->kind == kind ? stasis_scan_find(scan, (pid_t)key->pid) : -1;
        if (process >= 0 && !scan->processes.items[process].dead)
            stasis_users_add(scan, users, key->object,
                             scan->processes.items[process].ns[STASIS_NS_IPC], 0, process,
                             "was seen to use");
    }
}
