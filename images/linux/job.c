/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The Linux guest's job: counts aloud, keeps a file, and has memory rewritten and verified.
 *
 *   count N                     each stasis.interval=100 ms; N is also in the file /run/count,
 *                               and the next N is made from what is read back from there
 *   MEM ok passes=… writes=… late_ms=…   each second while no worker has found a wrong page
 *   MEM BAD …                   at once by the worker (memory.c), and each second from then on
 *
 * stasis.memory=16M is the size of the working set, a file on tmpfs split among
 * stasis.workers=(one per CPU) processes, which together rewrite stasis.rate=256 pages in each
 * interval. Lines are single writes, so that those of several processes do not mix.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#include "job.h"

#define MAX_WORKERS 64
#define COUNT_FILE "/run/count"
#define MEMORY_FILE "/run/memory"

static char cmdline[4096];

static void __attribute__((noreturn)) fail(const char *what)
{
    printf("JOB failed: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* The value of a parameter of the kernel command line, with K, M or G. */
static unsigned long parameter(const char *name, unsigned long otherwise)
{
    size_t n = strlen(name);
    const char *at = cmdline;
    unsigned long value;
    char *end;

    while ((at = strstr(at, name)) != NULL) {
        if ((at == cmdline || at[-1] == ' ') && at[n] == '=')
            break;
        at += n;
    }
    if (at == NULL)
        return otherwise;
    value = strtoul(at + n + 1, &end, 10);
    if (end == at + n + 1) {
        errno = EINVAL;
        fail(name);
    }
    switch (*end) {
    case 'G':
        value <<= 10; /* fall through */
    case 'M':
        value <<= 10; /* fall through */
    case 'K':
        value <<= 10;
    }
    return value;
}

static void read_cmdline(void)
{
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, cmdline, sizeof(cmdline) - 1);

    if (n < 0)
        fail("/proc/cmdline");
    close(fd);
}

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

int64_t ticker_wait(Ticker *ticker, unsigned ms)
{
    int64_t now = now_ns(), late;
    struct timespec ts;

    if (ticker->due_ns == 0)
        ticker->due_ns = now;
    ticker->due_ns += ms * 1000000ll;
    ts = (struct timespec){ ticker->due_ns / 1000000000, ticker->due_ns % 1000000000 };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
        ;
    late = now_ns() - ticker->due_ns;
    if (late > ms * 1000000ll) /* lost time is not made up for */
        ticker->due_ns += late;
    return late / 1000000;
}

static uint64_t *map_memory(size_t bytes)
{
    int fd = open(MEMORY_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void *memory;

    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
        fail(MEMORY_FILE);
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        fail("mmap of " MEMORY_FILE);
    close(fd);
    return memory;
}

static void start_workers(unsigned n_workers, unsigned interval_ms, WorkerStatus *status)
{
    size_t n_pages = parameter("stasis.memory", 16ul << 20) / PAGE / n_workers;
    unsigned rate = (unsigned)parameter("stasis.rate", 256);
    uint64_t *memory;

    if (n_pages == 0)
        return;
    memory = map_memory(n_pages * n_workers * PAGE);
    for (unsigned i = 0; i < n_workers; i++) {
        Worker worker = { .number = i,
                          .interval_ms = interval_ms,
                          .pages_per_turn = (rate + n_workers - 1) / n_workers,
                          .n_pages = n_pages,
                          .memory = memory + i * n_pages * PAGE / sizeof(*memory),
                          .status = status + i };
        pid_t pid = fork();

        if (pid < 0)
            fail("fork");
        if (pid > 0)
            continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        worker_run(&worker);
    }
}

/* N + 1, from what the file says, and into the file. */
static unsigned long count_up(int fd)
{
    char text[32] = { 0 };
    unsigned long n;
    int length;

    if (pread(fd, text, sizeof(text) - 1, 0) < 0)
        fail("read " COUNT_FILE);
    n = strtoul(text, NULL, 10) + 1;
    length = snprintf(text, sizeof(text), "%lu\n", n);
    if (pwrite(fd, text, (size_t)length, 0) != length)
        fail("write " COUNT_FILE);
    return n;
}

static void report_memory(const volatile WorkerStatus *status, unsigned n_workers, long late_ms)
{
    WorkerStatus sum = { 0 };

    for (unsigned i = 0; i < n_workers; i++) {
        sum.passes += status[i].passes;
        sum.writes += status[i].writes;
        sum.bad += status[i].bad;
    }
    printf("MEM %s passes=%llu writes=%llu bad=%llu late_ms=%ld\n", sum.bad ? "BAD" : "ok",
           (unsigned long long)sum.passes, (unsigned long long)sum.writes,
           (unsigned long long)sum.bad, late_ms);
}

int main(void)
{
    unsigned interval_ms, n_workers, since_report_ms = 0;
    WorkerStatus *status;
    int64_t late_ms = 0;
    Ticker ticker = { 0 };
    int fd;

    setvbuf(stdout, NULL, _IOLBF, 0);
    read_cmdline();
    interval_ms = (unsigned)parameter("stasis.interval", 100);
    n_workers = (unsigned)parameter("stasis.workers", (unsigned long)sysconf(_SC_NPROCESSORS_ONLN));
    if (interval_ms == 0)
        interval_ms = 1;
    n_workers = n_workers < 1 ? 1 : n_workers > MAX_WORKERS ? MAX_WORKERS : n_workers;
    status = mmap(NULL, sizeof(*status) * MAX_WORKERS, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    fd = open(COUNT_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (status == MAP_FAILED || fd < 0)
        fail(COUNT_FILE);
    start_workers(n_workers, interval_ms, status);
    for (;;) {
        int64_t late;

        printf("count %lu\n", count_up(fd));
        since_report_ms += interval_ms;
        if (since_report_ms >= 1000) {
            report_memory(status, n_workers, (long)late_ms);
            since_report_ms = 0;
            late_ms = 0;
        }
        late = ticker_wait(&ticker, interval_ms);
        if (late > late_ms)
            late_ms = late;
    }
}
