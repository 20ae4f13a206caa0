/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program of the guest that has a say in its checkpoints. It writes what it sees to the file LOG,
 * a line each, opened for each line, so that nothing is open at the instant:
 *
 *     coop LOG freeze process|vm [N]   N times (1): "line 7 count C" , stasis_freeze(), and
 *                                      "returned R line 8 count C"; the count rises by one each
 * time coop LOG told [SIGNAL]           "before", "after", "resumed"; of SIGNAL, too: "signal 1" …
 *     coop LOG critical MS LIMIT       "holding", MS later "held", in one critical section of LIMIT
 *     coop LOG cycle MS                cycles of that length: "cycle end" when one was wanted
 *     coop LOG periodic MS WORK LIMIT  each MS: computes for WORK ms, which is to be done LIMIT ms
 * after the period began, and tells of the end of the cycle; to LOG, in place, "cycles N missed M".
 * Ahead of all that have no deadlines (SCHED_FIFO)
 *     coop LOG flood                   asks all the time, without waiting for answers
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "stasis-guest.h"

static const char *path;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    char line[128];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    line[n++] = '\n';
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        _exit(2);
    close(fd);
}

static void before(void)
{
    say("before");
}
static void after(void)
{
    say("after");
}
static void resumed(void)
{
    say("resumed");
}

static int freeze(const char *scope, int n)
{
    int bad = 0;
    unsigned what = strcmp(scope, "vm") == 0 ? STASIS_FREEZE_VM : STASIS_FREEZE_PROCESS;
    for (volatile int count = 0; count < n;) {
        count++;
        say("line 7 count %d", count);
        int r = stasis_freeze(what);
        say("returned %d line 8 count %d", r, count);
        bad += r < 0;
    }
    return bad > 0;
}

static void wait_signals(int number)
{
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, number);
    for (;;)
        if (sigwaitinfo(&set, &info) == number)
            say("signal %d", info.si_value.sival_int);
}

static int told(const char *signal_number)
{
    int number = signal_number != NULL ? atoi(signal_number) : 0;
    sigset_t set;
    sigemptyset(&set);
    if (number != 0)
        sigaddset(&set, number);
    sigprocmask(SIG_BLOCK, &set, NULL);
    if (stasis_on_checkpoint(before, after, resumed) != 0 ||
        (number != 0 && stasis_signal_on_checkpoint(number) != 0))
        return 2;
    say("listening");
    if (number != 0)
        wait_signals(number);
    for (;;)
        pause();
}

static int critical(int ms, unsigned limit)
{
    int r = stasis_critical_begin(limit);
    say("holding %d", r);
    poll(NULL, 0, ms);
    say("held");
    return stasis_critical_end() != 0;
}

static void cycle(int ms)
{
    for (;;) {
        if (stasis_cycle_end() == 1)
            say("cycle end");
        poll(NULL, 0, ms);
    }
}

static int64_t ns_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void write_count(int fd, unsigned long cycles, unsigned long missed)
{
    char line[64];
    int n = snprintf(line, sizeof line, "cycles %10lu missed %10lu\n", cycles, missed);
    if (pwrite(fd, line, (size_t)n, 0) != n)
        _exit(2);
}

/* Periods that went by whole are missed, too. */
static void periodic(int period_ms, int work_ms, int limit_ms)
{
    const int64_t period = period_ms * 1000000LL;
    int fd = open(path, O_WRONLY | O_CREAT, 0666);
    if (sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ .sched_priority = 1 }) != 0)
        _exit(2);
    int64_t due = ns_now();
    for (unsigned long cycles = 0, missed = 0, told = 0;; due += period) {
        int64_t now = ns_now();
        if (now < due) {
            struct timespec t = { due / 1000000000, due % 1000000000 };
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        } else {
            missed += (unsigned long)((now - due) / period);
            due += (now - due) / period * period;
        }
        for (int64_t end = ns_now() + work_ms * 1000000LL; ns_now() < end;)
            ;
        missed += ns_now() - due > limit_ms * 1000000LL;
        stasis_deadline_missed((unsigned)(missed - told));
        told = missed;
        cycles++;
        stasis_cycle_end();
        write_count(fd, cycles, missed);
    }
}

static void flood(void)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "/run/stasis/agent.sock" };
    for (;;) {
        char junk[16] = "StG1";
        int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
        if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
            while (send(fd, junk, sizeof junk, MSG_NOSIGNAL) > 0)
                ;
        close(fd);
    }
}

int main(int argc, char **argv)
{
    path = argc > 2 ? argv[1] : "";
    const char *what = argc > 2 ? argv[2] : "";
    if (strcmp(what, "freeze") == 0 && argc > 3)
        return freeze(argv[3], argc > 4 ? atoi(argv[4]) : 1);
    if (strcmp(what, "told") == 0)
        return told(argv[3]);
    if (strcmp(what, "critical") == 0 && argc > 4)
        return critical(atoi(argv[3]), (unsigned)atoi(argv[4]));
    if (strcmp(what, "cycle") == 0 && argc > 3)
        cycle(atoi(argv[3]));
    if (strcmp(what, "periodic") == 0 && argc > 5)
        periodic(atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
    if (strcmp(what, "flood") == 0)
        flood();
    return 2;
}
