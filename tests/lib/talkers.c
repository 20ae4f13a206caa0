/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A workload for what is really said: applications of some tasks each, for the guest.
 *
 *     talkers APPS TASKS [SEED]   prints "APP n: pid pid …" for each, the first one's children
 *                                 behind it, and "LOG pipe:[n] unix:[n]", and leaves them behind
 *
 * Within an application a token goes round all the time, over a pipe, a socketpair, a TCP
 * connection and a POSIX queue in turn. All tasks of all applications have both ends of one pipe
 * and one socketpair, over which nobody says anything, unless told to: SIGUSR1 sends a byte into
 * the pipe, SIGUSR2 takes one out; SIGRTMIN and SIGRTMIN + 1 do so with the socketpair. So who
 * talked with whom is known.
 *
 * With a SEED the workload is drawn: applications of 2 tasks and more, TASKS in the mean, over
 * channels of any kind; and each has a pipe to one of those before it, as "LINK a b talks" or "LINK
 * a b silent" tells. A pipe that talks gets a byte from the one leader, each time its token comes
 * round, which the other one takes out.
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_TASKS 32
#define MAX_APPS 64
#define STEP_NS 100000000

static int log_pipe[2], log_socket[2];

/* A pipe of all tasks of two applications; without a SEED there is none. */
typedef struct {
    int from, to, ends[2];
    bool talks;
} Link;
static Link links[MAX_APPS];
static int n_links;

static void on_signal(int number)
{
    char byte = 'x';
    ssize_t n = number == SIGUSR1    ? write(log_pipe[1], &byte, 1)
                : number == SIGUSR2  ? read(log_pipe[0], &byte, 1)
                : number == SIGRTMIN ? write(log_socket[1], &byte, 1)
                                     : read(log_socket[0], &byte, 1);
    (void)n;
}

/* ---- channels: ends[0] to take from, ends[1] to put into ---- */

static int make_pipe(int ends[2])
{
    return pipe(ends);
}

static int make_socketpair(int ends[2])
{
    return socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
}

static int make_tcp(int ends[2])
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    ends[1] = socket(AF_INET, SOCK_STREAM, 0);
    int failed = bind(listener, (struct sockaddr *)&address, len) < 0 || listen(listener, 1) < 0 ||
                 getsockname(listener, (struct sockaddr *)&address, &len) < 0 ||
                 connect(ends[1], (struct sockaddr *)&address, len) < 0 ||
                 (ends[0] = accept(listener, NULL, NULL)) < 0;
    close(listener);
    return -failed;
}

static int make_queue(int ends[2])
{
    struct mq_attr attr = { .mq_maxmsg = 1, .mq_msgsize = 1 };
    char name[32];
    snprintf(name, sizeof name, "/talkers-%d", (int)getpid());
    ends[0] = mq_open(name, O_RDONLY | O_CREAT | O_EXCL, 0600, &attr);
    ends[1] = mq_open(name, O_WRONLY);
    mq_unlink(name);
    return ends[0] < 0 || ends[1] < 0 ? -1 : 0;
}

static int (*const makers[])(int ends[2]) = { make_pipe, make_socketpair, make_tcp, make_queue };

static ssize_t take(int fd, char *byte)
{
    ssize_t n = mq_receive(fd, byte, 1, NULL);
    return n < 0 && errno == EBADF ? read(fd, byte, 1) : n;
}

static ssize_t give(int fd, const char *byte)
{
    ssize_t n = mq_send(fd, byte, 1, 0);
    return n < 0 && errno == EBADF ? write(fd, byte, 1) : n;
}

/* ---- what is drawn ---- */

static bool is_drawn;
static unsigned long long state;

/* Of 0 to @n - 1, splitmix64. */
static unsigned draw(unsigned n)
{
    unsigned long long z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (unsigned)((z ^ (z >> 31)) % n);
}

/* Sizes of @n_apps applications, @n_tasks in the mean. */
static void draw_sizes(int n_apps, int n_tasks, int sizes[MAX_APPS])
{
    for (int i = 0; i < n_apps; i++)
        sizes[i] = n_tasks;
    for (int i = 0; is_drawn && i < n_apps * n_tasks; i++) {
        int from = (int)draw((unsigned)n_apps), to = (int)draw((unsigned)n_apps);
        if (sizes[from] > 2 && sizes[to] < MAX_TASKS) {
            sizes[from]--;
            sizes[to]++;
        }
    }
}

static bool draw_links(int n_apps)
{
    for (int i = 1; is_drawn && i < n_apps; i++) {
        Link *link = &links[n_links++];
        *link = (Link){ .from = (int)draw((unsigned)i), .to = i, .talks = draw(3) == 0 };
        if (pipe2(link->ends, O_NONBLOCK) < 0)
            return false;
    }
    return true;
}

/* Of application @app's leader: says its part, and hears the others'. */
static void use_links(int app)
{
    char bytes[64] = "x";
    for (int i = 0; i < n_links; i++) {
        Link *link = &links[i];
        ssize_t n = !link->talks        ? 0
                    : link->from == app ? write(link->ends[1], bytes, 1)
                    : link->to == app   ? read(link->ends[0], bytes, sizeof bytes)
                                        : 0;
        (void)n;
    }
}

/* Those of others. */
static void close_links(int app)
{
    for (int i = 0; i < n_links; i++)
        for (int k = 0; k < 2 && links[i].from != app && links[i].to != app; k++)
            close(links[i].ends[k]);
}

/* ---- tasks ---- */

static void detach(void)
{
    int null = open("/dev/null", O_RDWR);
    setsid(); /* what binds them is what they say, and nothing else */
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    close(null);
}

/* Hand the token on, for ever: in by @from, out by @to. A leader has @app, others -1. */
static void __attribute__((noreturn)) pass(int from, int to, pid_t child, int app)
{
    const struct sigaction action = { .sa_handler = on_signal };
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    sigaction(SIGRTMIN, &action, NULL);
    sigaction(SIGRTMIN + 1, &action, NULL);
    for (char token;;) {
        ssize_t n = take(from, &token);
        if (n < 0 && errno == EINTR)
            continue;
        if (n != 1)
            _exit(1);
        /* A signal that does nothing, now and then. */
        if (child > 0)
            kill(child, SIGURG);
        if (app >= 0)
            use_links(app);
        struct timespec rest = { .tv_nsec = STEP_NS };
        while (nanosleep(&rest, &rest) < 0 && errno == EINTR)
            ;
        while (give(to, &token) < 0 && errno == EINTR)
            ;
    }
}

static void __attribute__((noreturn)) lead(int app, int n_tasks, int told)
{
    int ends[MAX_TASKS][2];
    pid_t pids[MAX_TASKS];
    setsid();
    close_links(app);
    for (int i = 0; i < n_tasks; i++)
        if (makers[is_drawn ? draw(4) : (unsigned)i % 4](ends[i]) < 0)
            _exit(1);
    pids[0] = getpid();
    for (int i = 1; i <= n_tasks; i++) {
        int task = i % n_tasks;
        if (task != 0 && (pids[task] = fork()) != 0)
            continue;
        if (task == 0) {
            for (int k = 0; k < n_tasks; k++)
                dprintf(told, "%s%d", k > 0 ? " " : "", (int)pids[k]);
            dprintf(told, "\n");
            if (give(ends[0][1], "t") < 0)
                _exit(1);
        }
        close(told);
        detach();
        /* It keeps where it reads, and where it writes. */
        int next = (task + 1) % n_tasks;
        for (int k = 0; k < n_tasks; k++) {
            if (k != task)
                close(ends[k][0]);
            if (k != next)
                close(ends[k][1]);
        }
        pass(ends[task][0], ends[next][1], task == 0 ? pids[1] : 0, task == 0 ? app : -1);
    }
    _exit(1);
}

static unsigned long inode(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 ? (unsigned long)st.st_ino : 0;
}

int main(int argc, char **argv)
{
    bool enough = argc == 3 || argc == 4;
    int n_apps = enough ? atoi(argv[1]) : 0, n_tasks = enough ? atoi(argv[2]) : 0;
    int sizes[MAX_APPS];
    if (n_apps < 1 || n_apps > MAX_APPS || n_tasks < 2 || n_tasks > MAX_TASKS) {
        fprintf(stderr, "usage: talkers APPS TASKS [SEED] (TASKS: 2 to %d)\n", MAX_TASKS);
        return 2;
    }
    is_drawn = argc == 4;
    state = is_drawn ? strtoull(argv[3], NULL, 10) : 0;
    signal(SIGURG, SIG_IGN);
    draw_sizes(n_apps, n_tasks, sizes);
    if (pipe2(log_pipe, O_NONBLOCK) < 0 ||
        socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, log_socket) < 0 || !draw_links(n_apps))
        return 1;
    for (int i = 0; i < n_apps; i++) {
        int told[2];
        char line[1024];
        if (pipe(told) < 0 || fflush(stdout) != 0)
            return 1;
        state += (unsigned long long)i; /* another one's channels are others */
        if (fork() == 0) {
            close(told[0]);
            lead(i, sizes[i], told[1]);
        }
        close(told[1]);
        FILE *in = fdopen(told[0], "r");
        if (in == NULL || fgets(line, sizeof line, in) == NULL)
            return 1;
        fclose(in);
        printf("APP %d: %s", i, line);
    }
    for (int i = 0; i < n_links; i++)
        printf("LINK %d %d %s\n", links[i].from, links[i].to, links[i].talks ? "talks" : "silent");
    unsigned long a = inode(log_socket[0]), b = inode(log_socket[1]);
    printf("LOG pipe:[%lu] unix:[%lu]\n", inode(log_pipe[0]), a < b ? a : b);
    return fflush(stdout) == 0 ? 0 : 1;
}
