/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Passes until two in a row agree. A single look at a running system sees a mixture of moments: a
 * child that was forked meanwhile, a pipe of which only one end was met. Two passes that find the
 * same members, the same cuts and the same refusals have seen what did not change between them.
 * Exact it is only for frozen processes; the agent looks again when they are.
 */
#include "graph/internal.h"
#include "scan/internal.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- roots ---- */

static void add_root(StasisBoundary *b, int32_t process)
{
    if (b->is_member[process])
        return;
    int32_t *member = STASIS_PUSH(&b->scan, &b->members);
    if (member == NULL)
        return;
    *member = process;
    b->is_member[process] = true;
    b->n_roots++;
}

/* Whether a line of /proc/PID/cgroup ("0::/a/b", "4:memory:/a/b") is at or below @path. */
static bool in_cgroup(const char *text, const char *path)
{
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *end = line + strcspn(line, "\n"), *at = strchr(line, ':');
        at = at == NULL ? NULL : strchr(at + 1, ':');
        if (at != NULL && at < end && strncmp(at + 1, path, len) == 0 &&
            (at[1 + len] == '/' || at[1 + len] == '\n' || at[1 + len] == '\0' || len == 1))
            return true;
        line = *end == '\0' ? NULL : end + 1;
    }
    return false;
}

/* Whether a part of such a path is @unit. */
static bool in_unit(const char *text, const char *unit)
{
    size_t len = strlen(unit);
    for (const char *at = text; len > 0 && (at = strstr(at, unit)) != NULL; at++)
        if (at > text && at[-1] == '/' && (at[len] == '/' || at[len] == '\n' || at[len] == '\0'))
            return true;
    return false;
}

static void fail(StasisBoundary *b, const char *error)
{
    b->verdict = STASIS_VERDICT_FAILED;
    b->error = error;
}

static void find_roots(StasisBoundary *b)
{
    const StasisBoundaryRequest *r = &b->request;
    StasisScan *scan = &b->scan;
    for (size_t i = 0; i < r->n_pids; i++) {
        int32_t process = stasis_scan_find(scan, r->pids[i]);
        if (process < 0) {
            fail(b, stasis_scan_text(scan,
                                     "pid %d: no such process (or a kernel thread); ps -e "
                                     "lists those there are",
                                     r->pids[i]));
            return;
        }
        add_root(b, process);
    }
    for (size_t i = 0; i < scan->processes.n; i++) {
        const StasisProcess *p = &scan->processes.items[i];
        if (!p->dead && ((r->cgroup != NULL && in_cgroup(p->cgroup, r->cgroup)) ||
                         (r->unit != NULL && in_unit(p->cgroup, r->unit))))
            add_root(b, (int32_t)i);
    }
    if (b->n_roots == 0)
        fail(b, stasis_scan_text(scan, "no process in %s; systemd-cgls lists what runs where",
                                 r->unit != NULL     ? r->unit
                                 : r->cgroup != NULL ? r->cgroup
                                                     : "an empty list"));
}

/* ---- one pass ---- */

static void refuse_failure(StasisBoundary *b)
{
    /* The arena is full: these texts are static, or made before. */
    static const StasisRefusal memory = {
        "the scan needs more memory than it may use", "limit reached while reading /proc",
        "allow more (--max-memory), or end processes with very many descriptors or mappings"
    };
    static const StasisRefusal late = {
        "the scan took longer than it may", "limit reached while reading /proc",
        "allow more (--max-time; from the host, --timeout), or ask when the system is less busy"
    };
    b->members.n = 0;
    if (b->scan.failure == STASIS_SCAN_BROKEN) {
        fail(b, "/proc can't be read: the scan needs root, and proc mounted on /proc");
        return;
    }
    b->verdict = STASIS_VERDICT_REFUSED;
    b->refusals.items = (StasisRefusal *)(b->scan.failure == STASIS_SCAN_NO_TIME ? &late : &memory);
    b->refusals.n = 1;
}

static void pass(StasisBoundary *b, uint64_t deadline_ns)
{
    const StasisBoundaryRequest request = b->request;
    unsigned n_passes = b->n_passes;
    stasis_scan_clear(&b->scan);
    *b = (StasisBoundary){ .request = request, .n_passes = n_passes + 1 };
    stasis_scan_run(&b->scan,
                    &(StasisScanLimits){ request.max_bytes, deadline_ns, request.ignore_self,
                                         request.without, request.counts });
    size_t n = b->scan.processes.n;
    b->is_member = stasis_scan_alloc(&b->scan, n + 1);
    b->via = stasis_scan_alloc(&b->scan, (n + 1) * sizeof *b->via);
    for (size_t i = 0; b->via != NULL && i < n; i++)
        b->via[i] = -1;
    if (b->scan.failure == STASIS_SCAN_OK)
        find_roots(b);
    if (b->scan.failure == STASIS_SCAN_OK && b->verdict == STASIS_VERDICT_OK) {
        stasis_closure_find(b);
        if (b->scan.failure == STASIS_SCAN_OK)
            stasis_boundary_judge(b);
        if (b->scan.failure == STASIS_SCAN_OK && !request.any_dumper)
            stasis_boundary_judge_criu(b);
        if (b->scan.failure == STASIS_SCAN_OK && request.direct)
            stasis_boundary_judge_direct(b);
    }
    if (b->scan.failure != STASIS_SCAN_OK)
        refuse_failure(b);
}

/* ---- agreement ---- */

static uint64_t mix(uint64_t h, const void *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        h = (h ^ ((const unsigned char *)data)[i]) * 0x100000001b3u; /* FNV-1a */
    return h;
}

/* Of all that the answer consists of. Members in order of process ID, and edges by a sum: the order
 * in which things are found means nothing. */
static uint64_t digest(const StasisBoundary *b)
{
    uint64_t h = 0xcbf29ce484222325u, sum = 0;
    for (size_t i = 0; i < b->scan.processes.n; i++)
        if (b->is_member[i]) {
            h = mix(h, &b->scan.processes.items[i].pid, sizeof(pid_t));
            h = mix(h, &b->scan.processes.items[i].start, sizeof(uint64_t));
        }
    for (size_t i = 0; i < b->scan.edges.n; i++)
        if (b->place[i] == STASIS_EDGE_CUT)
            sum += mix(0, b->scan.edges.items[i].object, strlen(b->scan.edges.items[i].object));
    for (size_t i = 0; i < b->refusals.n; i++)
        sum += mix(1, b->refusals.items[i].witness, strlen(b->refusals.items[i].witness));
    return mix(h, &sum, sizeof sum);
}

static void wait_a_little(unsigned n_passes)
{
    long ms = n_passes < 6 ? 1L << n_passes : 50;
    nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

const char *const stasis_shape_names[] = { "closure", "tree", "talked", NULL };

bool stasis_shape_find(const char *name, StasisShape *ret)
{
    for (size_t i = 0; stasis_shape_names[i] != NULL; i++)
        if (strcmp(name, stasis_shape_names[i]) == 0) {
            *ret = (StasisShape)i;
            return true;
        }
    return false;
}

static void refuse_uncounted(StasisBoundary *b)
{
    const char *why = b->request.uncounted;
    b->scan.arena.limit_bytes = b->request.max_bytes;
    stasis_boundary_refuse(b, "what processes say to each other can't be counted in this guest",
                           why != NULL ? why : "nobody counts",
                           "take all that could have been said: --boundary closure");
}

void stasis_boundary_find(StasisBoundary *ret, const StasisBoundaryRequest *request)
{
    *ret = (StasisBoundary){ .request = *request };
    StasisBoundaryRequest *r = &ret->request;
    r->max_processes = r->max_processes != 0 ? r->max_processes : 1000;
    r->max_bytes = r->max_bytes != 0 ? r->max_bytes : (size_t)64 << 20;
    r->max_ms = r->max_ms != 0 ? r->max_ms : 10000;
    r->max_passes = r->max_passes > 1 ? r->max_passes : 10;
    r->agent = r->agent != 0 ? r->agent : getpid();
    unsigned max_passes = r->max_passes;
    if (r->shape == STASIS_SHAPE_TALKED && r->counts == NULL) {
        refuse_uncounted(ret);
        return;
    }
    uint64_t deadline_ns = now_ns() + (uint64_t)r->max_ms * 1000000, last = 0;
    while (!ret->stable && ret->n_passes < max_passes) {
        pass(ret, deadline_ns);
        if (ret->scan.failure != STASIS_SCAN_OK)
            return;
        /* Roots that are not there are none, however often one looks. */
        if (ret->verdict == STASIS_VERDICT_FAILED)
            return;
        uint64_t found = digest(ret);
        ret->stable = ret->n_passes > 1 && found == last;
        last = found;
        if (!ret->stable)
            wait_a_little(ret->n_passes);
    }
    if (!ret->stable)
        stasis_boundary_refuse(
            ret, "the processes that belong together change faster than they can be looked at",
            stasis_scan_text(&ret->scan,
                             "%u passes, no two in a row alike; %zu processes in the "
                             "last",
                             ret->n_passes, ret->members.n),
            "freeze them first (cgroup.freeze), or ask when they are calm");
}

void stasis_boundary_clear(StasisBoundary *boundary)
{
    stasis_scan_clear(&boundary->scan);
    *boundary = (StasisBoundary){ 0 };
}
