/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every kind of relation, and every kind of decoy. */
#include "world.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/vm_sockets.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#define ALL 0xfu
#define PAGE 4096
#define CHECK(call) check((long)(call), #call)

static long check(long result, const char *what)
{
    if (result < 0)
        die(what);
    return result;
}

static int open_file(Relation *r, const char *dir, int flags)
{
    snprintf(r->path, sizeof r->path, "%s/f%d", dir, r->index);
    int fd = (int)CHECK(open(r->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    CHECK(ftruncate(fd, PAGE));
    close(fd);
    return (int)CHECK(open(r->path, flags | O_CLOEXEC));
}

static void map(Relation *r, int fd, int prot, int flags)
{
    r->map = mmap(NULL, PAGE, prot, flags, fd, 0);
    if (r->map == MAP_FAILED)
        die("mmap");
    r->map_bytes = PAGE;
    r->map_keep = ALL;
}

/* ---- pipes, FIFOs, sockets ---- */

static void prepare_pipe(Relation *r)
{
    int p[2];
    CHECK(pipe(p));
    keep_fd(r, p[r->variant & 1], 1u);
    keep_fd(r, p[!(r->variant & 1)], ALL & ~1u);
}
static void prepare_pipe_direct(Relation *r)
{
    int p[2];
    CHECK(pipe2(p, O_DIRECT));
    keep_fd(r, p[0], 1u);
    keep_fd(r, p[1], 1u);
}
static void prepare_fifo(Relation *r)
{
    snprintf(r->path, sizeof r->path, DIR_W "/fifo%d", r->index);
    CHECK(mkfifo(r->path, 0600));
}
static void act_fifo_read(Relation *r, int role)
{
    if (role == 0)
        own_fd((int)CHECK(open(r->path, O_RDWR)));
}
static void act_fifo_write(Relation *r, int role)
{
    if (role > 0)
        own_fd((int)CHECK(open(r->path, O_WRONLY | O_NONBLOCK)));
}
static void act_fifo_path(Relation *r, int role)
{
    own_fd((int)CHECK(open(r->path, O_PATH)));
}
static void prepare_socketpair(Relation *r)
{
    static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
    int s[2];
    CHECK(socketpair(AF_UNIX, types[r->variant % 3], 0, s));
    keep_fd(r, s[0], 1u);
    keep_fd(r, s[1], ALL & ~1u);
}
/* With KIND_DECOY: a name of the system's log, in a namespace of its own for each. */
static socklen_t unix_address(const Relation *r, struct sockaddr_un *a)
{
    static const char *const ends[] = { "stdout", "socket", "dev-log", "syslog" };
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    bool log = r->kind->flags & KIND_DECOY, abstract = !log && (r->variant & 1);
    int n = log ? snprintf(a->sun_path, sizeof a->sun_path, "/run/systemd/journal.%d/%s", r->index,
                           ends[r->variant % 4])
                : snprintf(a->sun_path + abstract, sizeof a->sun_path - 1, DIR_W "/s%d", r->index);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n + 1);
}
static void act_unix_listen(Relation *r, int role)
{
    struct sockaddr_un a;
    if (role != 0)
        return;
    r->fd[7] = (int)CHECK(socket(AF_UNIX, SOCK_STREAM, 0));
    own_fd(r->fd[7]);
    CHECK(bind(r->fd[7], (void *)&a, unix_address(r, &a)));
    CHECK(listen(r->fd[7], 8));
}
static void act_unix_connect(Relation *r, int role)
{
    struct sockaddr_un a;
    if (role == 0)
        return;
    int fd = (int)CHECK(socket(AF_UNIX, SOCK_STREAM, 0));
    socklen_t n = unix_address(r, &a);
    CHECK(connect(fd, (void *)&a, n));
    own_fd(fd);
}
static void prepare_log_socket(Relation *r)
{
    char path[64];
    snprintf(path, sizeof path, "/run/systemd/journal.%d", r->index);
    mkdir("/run/systemd", 0700);
    CHECK(mkdir(path, 0700));
}
static void act_accept(Relation *r, int role)
{
    /* Half of them stay in the listener's queue. */
    for (int i = 1; role == 0 && i < r->n && (r->variant & 2); i++)
        own_fd((int)CHECK(accept(r->fd[7], NULL, NULL)));
}
static void act_accept_all(Relation *r, int role)
{
    for (int i = 1; role == 0 && i < r->n; i++)
        own_fd((int)CHECK(accept(r->fd[7], NULL, NULL)));
}
static void act_dgram_bind(Relation *r, int role)
{
    struct sockaddr_un a;
    if (role != 0)
        return;
    int fd = (int)CHECK(socket(AF_UNIX, SOCK_DGRAM, 0));
    CHECK(bind(fd, (void *)&a, unix_address(r, &a)));
    own_fd(fd);
}
static void act_dgram_connect(Relation *r, int role)
{
    struct sockaddr_un a;
    if (role == 0)
        return;
    int fd = (int)CHECK(socket(AF_UNIX, SOCK_DGRAM, 0));
    socklen_t n = unix_address(r, &a);
    CHECK(connect(fd, (void *)&a, n));
    own_fd(fd);
}
static void prepare_shared_socket(Relation *r)
{
    static const int families[] = { AF_INET, AF_UNIX, AF_NETLINK, AF_INET6 };
    int family = families[r->variant % 4];
    keep_fd(r, (int)CHECK(socket(family, SOCK_DGRAM, 0)), ALL);
}
static void send_away(int socket, int fd)
{
    char byte = 0;
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec iov = { &byte, 1 };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof(int));
    CHECK(sendmsg(socket, &msg, 0));
    close(fd);
}
/* A pipe's end on its way to role 0, within a socketpair of its own. */
static void prepare_flight(Relation *r)
{
    int p[2], s[2];
    CHECK(pipe(p));
    CHECK(socketpair(AF_UNIX, r->variant & 1 ? SOCK_DGRAM : SOCK_STREAM, 0, s));
    send_away(s[0], p[0]);
    keep_fd(r, s[0], 1u);
    keep_fd(r, s[1], 1u);
    keep_fd(r, p[1], ALL & ~1u);
}
/* Two messages with a descriptor each, of which the second can't be seen. */
static void prepare_flight_unseen(Relation *r)
{
    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    send_away(s[0], (int)CHECK(open("/dev/null", O_RDWR)));
    send_away(s[0], (int)CHECK(open("/dev/null", O_RDWR)));
    keep_fd(r, s[0], 1u);
    keep_fd(r, s[1], 1u);
}
static socklen_t inet_address(const Relation *r, struct sockaddr_storage *s)
{
    memset(s, 0, sizeof *s);
    uint16_t port = htons((uint16_t)(10000 + r->index));
    if (r->variant & 1) {
        struct sockaddr_in6 *a = (void *)s;
        a->sin6_family = AF_INET6;
        a->sin6_port = port;
        a->sin6_addr = in6addr_loopback;
        return sizeof *a;
    }
    struct sockaddr_in *a = (void *)s;
    a->sin_family = AF_INET;
    a->sin_port = port;
    a->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sizeof *a;
}
static void act_tcp_listen(Relation *r, int role)
{
    struct sockaddr_storage a;
    if (role != 0)
        return;
    socklen_t n = inet_address(r, &a);
    /* Half of those for IPv6 listen to all addresses, and are reached by IPv4. */
    if ((r->variant & 5) == 5)
        ((struct sockaddr_in6 *)&a)->sin6_addr = in6addr_any;
    r->fd[7] = (int)CHECK(socket(a.ss_family, SOCK_STREAM, 0));
    own_fd(r->fd[7]);
    CHECK(bind(r->fd[7], (void *)&a, n));
    CHECK(listen(r->fd[7], 8));
}
static void act_tcp_connect(Relation *r, int role)
{
    struct sockaddr_storage a;
    if (role == 0)
        return;
    if ((r->variant & 5) == 5)
        r->variant &= ~1u;
    socklen_t n = inet_address(r, &a);
    int fd = (int)CHECK(socket(a.ss_family, SOCK_STREAM, 0));
    CHECK(connect(fd, (void *)&a, n));
    own_fd(fd);
}
static void act_udp_bind(Relation *r, int role)
{
    struct sockaddr_storage a;
    socklen_t n = inet_address(r, &a);
    if (role != 0)
        return;
    int fd = (int)CHECK(socket(a.ss_family, SOCK_DGRAM, 0));
    CHECK(bind(fd, (void *)&a, n));
    own_fd(fd);
}
static void act_udp_connect(Relation *r, int role)
{
    struct sockaddr_storage a;
    socklen_t n = inet_address(r, &a);
    if (role == 0)
        return;
    int fd = (int)CHECK(socket(a.ss_family, SOCK_DGRAM, 0));
    CHECK(connect(fd, (void *)&a, n));
    own_fd(fd);
}

/* ---- memory ---- */

static void prepare_anon(Relation *r)
{
    map(r, -1, r->variant & 1 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
}
static void prepare_memfd(Relation *r)
{
    int fd = (int)CHECK(memfd_create("world", MFD_ALLOW_SEALING));
    CHECK(ftruncate(fd, PAGE));
    keep_fd(r, fd, r->variant & 1 ? ALL : 1u);
    if (r->variant & 1)
        return;
    map(r, fd, PROT_READ, MAP_SHARED); /* role 0 has the descriptor, the others the mapping */
    r->map_keep = ALL & ~1u;
}
static void prepare_sealed(Relation *r)
{
    int fd = (int)CHECK(memfd_create("sealed", MFD_ALLOW_SEALING));
    CHECK(ftruncate(fd, PAGE));
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW));
    keep_fd(r, fd, ALL);
}
static void act_shm_make(Relation *r, int role)
{
    /* Found by key; each namespace counts its IDs from 0. */
    if (role == 0)
        r->id = (int)CHECK(shmget(1000 + r->index, PAGE, IPC_CREAT | 0600));
}
static void act_shm_attach(Relation *r, int role)
{
    r->id = (int)CHECK(shmget(1000 + r->index, PAGE, 0600));
    r->map = shmat(r->id, NULL, role > 0 && (r->variant & 1) ? SHM_RDONLY : 0);
    if (r->map == (void *)-1)
        die("shmat");
    r->map_bytes = PAGE;
    r->map_keep = ALL;
}
static void prepare_file(Relation *r)
{
    close(open_file(r, r->variant & 1 ? "/dev/shm" : DIR_W, O_RDWR));
}
static void act_map_file(Relation *r, int role)
{
    int fd = (int)CHECK(open(r->path, O_RDWR));
    map(r, fd, role == 0 ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED);
    close(fd);
}
static void act_map_read(Relation *r, int role)
{
    int fd = (int)CHECK(open(r->path, O_RDONLY));
    map(r, fd, PROT_READ, MAP_SHARED);
    close(fd);
}
static void act_map_private(Relation *r, int role)
{
    int fd = (int)CHECK(open(r->path, O_RDWR));
    map(r, fd, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    close(fd);
}
static void act_open_file(Relation *r, int role)
{
    own_fd((int)CHECK(open(r->path, O_RDWR)));
}
static void act_open_ghost(Relation *r, int role)
{
    own_fd(
        (int)CHECK(open(r->path, role == 0 && !(r->kind->flags & KIND_DECOY) ? O_RDWR : O_RDONLY)));
}
static void act_unlink(Relation *r, int role)
{
    if (role == 0)
        CHECK(unlink(r->path));
}

/* ---- terminals ---- */

static int open_pty(Relation *r)
{
    /* Two instances of devpts, whose terminals have the same numbers. */
    int master =
        (int)CHECK(open(r->variant & 1 ? DIR_W "/pts/ptmx" : "/dev/ptmx", O_RDWR | O_NOCTTY));
    int zero = 0, number;
    CHECK(ioctl(master, TIOCSPTLCK, &zero));
    CHECK(ioctl(master, TIOCGPTN, &number));
    snprintf(r->path, sizeof r->path, "%s/pts/%d", r->variant & 1 ? DIR_W : "/dev", number);
    keep_fd(r, master, 1u);
    return master;
}
static void prepare_pty(Relation *r)
{
    open_pty(r);
    keep_fd(r, (int)CHECK(open(r->path, O_RDWR | O_NOCTTY)), ALL & ~1u);
}
static void prepare_ctty(Relation *r)
{
    open_pty(r);
}
static void act_ctty(Relation *r, int role)
{
    if (role != 0)
        close((int)CHECK(open(r->path, O_RDWR)));
}

/* ---- SysV and POSIX queues, semaphores ---- */

static void act_sem_make(Relation *r, int role)
{
    if (role == 0)
        CHECK(semget(1000 + r->index, MAX_ROLES + 1, IPC_CREAT | 0600));
}
static void sem_wait_forever(Relation *r)
{
    struct sembuf op = { MAX_ROLES, -1, 0 };
    semop(r->id, &op, 1);
}
static void act_sem(Relation *r, int role)
{
    struct sembuf op = { (unsigned short)role, 1, 0 };
    r->id = (int)CHECK(semget(1000 + r->index, MAX_ROLES + 1, 0600));
    if (role == 1 && (r->variant & 1))
        block_in(SYS_semtimedop, sem_wait_forever, r);
    else
        CHECK(semop(r->id, &op, 1));
}
static void act_sem_undo(Relation *r, int role)
{
    struct sembuf op = { 0, 1, SEM_UNDO };
    CHECK(semop((int)CHECK(semget(1000 + r->index, 1, IPC_CREAT | 0600)), &op, 1));
}
static void act_sem_own(Relation *r, int role)
{
    struct sembuf op = { 0, 1, 0 };
    CHECK(semop((int)CHECK(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600)), &op, 1));
}
static void act_msg_make(Relation *r, int role)
{
    if (role == 0)
        CHECK(msgget(1000 + r->index, IPC_CREAT | 0600));
}
static void msg_wait_forever(Relation *r)
{
    struct {
        long type;
        char text[8];
    } m;
    msgrcv(r->id, &m, sizeof m.text, 99, 0);
}
static void act_msg_send(Relation *r, int role)
{
    struct {
        long type;
        char text[8];
    } m = { 1, "hello" };
    r->id = (int)CHECK(msgget(1000 + r->index, 0600));
    if (role == 0)
        CHECK(msgsnd(r->id, &m, sizeof m.text, 0));
    else if (r->variant & 1)
        block_in(SYS_msgrcv, msg_wait_forever, r);
}
static void act_msg_receive(Relation *r, int role)
{
    struct {
        long type;
        char text[8];
    } m;
    if (role == 1 && !(r->variant & 1))
        CHECK(msgrcv(r->id, &m, sizeof m.text, 1, 0));
}
static void act_mq(Relation *r, int role)
{
    snprintf(r->path, sizeof r->path, "/q%d",
             r->kind->flags & KIND_DECOY ? r->index * 10 + role + 1000 : r->index);
    /* Small: a user's queues count with their whole capacity, in all worlds together. */
    struct mq_attr small = { .mq_maxmsg = 1, .mq_msgsize = 16 };
    own_fd((int)CHECK(mq_open(r->path, O_RDWR | O_CREAT, 0600, &small)));
}

/* ---- descriptors with a state ---- */

static void prepare_description(Relation *r)
{
    keep_fd(r, open_file(r, DIR_W, r->variant & 1 ? O_RDWR : O_RDONLY), ALL);
}
static void prepare_log(Relation *r)
{
    keep_fd(r, open_file(r, DIR_W, O_WRONLY | O_APPEND), ALL);
}
static void prepare_eventfd(Relation *r)
{
    keep_fd(r, (int)CHECK(eventfd(0, 0)), ALL);
}
static void act_eventfd(Relation *r, int role)
{
    own_fd((int)CHECK(eventfd(0, 0)));
}
static void prepare_timerfd(Relation *r)
{
    keep_fd(r, (int)CHECK(timerfd_create(CLOCK_MONOTONIC, 0)), ALL);
}
static void prepare_inotify(Relation *r)
{
    keep_fd(r, (int)CHECK(inotify_init1(0)), ALL);
}
static void prepare_signalfd(Relation *r)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    keep_fd(r, (int)CHECK(signalfd(-1, &set, 0)), ALL);
}
static void prepare_epoll(Relation *r)
{
    keep_fd(r, (int)CHECK(epoll_create1(0)), ALL);
}
/* Role 0's epoll waits for an eventfd that only role 1 still has open. */
static void prepare_epoll_target(Relation *r)
{
    int e = (int)CHECK(epoll_create1(0)), target = (int)CHECK(eventfd(0, 0));
    CHECK(epoll_ctl(e, EPOLL_CTL_ADD, target, &(struct epoll_event){ .events = EPOLLIN }));
    keep_fd(r, e, 1u);
    keep_fd(r, target, ALL & ~1u);
}
static void flock_forever(Relation *r)
{
    flock(r->fd[6], LOCK_EX);
}
static void act_lock(Relation *r, int role)
{
    r->fd[6] = (int)CHECK(open(r->path, O_RDWR));
    own_fd(r->fd[6]);
    struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = role * 10, .l_len = 5 };
    if (r->variant & 2)
        CHECK(fcntl(r->fd[6], r->variant & 4 ? F_SETLK : F_OFD_SETLK, &l));
    else if (role == 0)
        CHECK(flock(r->fd[6], LOCK_EX));
    else
        block_in(SYS_flock, flock_forever, r);
}
static void act_lock_own(Relation *r, int role)
{
    snprintf(r->path, sizeof r->path, DIR_W "/l%d.%d", r->index, role);
    int fd = (int)CHECK(open(r->path, O_RDWR | O_CREAT, 0600));
    CHECK(flock(fd, LOCK_EX));
    own_fd(fd);
}
static void act_sigio(Relation *r, int role)
{
    int s[2];
    if (role != 0)
        return;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    CHECK(fcntl(s[0], F_SETOWN, pid_of(r->who[1])));
    CHECK(fcntl(s[0], F_SETFL, O_RDWR | O_ASYNC));
    own_fd(s[0]);
    own_fd(s[1]);
}

static void prepare_bpf_map(Relation *r)
{
    union bpf_attr a = {
        .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1
    };
    keep_fd(r, (int)CHECK(syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof a)), ALL);
}
static void act_proc_file(Relation *r, int role)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/%s", pid_of(r->who[1]), r->variant & 1 ? "mem" : "maps");
    if (role == 0)
        own_fd((int)CHECK(open(path, O_RDONLY)));
}

/* ---- one task's resources in two processes, namespaces ---- */

static void act_clone(Relation *r, int role)
{
    static const struct {
        const char *name;
        int flags;
    } of[] = { { "memory", CLONE_VM },
               { "files", CLONE_FILES },
               { "fs", CLONE_FS },
               { "sighand", CLONE_VM | CLONE_SIGHAND },
               { "sem-undo", CLONE_SYSVSEM } };
    for (size_t i = 0; role == 0 && i < sizeof of / sizeof *of; i++)
        if (strcmp(of[i].name, r->kind->name) == 0)
            make_leaf(r->who[r->n - 1], of[i].flags);
}
static void act_pidns(Relation *r, int role)
{
    if (role == 0)
        make_namespace(r->who[r->n - 2], r->who[r->n - 1]);
}

/* ---- what no checkpoint can take ---- */

static void act_ptrace(Relation *r, int role)
{
    if (role == 0)
        CHECK(ptrace(PTRACE_SEIZE, pid_of(r->who[1]), 0, 0));
}
static void act_pidfd(Relation *r, int role)
{
    if (role == 0)
        own_fd((int)CHECK(syscall(SYS_pidfd_open, pid_of(r->who[1]), 0)));
}
static void act_uring(Relation *r, int role)
{
    struct io_uring_params p = { 0 };
    own_fd((int)CHECK(syscall(SYS_io_uring_setup, 4, &p)));
}
static void act_uffd(Relation *r, int role)
{
    own_fd((int)CHECK(syscall(SYS_userfaultfd, 0)));
}
static void act_perf(Relation *r, int role)
{
    struct perf_event_attr a = { .type = PERF_TYPE_SOFTWARE,
                                 .size = sizeof a,
                                 .config = PERF_COUNT_SW_TASK_CLOCK };
    own_fd((int)CHECK(syscall(SYS_perf_event_open, &a, 0, -1, -1, 0)));
}
static void act_device(Relation *r, int role)
{
    own_fd((int)CHECK(open("/dev/kmsg", O_RDONLY | O_NONBLOCK)));
}
static void act_vsock(Relation *r, int role)
{
    own_fd((int)CHECK(socket(AF_VSOCK, SOCK_STREAM, 0)));
}
static void *parted(void *data)
{
    if (unshare(CLONE_FILES) == 0)
        *(volatile int *)data = 1;
    for (;;)
        pause();
    return NULL;
}
static void act_thread(Relation *r, int role)
{
    static volatile int done;
    pthread_t t;
    if (pthread_create(&t, NULL, parted, (void *)&done) != 0)
        die("pthread_create");
    while (!done)
        usleep(500);
}

/* ---- decoys that are not one of the above with another flag ---- */

static void act_self_pipe(Relation *r, int role)
{
    int p[2];
    CHECK(pipe(p));
    own_fd(p[0]);
    own_fd(p[1]);
}
static void act_self_tcp(Relation *r, int role)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof a;
    int l = (int)CHECK(socket(AF_INET, SOCK_STREAM, 0));
    int c = (int)CHECK(socket(AF_INET, SOCK_STREAM, 0));
    CHECK(bind(l, (void *)&a, n));
    CHECK(listen(l, 1));
    CHECK(getsockname(l, (void *)&a, &n));
    CHECK(connect(c, (void *)&a, n));
    own_fd((int)CHECK(accept(l, NULL, NULL)));
    own_fd(l);
    own_fd(c);
}
static void act_udp_free(Relation *r, int role)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = (int)CHECK(socket(AF_INET, SOCK_DGRAM, 0));
    CHECK(bind(fd, (void *)&a, sizeof a));
    own_fd(fd);
}

#define R(name_, scanner_, min_, max_, flags_, ...)                                                \
    {                                                                                              \
        .name = name_, .scanner = scanner_, .min = min_, .max = max_, .flags = flags_, __VA_ARGS__ \
    }

const Kind kinds[] = {
    R("pipe", "pipe", 2, 4, 0, .prepare = prepare_pipe),
    R("fifo", "fifo", 2, 3, 0, .prepare = prepare_fifo, .act = { act_fifo_read, act_fifo_write }),
    R("unix-pair", "unix", 2, 3, 0, .prepare = prepare_socketpair),
    R("unix-path", "unix", 2, 4, 0, .act = { act_unix_listen, act_unix_connect, act_accept }),
    R("unix-dgram", "unix", 2, 3, 0, .act = { act_dgram_bind, act_dgram_connect }),
    R("socket", "socket", 2, 4, 0, .prepare = prepare_shared_socket),
    R("in-flight", "pipe", 2, 3, KIND_BORROWS, .prepare = prepare_flight),
    R("tcp", "tcp", 2, 4, 0, .act = { act_tcp_listen, act_tcp_connect, act_accept_all }),
    R("tcp-backlog", "tcp", 2, 2, KIND_OPAQUE | KIND_TARGET,
      .act = { act_tcp_listen, act_tcp_connect }),
    R("udp", "udp", 2, 3, 0, .act = { act_udp_bind, act_udp_connect }),
    R("anon-shm", "anon-shm", 2, 4, 0, .prepare = prepare_anon),
    R("memfd", "memfd", 2, 4, 0, .prepare = prepare_memfd),
    R("sysv-shm", "sysv-shm", 2, 3, KIND_IPC, .act = { act_shm_make, act_shm_attach }),
    R("mapped-file", "mapped-file", 2, 4, 0, .prepare = prepare_file, .act = { act_map_file }),
    R("ghost", "ghost", 2, 3, 0, .prepare = prepare_file, .act = { act_open_ghost, act_unlink }),
    R("pty", "pty", 2, 4, 0, .prepare = prepare_pty),
    R("ctty", "ctty", 2, 2, KIND_TTY | KIND_BORROWS, .prepare = prepare_ctty,
      .act = { [1] = act_ctty }),
    R("sysv-sem", "sysv-sem", 2, 4, KIND_IPC | KIND_BLOCKS, .act = { act_sem_make, act_sem }),
    R("sysv-msg", "sysv-msg", 2, 2, KIND_IPC | KIND_BLOCKS,
      .act = { act_msg_make, act_msg_send, act_msg_receive }),
    R("mqueue", "mqueue", 2, 4, KIND_IPC, .act = { act_mq }),
    R("file", "file", 2, 4, 0, .prepare = prepare_description),
    R("eventfd", "eventfd", 2, 4, 0, .prepare = prepare_eventfd),
    R("epoll", "epoll", 2, 3, 0, .prepare = prepare_epoll),
    R("epoll-target", "epoll", 2, 2, KIND_DIRECTED, .prepare = prepare_epoll_target),
    R("timerfd", "timerfd", 2, 4, 0, .prepare = prepare_timerfd),
    R("inotify", "inotify", 2, 3, 0, .prepare = prepare_inotify),
    R("lock", "lock", 2, 3, KIND_BLOCKS, .prepare = prepare_file, .act = { [1] = act_lock }),
    R("sigio", "sigio", 2, 2, KIND_BORROWS, .act = { [1] = act_sigio }),
    R("bpf-map", "bpf-map", 2, 4, 0, .prepare = prepare_bpf_map),
    R("proc-file", "proc-file", 2, 2, KIND_DIRECTED, .act = { [1] = act_proc_file }),
    R("memory", "memory", 1, 1, 0, .n_leaves = 1, .act = { [2] = act_clone }),
    R("files", "files", 1, 1, 0, .n_leaves = 1, .act = { [2] = act_clone }),
    R("fs", "fs", 1, 1, 0, .n_leaves = 1, .act = { [2] = act_clone }),
    R("sighand", "sighand", 1, 1, 0, .n_leaves = 1, .act = { [2] = act_clone }),
    R("sem-undo", "sem-undo", 1, 1, 0, .n_leaves = 1, .act = { [2] = act_clone }),
    R("pid-namespace", "namespace", 1, 1, 0, .n_leaves = 2, .act = { [2] = act_pidns }),

    R("ptrace", "ptrace", 2, 2, KIND_DIRECTED | KIND_OPAQUE | KIND_TARGET,
      .act = { [1] = act_ptrace }),
    R("pidfd", "pidfd", 2, 2, KIND_DECOY | KIND_OPAQUE | KIND_BORROWS, .act = { [1] = act_pidfd }),
    R("io-uring", "io-uring", 1, 1, KIND_OPAQUE, .act = { act_uring }),
    R("userfaultfd", "userfaultfd", 1, 1, KIND_OPAQUE, .act = { act_uffd }),
    R("perf", "perf", 1, 1, KIND_OPAQUE, .act = { act_perf }),
    R("device", "device", 1, 1, KIND_OPAQUE, .act = { act_device }),
    R("vsock", "socket-kind", 1, 1, KIND_OPAQUE, .act = { act_vsock }),
    R("thread", "thread", 1, 1, KIND_OPAQUE, .act = { act_thread }),
    R("packet-pipe", "pipe", 1, 1, KIND_OPAQUE, .prepare = prepare_pipe_direct),
    R("flight-unseen", "unix", 1, 1, KIND_OPAQUE, .prepare = prepare_flight_unseen),
    R("undo-user", "sem-undo", 1, 1, KIND_OPAQUE | KIND_IPC, .act = { act_sem_undo }),

    R("no-file", NULL, 2, 4, KIND_DECOY, .prepare = prepare_file, .act = { act_open_file }),
    R("no-ghost", NULL, 2, 3, KIND_DECOY, .prepare = prepare_file,
      .act = { act_open_ghost, act_unlink }),
    R("no-log", NULL, 2, 4, KIND_DECOY, .prepare = prepare_log),
    R("no-journal", NULL, 2, 4, KIND_DECOY, .prepare = prepare_log_socket,
      .act = { act_unix_listen, act_unix_connect, act_accept }),
    R("no-syslog", NULL, 2, 3, KIND_DECOY, .prepare = prepare_log_socket,
      .act = { act_dgram_bind, act_dgram_connect }),
    R("no-map-read", NULL, 2, 3, KIND_DECOY, .prepare = prepare_file, .act = { act_map_read }),
    R("no-map-private", NULL, 2, 3, KIND_DECOY, .prepare = prepare_file,
      .act = { act_map_private }),
    R("no-memfd", NULL, 2, 3, KIND_DECOY | KIND_BORROWS, .prepare = prepare_sealed),
    R("no-pipe", NULL, 2, 4, KIND_DECOY, .act = { act_self_pipe }),
    R("no-fifo", NULL, 2, 3, KIND_DECOY, .prepare = prepare_fifo, .act = { act_fifo_path }),
    R("no-tcp", NULL, 2, 3, KIND_DECOY, .act = { act_self_tcp }),
    R("no-udp", NULL, 2, 3, KIND_DECOY, .act = { act_udp_free }),
    R("no-eventfd", NULL, 2, 4, KIND_DECOY, .act = { act_eventfd }),
    R("no-signalfd", "signalfd", 2, 3, KIND_DECOY, .prepare = prepare_signalfd),
    R("no-sem", NULL, 2, 3, KIND_DECOY | KIND_IPC, .act = { act_sem_own }),
    R("no-shm", NULL, 1, 1, KIND_DECOY | KIND_ODD_IPC, .act = { act_shm_make, act_shm_attach }),
    R("no-lock", NULL, 2, 3, KIND_DECOY, .act = { act_lock_own }),
    R("no-mqueue", NULL, 2, 3, KIND_DECOY | KIND_IPC, .act = { act_mq }),
};
const int n_kinds = sizeof kinds / sizeof *kinds;
