/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes that talk by POSIX message queues and check what they get, for guests that are to be
 * dumped and restored:
 *
 *     queue-ring start [WORD…]   prints the first one's PID
 *     queue-ring ask             what it has found
 *
 *     root ──/queue-ring──> child r ──a queue without a name──> child v
 *
 * The root sends rising numbers, each with one of three priorities, and waits when the queue is
 * full, which it always is: r takes its time. Of each priority numbers have to come in order, and
 * none may be missing for long, which r checks; v has next to nothing to do, and waits for its next
 * message nearly all the time. A thread of the root's answers at an abstract socket.
 *
 * Words: "notify", r asks to be told by a signal when something comes in a third, empty queue,
 * which CRIU can't carry; "other", a process that is nobody's child has the first queue open as
 * well, and adds what it finds when it is told to ("queue-ring add").
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_PRIORITIES 3u
#define ROOM 8
#define MAX_LATE 1000u /* how far behind the newest one a lower priority may be */

static const unsigned priorities[N_PRIORITIES] = { 0, 7, 32000 };

typedef struct {
    uint64_t n, of_priority;
    char filler[100];
} Message;

static struct {
    _Atomic uint64_t sent, received, verified, bad;
} * state;

static void __attribute__((noreturn)) die(const char *what)
{
    perror(what);
    exit(1);
}

static mqd_t make(const char *name, long room)
{
    struct mq_attr attr = { .mq_maxmsg = room, .mq_msgsize = sizeof(Message) };
    mq_unlink(name);
    mqd_t q = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0640, &attr);
    if (q < 0 || fchown(q, 7, 8) < 0)
        die(name);
    return q;
}

static void check(bool good)
{
    if (!good)
        atomic_fetch_add(&state->bad, 1);
}

static void __attribute__((noreturn)) be_verifier(mqd_t from)
{
    Message m;
    prctl(PR_SET_NAME, "queue-ring-v");
    for (uint64_t expected = 1;; expected++) {
        check(mq_receive(from, (char *)&m, sizeof m, NULL) == sizeof m && m.n == expected);
        state->verified = m.n;
    }
}

static void __attribute__((noreturn)) be_receiver(mqd_t from, mqd_t to, bool notify)
{
    uint64_t last[N_PRIORITIES] = { 0 };
    Message m;
    prctl(PR_SET_NAME, "queue-ring-r");
    if (notify) {
        struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
        if (mq_notify(make("/queue-ring-n", 1), &event) < 0)
            die("mq_notify");
    }
    for (uint64_t n = 1;; n++) {
        unsigned priority;
        check(mq_receive(from, (char *)&m, sizeof m, &priority) == sizeof m);
        unsigned i = 0;
        while (i < N_PRIORITIES - 1 && priorities[i] != priority)
            i++;
        check(priorities[i] == priority && m.of_priority == last[i] + 1 && m.filler[99] == 'x');
        last[i] = m.of_priority;
        for (i = 0; i < N_PRIORITIES; i++)
            check(last[i] * N_PRIORITIES + MAX_LATE >= m.n);
        state->received = n;
        m.n = n;
        check(mq_send(to, (const char *)&m, sizeof m, 0) == 0);
        usleep(2000);
    }
}

static void *send_on(void *data)
{
    mqd_t to = *(mqd_t *)data;
    uint64_t of[N_PRIORITIES] = { 0 };
    for (uint64_t n = 1;; n++) {
        Message m = { .n = n };
        /* Lower ones fill the queue, and come to their turn when no higher one can be sent. */
        unsigned i = (unsigned)(n % N_PRIORITIES);
        m.of_priority = ++of[i];
        m.filler[99] = 'x';
        check(mq_send(to, (const char *)&m, sizeof m, priorities[i]) == 0);
        state->sent = n;
    }
    return NULL;
}

/* ---- asking ---- */

static struct sockaddr_un address(socklen_t *len)
{
    static const char name[] = "queue-ring";
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    memcpy(a.sun_path + 1, name, sizeof name - 1);
    *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof name);
    return a;
}

static void __attribute__((noreturn)) answer(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        int n =
            dprintf(fd, "pid=%d sent=%llu received=%llu verified=%llu bad=%llu\n", (int)getpid(),
                    (unsigned long long)state->sent, (unsigned long long)state->received,
                    (unsigned long long)state->verified, (unsigned long long)state->bad);
        check(n > 0);
        close(fd);
    }
}

static int ask(void)
{
    char text[512];
    socklen_t len;
    struct sockaddr_un a = address(&len);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&a, len) < 0)
        die("queue-ring: ask");
    size_t done = 0;
    for (ssize_t n; (n = read(fd, text, sizeof text)) > 0; done += (size_t)n)
        fwrite(text, 1, (size_t)n, stdout);
    return done > 0 ? 0 : 1;
}

/* ---- starting ---- */

/* A process that is nobody's child here. */
static void be_apart(mqd_t queue)
{
    if (fork() != 0)
        return;
    prctl(PR_SET_NAME, "queue-other");
    setsid();
    if (fork() != 0)
        _exit(0);
    setsid();
    close_range(0, (unsigned)queue - 1, 0);
    close_range((unsigned)queue + 1, ~0u, 0);
    for (;;)
        pause();
}

static void __attribute__((noreturn)) be_root(int ready, bool notify, bool other)
{
    static mqd_t first;
    socklen_t len;
    pthread_t thread;
    int status, null_fd = open("/dev/null", O_RDWR);
    setsid();
    first = make("/queue-ring", ROOM);
    if (other) {
        be_apart(first);
        wait(&status);
    }
    mqd_t second = make("/queue-ring-2", 4);
    mq_unlink("/queue-ring-2");
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct sockaddr_un a = address(&len);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (state == MAP_FAILED || bind(listener, (struct sockaddr *)&a, len) < 0 ||
        listen(listener, 4) < 0)
        die("queue-ring");
    for (int fd = 0; fd < 3; fd++)
        dup2(null_fd, fd);
    close(null_fd);
    if (fork() == 0) {
        close(listener);
        close(ready);
        be_receiver(first, second, notify);
    }
    if (fork() == 0) {
        close(listener);
        close(ready);
        close(first);
        be_verifier(second);
    }
    close(second);
    pthread_create(&thread, NULL, send_on, &first);
    while (state->sent < ROOM || state->verified < 2)
        usleep(1000);
    if (write(ready, "", 1) == 1)
        close(ready);
    answer(listener);
}

static int start(bool notify, bool other)
{
    int ready[2];
    char byte;
    if (pipe2(ready, O_CLOEXEC) < 0)
        die("pipe");
    pid_t pid = fork();
    if (pid == 0)
        be_root(ready[1], notify, other);
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1) {
        fputs("queue-ring: it did not start\n", stderr);
        return 1;
    }
    printf("%d\n", (int)pid);
    return 0;
}

int main(int argc, char **argv)
{
    bool notify = false, other = false;
    for (int i = 2; i < argc; i++) {
        notify |= strcmp(argv[i], "notify") == 0;
        other |= strcmp(argv[i], "other") == 0;
    }
    if (argc > 1 && strcmp(argv[1], "start") == 0)
        return start(notify, other);
    if (argc > 1 && strcmp(argv[1], "ask") == 0)
        return ask();
    fputs("usage: queue-ring start [notify] [other] | ask\n", stderr);
    return 2;
}
