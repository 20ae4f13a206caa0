/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process that lives by its clocks and by who calls, and checks both, for guests in which it is
 * dumped and restored:
 *
 *     proc-clocks start    prints its PID
 *     proc-clocks ask      how often each of them came, and what was wrong
 *
 * A timerfd, a timer of timer_create(2) that signals with a number, and one of setitimer(2), each
 * every PERIOD_MS; a timerfd that comes once, at a time that is told; two sockets that listen, one
 * of TCP on loopback and one of UNIX with a path. Whoever asks does so at the second one, and it
 * then calls itself at the first, with a number that it has to hear; not at other times, since a
 * connection that waits to be accepted can't be taken.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PERIOD_MS 20
#define PERIOD_NS (PERIOD_MS * 1000000)
#define PATH "/run/proc-clocks"
#define MARK 0x636c6f63
#define ASKED UINT64_MAX

static struct {
    uint64_t timerfd, once, posix, itimer, tcp, bad;
} seen;

static void __attribute__((noreturn)) die(const char *what)
{
    perror(what);
    exit(1);
}

static void check(bool good)
{
    seen.bad += !good;
}

/* ---- who calls ---- */

typedef struct {
    struct sockaddr_storage address;
    socklen_t length;
    int fd;
} Listener;

static Listener tcp, path;

static void listen_at(Listener *l)
{
    int one = 1;
    l->fd = socket(l->address.ss_family, SOCK_STREAM, 0);
    /* As servers do: to be restored where connections of before have not quite gone. */
    setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(l->fd, (void *)&l->address, l->length) < 0 || listen(l->fd, 8) < 0 ||
        getsockname(l->fd, (void *)&l->address, &l->length) < 0)
        die("listen");
}

static void set_path(Listener *l)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = PATH };
    memcpy(&l->address, &a, sizeof a);
    l->length = sizeof a;
}

static int call(const Listener *l, uint64_t n)
{
    int fd = socket(l->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const void *)&l->address, l->length) == 0 &&
        write(fd, &n, sizeof n) == sizeof n)
        return fd;
    close(fd);
    return -1;
}

static void call_ourselves(void)
{
    uint64_t n = 0;
    int there = call(&tcp, seen.tcp + 1), here = there >= 0 ? accept(tcp.fd, NULL, NULL) : -1;
    check(here >= 0 && read(here, &n, sizeof n) == sizeof n && n == seen.tcp + 1);
    seen.tcp++;
    close(here);
    close(there);
}

static void tell(int fd)
{
    dprintf(fd, "pid=%d timerfd=%llu once=%llu posix=%llu itimer=%llu tcp=%llu bad=%llu\n",
            (int)getpid(), (unsigned long long)seen.timerfd, (unsigned long long)seen.once,
            (unsigned long long)seen.posix, (unsigned long long)seen.itimer,
            (unsigned long long)seen.tcp, (unsigned long long)seen.bad);
}

static void take_call(void)
{
    uint64_t n = 0;
    int fd = accept(path.fd, NULL, NULL);
    check(fd >= 0 && read(fd, &n, sizeof n) == sizeof n && n == ASKED);
    call_ourselves();
    tell(fd);
    close(fd);
}

/* ---- clocks ---- */

static int begin_timerfd(void)
{
    struct itimerspec every = { { 0, PERIOD_NS }, { 0, PERIOD_NS } };
    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    if (fd < 0 || timerfd_settime(fd, 0, &every, NULL) < 0)
        die("timerfd");
    return fd;
}

/* Soon. */
static int begin_once(void)
{
    struct itimerspec then = { 0 };
    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    clock_gettime(CLOCK_MONOTONIC, &then.it_value);
    then.it_value.tv_sec++;
    if (fd < 0 || timerfd_settime(fd, TFD_TIMER_ABSTIME, &then, NULL) < 0)
        die("timerfd");
    return fd;
}

/* The other two, by signals that are read. */
static int begin_timers(void)
{
    sigset_t set;
    timer_t timer;
    struct itimerspec every = { { 0, PERIOD_NS }, { 0, PERIOD_NS } };
    struct itimerval real = { { 0, PERIOD_MS * 1000 }, { 0, PERIOD_MS * 1000 } };
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL,
                              .sigev_signo = SIGRTMIN,
                              .sigev_value.sival_int = MARK };
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGALRM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, 0);
    if (fd < 0 || timer_create(CLOCK_MONOTONIC, &event, &timer) < 0 ||
        timer_settime(timer, 0, &every, NULL) < 0 || setitimer(ITIMER_REAL, &real, NULL) < 0)
        die("timers");
    return fd;
}

static uint64_t read_ticks(int fd)
{
    uint64_t n = 0;
    check(read(fd, &n, sizeof n) == sizeof n && n > 0);
    return n;
}

static void take_signal(int fd)
{
    struct signalfd_siginfo info;
    check(read(fd, &info, sizeof info) == sizeof info);
    if (info.ssi_signo == SIGALRM) {
        seen.itimer++;
        return;
    }
    check((int)info.ssi_signo == SIGRTMIN && info.ssi_int == MARK && info.ssi_code == SI_TIMER);
    seen.posix += 1 + info.ssi_overrun;
}

static void __attribute__((noreturn)) live(int ready)
{
    struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    setsid();
    prctl(PR_SET_NAME, "proc-clocks");
    signal(SIGPIPE, SIG_IGN);
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    memcpy(&tcp.address, &any, sizeof any);
    tcp.length = sizeof any;
    unlink(PATH);
    set_path(&path);
    listen_at(&tcp);
    listen_at(&path);
    struct pollfd fds[] = { { .fd = begin_timerfd(), .events = POLLIN },
                            { .fd = begin_timers(), .events = POLLIN },
                            { .fd = path.fd, .events = POLLIN },
                            { .fd = begin_once(), .events = POLLIN } };
    if (write(ready, "", 1) == 1)
        close(ready);
    for (;;) {
        if (poll(fds, 4, -1) < 0) {
            check(errno == EINTR);
            continue;
        }
        if (fds[0].revents != 0)
            seen.timerfd += read_ticks(fds[0].fd);
        if (fds[1].revents != 0)
            take_signal(fds[1].fd);
        if (fds[2].revents != 0)
            take_call();
        if (fds[3].revents != 0)
            check((seen.once += read_ticks(fds[3].fd)) == 1);
    }
}

static int start(void)
{
    int ready[2];
    char byte;
    if (pipe(ready) < 0)
        die("pipe");
    pid_t pid = fork();
    if (pid == 0) {
        close(ready[0]);
        live(ready[1]);
    }
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1) {
        fputs("proc-clocks: it did not start\n", stderr);
        return 1;
    }
    printf("%d\n", (int)pid);
    return 0;
}

static int ask(void)
{
    char text[512];
    set_path(&path);
    int fd = call(&path, ASKED);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (n <= 0)
        die("proc-clocks: ask");
    fwrite(text, 1, (size_t)n, stdout);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "start") == 0)
        return start();
    if (argc == 2 && strcmp(argv[1], "ask") == 0)
        return ask();
    fputs("usage: proc-clocks start | ask\n", stderr);
    return 2;
}
