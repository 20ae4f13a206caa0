/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading counters, and forgetting what a checkpoint has made good. A program in the kernel adds to
 * a counter at any moment, so a counter is never set back from here: what was said before is kept
 * beside it (`base`), and subtracted.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "talk/maps.h"

typedef struct {
    uint64_t sent, received;
} Value;
_Static_assert(sizeof(Value) == STASIS_TALK_VALUE_BYTES && sizeof(StasisCountKey) == 16, "maps");

/* ---- one entry ---- */

static bool look_up(int map, const StasisCountKey *key, Value *ret)
{
    union bpf_attr attr = { .map_fd = (uint32_t)map,
                            .key = (uintptr_t)key,
                            .value = (uintptr_t)ret };
    return stasis_bpf(BPF_MAP_LOOKUP_ELEM, &attr) == 0;
}

static bool put(int map, const StasisCountKey *key, const Value *value)
{
    union bpf_attr attr = {
        .map_fd = (uint32_t)map, .key = (uintptr_t)key, .value = (uintptr_t)value, .flags = BPF_ANY
    };
    return stasis_bpf(BPF_MAP_UPDATE_ELEM, &attr) == 0;
}

static void drop(int map, const StasisCountKey *key)
{
    union bpf_attr attr = { .map_fd = (uint32_t)map, .key = (uintptr_t)key };
    stasis_bpf(BPF_MAP_DELETE_ELEM, &attr);
}

bool stasis_talk_has_lost(const StasisTalk *talk)
{
    uint32_t key = 0;
    uint64_t n = 0;
    union bpf_attr attr = { .map_fd = (uint32_t)talk->lost,
                            .key = (uintptr_t)&key,
                            .value = (uintptr_t)&n };
    return stasis_bpf(BPF_MAP_LOOKUP_ELEM, &attr) < 0 || n > 0;
}

/* ---- all of a map ---- */

static int compare(const void *a, const void *b)
{
    const StasisCountKey *x = &((const StasisCount *)a)->key, *y = &((const StasisCount *)b)->key;
    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    if (x->object != y->object)
        return x->object < y->object ? -1 : 1;
    return x->pid < y->pid ? -1 : x->pid > y->pid;
}

/* Sorted, none twice, of malloc(); *ret_n −1: no memory. An entry that goes away while its
 * successor is asked for makes the walk begin anew, hence twice the room. */
static StasisCount *read_map(int map, ssize_t *ret_n)
{
    size_t room = 2 * STASIS_TALK_MAX_COUNTS, n = 0, kept = 0;
    StasisCount *items = malloc(room * sizeof *items);
    StasisCountKey key = { 0 }, next;
    Value value;
    union bpf_attr attr = { .map_fd = (uint32_t)map, .next_key = (uintptr_t)&next };
    *ret_n = -1;
    if (items == NULL)
        return NULL;
    for (; n < room && stasis_bpf(BPF_MAP_GET_NEXT_KEY, &attr) == 0; key = next) {
        attr.key = (uintptr_t)&key;
        if (look_up(map, &next, &value))
            items[n++] = (StasisCount){ next, value.sent, value.received };
    }
    qsort(items, n, sizeof *items, compare);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || compare(&items[i], &items[i - 1]) != 0)
            items[kept++] = items[i];
    *ret_n = (ssize_t)kept;
    return items;
}

static void clear_map(int map)
{
    ssize_t n;
    StasisCount *items = read_map(map, &n);
    for (ssize_t i = 0; i < n; i++)
        drop(map, &items[i].key);
    free(items);
}

/* ---- reading ---- */

bool stasis_talk_read(const StasisTalk *talk, StasisCounts *ret, StasisCount **ret_items)
{
    ssize_t n;
    size_t kept = 0;
    StasisCount *items = *ret_items = read_map(talk->counts, &n);
    *ret = (StasisCounts){ .items = items,
                           .since_ns = talk->since_ns,
                           .unknown = talk->fresh || stasis_talk_has_lost(talk) };
    for (ssize_t i = 0; i < n; i++) {
        Value base = { 0 };
        /* More than there is: of an object that had this number before. */
        if (look_up(talk->base, &items[i].key, &base) &&
            (base.sent > items[i].sent || base.received > items[i].received))
            base = (Value){ 0 };
        items[i].sent -= base.sent;
        items[i].received -= base.received;
        if (items[i].sent + items[i].received > 0)
            items[kept++] = items[i];
    }
    ret->n = kept;
    return n >= 0;
}

/* ---- forgetting ---- */

bool stasis_talk_mark(const StasisTalk *talk)
{
    ssize_t n;
    if (!talk->running)
        return false;
    clear_map(talk->marked);
    StasisCount *items = read_map(talk->counts, &n);
    for (ssize_t i = 0; i < n; i++)
        put(talk->marked, &items[i].key, &(Value){ items[i].sent, items[i].received });
    free(items);
    return n >= 0;
}

static bool is_one_of(uint32_t pid, const pid_t *pids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((uint32_t)pids[i] == pid)
            return true;
    return false;
}

static bool has_ended(uint32_t pid)
{
    return kill((pid_t)pid, 0) < 0 && errno == ESRCH;
}

static bool has_inode(const StasisCountKey *key)
{
    return key->kind == STASIS_COUNTED_PIPE || key->kind == STASIS_COUNTED_SOCKET ||
           key->kind == STASIS_COUNTED_MQUEUE;
}

/* Whether one of @pids, or with n 0 anybody, has the object open. */
static bool is_open(const StasisScan *scan, const StasisCountKey *key, const pid_t *pids, size_t n)
{
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        if (fd->ino == key->object &&
            (n == 0 || is_one_of((uint32_t)scan->processes.items[fd->process].pid, pids, n)))
            return true;
    }
    return false;
}

static bool same_object(const StasisCountKey *a, const StasisCountKey *b)
{
    return a->kind == b->kind && a->object == b->object;
}

/* Whether one of @pids has a counter of the same object as items[i]; sorted. */
static bool is_used(const StasisCount *items, ssize_t n, ssize_t i, const pid_t *pids,
                    size_t n_pids)
{
    ssize_t from = i;
    while (from > 0 && same_object(&items[from - 1].key, &items[i].key))
        from--;
    for (; from < n && same_object(&items[from].key, &items[i].key); from++)
        if (is_one_of(items[from].key.pid, pids, n_pids))
            return true;
    return false;
}

void stasis_talk_keep(const StasisTalk *talk, const pid_t *pids, size_t n)
{
    struct timespec now;
    StasisScan scan;
    ssize_t n_marked;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t until_ns = ((uint64_t)now.tv_sec + 10) * 1000000000u;
    StasisCount *marked = read_map(talk->marked, &n_marked);
    stasis_scan_collect(
        &scan, &(StasisScanLimits){ .max_bytes = (size_t)64 << 20, .deadline_ns = until_ns });
    for (ssize_t i = 0; i < n_marked; i++) {
        const StasisCountKey *key = &marked[i].key;
        /* One that has ended, over something that these use: all who use it talked, and were in. */
        if (is_one_of(key->pid, pids, n) ||
            (has_ended(key->pid) && (is_used(marked, n_marked, i, pids, n) ||
                                     (has_inode(key) && is_open(&scan, key, pids, n)))))
            put(talk->base, key, &(Value){ marked[i].sent, marked[i].received });
    }
    stasis_scan_clear(&scan);
    free(marked);
    clear_map(talk->marked);
}

void stasis_talk_sweep(const StasisTalk *talk, const StasisScan *scan)
{
    ssize_t n;
    if (!talk->running || scan->failure != STASIS_SCAN_OK)
        return;
    StasisCount *items = read_map(talk->counts, &n);
    for (ssize_t i = 0; i < n; i++) {
        const StasisCountKey *key = &items[i].key;
        bool signal = key->kind == STASIS_COUNTED_SIGNAL;
        if ((signal && (has_ended(key->pid) || has_ended((uint32_t)key->object))) ||
            (has_inode(key) && has_ended(key->pid) && !is_open(scan, key, NULL, 0))) {
            drop(talk->counts, key);
            drop(talk->base, key);
        }
    }
    free(items);
}
