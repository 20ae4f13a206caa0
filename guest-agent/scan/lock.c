/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File locks (flock(2), fcntl(2)). Processes that hold locks on one file, or wait for one, agree
 * about that file. CRIU takes a lock along with an option; restored, it must be got again, so a
 * copy of the holder alone meets the one who has it by then; and one who waits would be woken by
 * nobody. Not silent at restore, but in what they agree about: cuttable.
 *
 * Holders: "lock:" lines of fdinfo, so that a flock is told by whoever has its description.
 * Waiters: lines with "->" of /proc/locks (proc_locks(5)). FLOCK and the others don't see each
 * other.
 */
#include "scan/internal.h"

#include <stdio.h>

typedef struct {
    char kind[16], where[64];
    int pid;
    bool waits;
} Lock;

/* "1: -> FLOCK  ADVISORY  WRITE 22675 fe:00:10953036 0 EOF" */
static bool parse(const char *line, Lock *ret)
{
    const char *text = strchr(line, ':');
    if (text == NULL)
        return false;
    text += strspn(text, ": \t");
    ret->waits = strncmp(text, "->", 2) == 0;
    text += ret->waits ? 2 : 0;
    return sscanf(text, " %15s %*s %*s %d %63s", ret->kind, &ret->pid, ret->where) == 3;
}

static void add(StasisScan *scan, StasisUsers *users, const Lock *lock, const StasisFd *fd,
                int32_t process)
{
    unsigned maj, min;
    unsigned long long ino;
    if (sscanf(lock->where, "%x:%x:%llu", &maj, &min, &ino) != 3 ||
        strcmp(lock->kind, "LEASE") == 0 || strcmp(lock->kind, "DELEG") == 0)
        return;
    uint64_t dev = (uint64_t)maj << 32 | min, flock = strcmp(lock->kind, "FLOCK") == 0;
    if (fd != NULL)
        stasis_users_add_fd(scan, users, dev, ino, flock, fd);
    else
        stasis_users_add(scan, users, dev, ino, flock, process, "waits for a lock");
}

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "lock:%llx:%llx:%llu", (unsigned long long)(user->key[0] >> 32),
                            (unsigned long long)(user->key[0] & UINT32_MAX),
                            (unsigned long long)user->key[1]);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    Lock lock;
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        for (const char *l = fd->info; (l = stasis_text_field(l, "lock:\t")) != NULL;)
            if (parse(l, &lock))
                add(scan, &users, &lock, fd, fd->process);
    }
    char *text = stasis_read_text(scan, -1, "/proc/locks", STASIS_TEXT_RECORDS);
    for (char *line; (line = stasis_text_line(&text)) != NULL;) {
        int32_t process = parse(line, &lock) && lock.waits ? stasis_scan_find(scan, lock.pid) : -1;
        if (process >= 0)
            add(scan, &users, &lock, NULL, process);
    }
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_CUTTABLE,
                      "both hold, or wait for, locks on one file");
}

const StasisScanner stasis_scan_lock = { "lock", "locks on one file", scan_it };
