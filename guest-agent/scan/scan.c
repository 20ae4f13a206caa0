/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A pass: memory, failure, order of things. */
#include "scan/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

void stasis_scan_fail(StasisScan *scan, StasisScanFailure failure)
{
    if (scan->failure == STASIS_SCAN_OK)
        scan->failure = failure;
}

bool stasis_scan_goes_on(StasisScan *scan)
{
    struct timespec now;
    if (scan->failure != STASIS_SCAN_OK)
        return false;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec > scan->limits.deadline_ns)
        stasis_scan_fail(scan, STASIS_SCAN_NO_TIME);
    return scan->failure == STASIS_SCAN_OK;
}

void *stasis_scan_alloc(StasisScan *scan, size_t size)
{
    void *p = scan->failure == STASIS_SCAN_OK ? stasis_arena_alloc(&scan->arena, size) : NULL;
    if (p == NULL)
        stasis_scan_fail(scan, STASIS_SCAN_NO_MEMORY);
    return p;
}

void *stasis_scan_push(StasisScan *scan, void **items, size_t *n, size_t *cap, size_t size)
{
    if (scan->failure != STASIS_SCAN_OK)
        return NULL;
    if (*n == *cap) {
        size_t more = *cap == 0 ? 16 : *cap * 2;
        void *moved = stasis_scan_alloc(scan, more * size);
        if (moved == NULL)
            return NULL;
        if (*n > 0)
            memcpy(moved, *items, *n * size);
        *items = moved;
        *cap = more;
    }
    return (char *)*items + size * (*n)++;
}

const char *stasis_scan_text(StasisScan *scan, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = len < 0 ? NULL : stasis_scan_alloc(scan, (size_t)len + 1);
    if (text == NULL)
        return "";
    va_start(args, format);
    vsnprintf(text, (size_t)len + 1, format, args);
    va_end(args);
    return text;
}

static int compare_ids(const void *key, const void *item)
{
    pid_t pid = *(const pid_t *)key, other = ((const StasisProcess *)item)->pid;
    return pid < other ? -1 : pid > other;
}

int32_t stasis_scan_find(const StasisScan *scan, pid_t pid)
{
    if (pid <= 0 || scan->processes.n == 0)
        return -1;
    const StasisProcess *p = bsearch(&pid, scan->processes.items, scan->processes.n,
                                     sizeof *scan->processes.items, compare_ids);
    return p == NULL ? -1 : (int32_t)(p - scan->processes.items);
}

int32_t stasis_scan_find_thread(const StasisScan *scan, pid_t tid)
{
    int32_t process = stasis_scan_find(scan, tid);
    /* Not often asked for: tracers only. */
    for (size_t i = 0; process < 0 && tid > 0 && i < scan->tasks.n; i++)
        if (scan->tasks.items[i].tid == tid)
            process = scan->tasks.items[i].process;
    return process;
}

void stasis_scan_collect(StasisScan *scan, const StasisScanLimits *limits)
{
    memset(scan, 0, sizeof *scan);
    scan->limits = *limits;
    scan->arena.limit_bytes = limits->max_bytes;
    stasis_collect_processes(scan);
}

void stasis_scan_run(StasisScan *scan, const StasisScanLimits *limits)
{
    stasis_scan_collect(scan, limits);
    stasis_collect_sockets(scan);
    stasis_collect_descriptions(scan);
    for (size_t i = 0; stasis_scanners[i] != NULL && stasis_scan_goes_on(scan); i++) {
        const StasisScanner *scanner = stasis_scanners[i];
        if (limits->without == NULL || strcmp(limits->without, scanner->name) != 0)
            scanner->scan(scanner, scan);
    }
}

void stasis_scan_clear(StasisScan *scan)
{
    for (size_t i = 0; i < scan->held.n; i++)
        close(scan->held.items[i]);
    stasis_arena_clear(&scan->arena);
    free(scan->text);
    memset(scan, 0, sizeof *scan);
}
