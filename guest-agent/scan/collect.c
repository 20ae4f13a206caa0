/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pass over /proc: everything is read once, by way of one descriptor of /proc/PID for each
 * process, so that a process ID that is used again in the middle gives errors and not a mixture.
 * What comes and goes during the pass is seen in part or not at all; the caller makes another pass
 * and compares (graph/boundary.c).
 *
 * Kernel threads are left out: they share nothing with processes that a checkpoint could split.
 */
#include "scan/internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PF_KTHREAD 0x00200000u /* linux/sched.h */

const char *const stasis_ns_names[STASIS_N_NS] = { "ipc", "mnt", "net", "pid", "user", "uts" };

/* Numbers that name entries of directory @dir, in rising order, terminated by -1. */
static int *list_numbers(StasisScan *scan, int dir, const char *path)
{
    int fd = openat(dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (stream == NULL) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    STASIS_ARRAY(int) numbers = { 0 };
    for (struct dirent *e; (e = readdir(stream)) != NULL;)
        if (e->d_name[0] >= '0' && e->d_name[0] <= '9') {
            int *n = STASIS_PUSH(scan, &numbers);
            if (n != NULL)
                *n = atoi(e->d_name);
        }
    closedir(stream);
    int *end = STASIS_PUSH(scan, &numbers);
    if (end == NULL)
        return NULL;
    *end = -1;
    return numbers.items;
}

static int compare_ints(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return x < y ? -1 : x > y;
}

/* /proc/PID/stat. The name may hold anything, also ") S 1": what counts is the last parenthesis. */
bool stasis_parse_stat(StasisScan *scan, const char *text, StasisProcess *p, unsigned *ret_flags)
{
    const char *open = strchr(text, '('), *end = strrchr(text, ')');
    int ppid, pgrp, sid, tty;
    unsigned long long start;
    if (open == NULL || end == NULL || end < open ||
        sscanf(end + 1,
               " %c %d %d %d %d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &p->state, &ppid, &pgrp, &sid, &tty, ret_flags, &start) != 7)
        return false;
    p->ppid = ppid;
    p->pgrp = pgrp;
    p->sid = sid;
    p->tty = (unsigned)tty;
    p->start = start;
    p->comm = stasis_scan_text(scan, "%.*s", (int)(end - open - 1), open + 1);
    return true;
}

static void read_tasks(StasisScan *scan, int32_t process, int dir)
{
    StasisProcess *p = &scan->processes.items[process];
    p->first_task = scan->tasks.n;
    int *tids = list_numbers(scan, dir, "task");
    for (; tids != NULL && *tids >= 0; tids++) {
        char path[64];
        snprintf(path, sizeof path, "task/%d/status", *tids);
        const char *text = stasis_read_text(scan, dir, path, STASIS_TEXT_ONE);
        if (text == NULL)
            continue;
        const char *tracer = stasis_text_field(text, "TracerPid:");
        const char *state = stasis_text_field(text, "State:\t");
        StasisTask *task = STASIS_PUSH(scan, &scan->tasks);
        if (task == NULL)
            return;
        *task = (StasisTask){ process, *tids, tracer == NULL ? 0 : atoi(tracer) };
        p->n_tasks++;
        if (p->live == 0 && state != NULL && *state != 'Z' && *state != 'X')
            p->live = *tids;
        const char *inner = *tids == p->pid ? stasis_text_field(text, "NSpid:") : NULL;
        while (inner != NULL && *inner == '\t') {
            p->inner_pid = atoi(inner + 1);
            p->pid_depth++;
            inner += strcspn(inner + 1, "\t\n") + 1;
        }
    }
    p->dead = p->live == 0;
}

static void read_namespaces(int dir, uint64_t ns[STASIS_N_NS])
{
    for (int i = 0; i < STASIS_N_NS; i++) {
        char path[16];
        struct stat st;
        snprintf(path, sizeof path, "ns/%s", stasis_ns_names[i]);
        ns[i] = fstatat(dir, path, &st, 0) == 0 ? st.st_ino : 0;
    }
}

static void read_process(StasisScan *scan, int proc, pid_t pid)
{
    char name[32];
    snprintf(name, sizeof name, "%d", pid);
    int dir = openat(proc, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return;
    StasisProcess seen = { .pid = pid };
    unsigned flags = 0;
    const char *text = stasis_read_text(scan, dir, "stat", STASIS_TEXT_ONE);
    if (text != NULL && stasis_parse_stat(scan, text, &seen, &flags) && (flags & PF_KTHREAD) == 0) {
        int32_t index = (int32_t)scan->processes.n;
        StasisProcess *p = STASIS_PUSH(scan, &scan->processes);
        if (p != NULL) {
            *p = seen;
            text = stasis_read_text(scan, dir, "cgroup", STASIS_TEXT_ONE);
            p->cgroup = text == NULL ? "" : stasis_scan_text(scan, "%s", text);
            read_tasks(scan, index, dir);
            if (!p->dead && p->live != pid) {
                /* The first thread has ended: only the others still have what they share. */
                snprintf(name, sizeof name, "task/%d", p->live);
                int task = openat(dir, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
                if (task >= 0) {
                    close(dir);
                    dir = task;
                }
            }
            if (!p->dead) {
                read_namespaces(dir, p->ns);
                p->first_fd = scan->fds.n;
                stasis_collect_fds(scan, index, dir);
                p->n_fds = scan->fds.n - p->first_fd;
                stasis_collect_maps(scan, index, dir);
            }
        }
    }
    close(dir);
}

static bool is_wanted(const StasisScan *scan, pid_t pid)
{
    const StasisScanLimits *l = &scan->limits;
    for (size_t i = 0; i < l->n_only; i++)
        if (l->only[i] == pid)
            return true;
    return l->only == NULL && (!l->ignore_self || pid != getpid());
}

void stasis_collect_processes(StasisScan *scan)
{
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int self = proc < 0 ? -1 : openat(proc, "self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int *pids = self < 0 ? NULL : list_numbers(scan, proc, ".");
    if (pids == NULL) {
        stasis_scan_fail(scan, STASIS_SCAN_BROKEN);
    } else {
        read_namespaces(self, scan->own_ns);
        size_t n = 0;
        while (pids[n] >= 0)
            n++;
        qsort(pids, n, sizeof *pids, compare_ints);
        for (size_t i = 0; i < n && stasis_scan_goes_on(scan); i++)
            if (is_wanted(scan, pids[i]))
                read_process(scan, proc, pids[i]);
        /* What is in flight is looked at last: it adds descriptors behind those of processes. */
        for (size_t i = 0, fds = scan->fds.n; i < fds && stasis_scan_goes_on(scan); i++)
            if (scan->fds.items[i].kind == STASIS_FD_SOCKET)
                stasis_collect_flight(scan, i, 0);
    }
    if (self >= 0)
        close(self);
    if (proc >= 0)
        close(proc);
}
