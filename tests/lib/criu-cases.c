/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes that have something that CRIU may be unable to dump, one at a time:
 *
 *     criu-cases list
 *     criu-cases start NAME     prints its PID; exit status 3: this kernel has no such thing
 *
 * A case is a function that makes it, in a process that is in a session of its own and has nothing
 * else open but /dev/null; then it waits.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A case returns what made it, negative when this kernel has no such thing. */
typedef int (*Make)(void);

/* ---- files ---- */

static int temporary(void)
{
    char path[] = "/tmp/case-XXXXXX";
    return mkstemp(path);
}

static int deleted(void)
{
    char path[] = "/tmp/case-XXXXXX";
    int fd = mkstemp(path);
    return unlink(path) == 0 ? fd : -1;
}

static int deleted_dir(void)
{
    mkdir("/tmp/case-dir", 0700);
    int fd = open("/tmp/case-dir", O_RDONLY | O_DIRECTORY);
    return rmdir("/tmp/case-dir") == 0 ? fd : -1;
}

static int tmpfile_unnamed(void)
{
    return open("/tmp", O_TMPFILE | O_RDWR, 0600);
}

static int lost_name(void)
{
    int fd = open("/tmp/case-a", O_RDWR | O_CREAT, 0600);
    unlink("/tmp/case-b");
    return link("/tmp/case-a", "/tmp/case-b") == 0 && unlink("/tmp/case-a") == 0 ? fd : -1;
}

static int on_mount(bool over)
{
    mkdir("/tmp/case-mnt", 0700);
    if (mount("case", "/tmp/case-mnt", "tmpfs", 0, NULL) < 0)
        return -1;
    int fd = open("/tmp/case-mnt/file", O_RDWR | O_CREAT, 0600);
    int r = over ? mount("case", "/tmp/case-mnt", "tmpfs", 0, NULL)
                 : umount2("/tmp/case-mnt", MNT_DETACH);
    return r == 0 ? fd : -1;
}

static int on_detached_mount(void)
{
    return on_mount(false);
}

static int on_overmounted_mount(void)
{
    return on_mount(true);
}

static int path_of(const char *path)
{
    return open(path, O_PATH | O_NOFOLLOW);
}

static int path_file(void)
{
    close(temporary());
    return path_of("/bin/busybox");
}

static int path_dir(void)
{
    return path_of("/tmp");
}

static int path_link(void)
{
    unlink("/tmp/case-link");
    return symlink("x", "/tmp/case-link") == 0 ? path_of("/tmp/case-link") : -1;
}

static int path_device(void)
{
    return path_of("/dev/kmsg");
}

static int path_serial(void)
{
    return path_of("/dev/ttyS0");
}

static int path_disk(void)
{
    mknod("/tmp/case-disk", S_IFBLK | 0600, 7 << 8);
    return path_of("/tmp/case-disk");
}

static int path_fifo(void)
{
    mkfifo("/tmp/case-fifo", 0600);
    return path_of("/tmp/case-fifo");
}

static int bound_socket(int type);

static int path_socket(void)
{
    unlink("/tmp/case-sock");
    close(bound_socket(SOCK_STREAM));
    return path_of("/tmp/case-sock");
}

static int lock_flock(void)
{
    int fd = temporary();
    return flock(fd, LOCK_EX) == 0 ? fd : -1;
}

static int lock_of(int command)
{
    struct flock lock = { .l_type = F_WRLCK };
    int fd = temporary();
    return fcntl(fd, command, &lock) == 0 ? fd : -1;
}

static int lock_posix(void)
{
    return lock_of(F_SETLK);
}

static int lock_description(void)
{
    return lock_of(F_OFD_SETLK);
}

static int lease(void)
{
    int fd = temporary();
    return fcntl(fd, F_SETLEASE, F_WRLCK) == 0 ? fd : -1;
}

static int deleted_cwd(void)
{
    mkdir("/tmp/case-cwd", 0700);
    return chdir("/tmp/case-cwd") == 0 && rmdir("/tmp/case-cwd") == 0 ? 0 : -1;
}

/* ---- devices ---- */

static int device(const char *path, int flags)
{
    return open(path, flags | O_NONBLOCK | O_NOCTTY);
}

static int dev_zero(void)
{
    return device("/dev/zero", O_RDWR);
}

static int dev_urandom(void)
{
    return device("/dev/urandom", O_RDONLY);
}

static int dev_kmsg(void)
{
    return device("/dev/kmsg", O_WRONLY);
}

static int dev_kmsg_read(void)
{
    char line[8192];
    int fd = device("/dev/kmsg", O_RDONLY);
    return read(fd, line, sizeof line) > 0 ? fd : -1;
}

static int dev_mem(void)
{
    return device("/dev/mem", O_RDONLY);
}

static int dev_port(void)
{
    return device("/dev/port", O_RDONLY);
}

static int dev_serial(void)
{
    return device("/dev/ttyS0", O_RDWR);
}

static int dev_console(void)
{
    return device("/dev/console", O_RDWR);
}

static int dev_vt(void)
{
    return device("/dev/tty1", O_RDWR);
}

static int dev_disk(void)
{
    return device("/dev/vda", O_RDONLY);
}

static int dev_latency(void)
{
    return device("/dev/cpu_dma_latency", O_RDWR);
}

static int dev_fuse(void)
{
    return device("/dev/fuse", O_RDWR);
}

static int dev_tun(void)
{
    return device("/dev/net/tun", O_RDWR);
}

static int dev_autofs(void)
{
    return device("/dev/autofs", O_RDONLY);
}

static int dev_hpet(void)
{
    return device("/dev/hpet", O_RDONLY);
}

static int pty_pair(void)
{
    int master, slave;
    return openpty(&master, &slave, NULL, NULL, NULL) == 0 ? master : -1;
}

static int map_zero(void)
{
    int fd = dev_zero();
    bool good = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED;
    close(fd);
    return good ? 0 : -1;
}

static int map_mem(void)
{
    int fd = dev_mem();
    bool good = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0xf0000) != MAP_FAILED;
    close(fd);
    return good ? 0 : -1;
}

/* ---- anonymous inodes ---- */

static int ring(void)
{
    struct io_uring_params p = { 0 };
    return (int)syscall(SYS_io_uring_setup, 4, &p);
}

static int ring_mapped(void)
{
    int fd = ring();
    void *at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    close(fd);
    return at != MAP_FAILED ? 0 : -1;
}

static int faults(void)
{
    return (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
}

static int pid_descriptor(void)
{
    return (int)syscall(SYS_pidfd_open, getpid(), 0);
}

static int perf(void)
{
    struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
                                    .size = sizeof attr,
                                    .config = PERF_COUNT_SW_DUMMY,
                                    .exclude_kernel = 1 };
    return (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
}

static int perf_mapped(void)
{
    int fd = perf();
    void *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return at != MAP_FAILED ? 0 : -1;
}

static int bpf(int command, union bpf_attr *attr)
{
    return (int)syscall(SYS_bpf, command, attr, sizeof *attr);
}

static int bpf_program(void)
{
    static const struct bpf_insn code[] = {
        { .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0 },
        { .code = BPF_JMP | BPF_EXIT },
    };
    union bpf_attr attr = { 0 };
    attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    attr.insns = (uint64_t)(uintptr_t)code;
    attr.insn_cnt = sizeof code / sizeof *code;
    attr.license = (uint64_t)(uintptr_t) "GPL";
    return bpf(BPF_PROG_LOAD, &attr);
}

static int bpf_map(uint32_t type, uint32_t key, uint32_t value, uint32_t entries)
{
    union bpf_attr attr = { 0 };
    attr.map_type = type;
    attr.key_size = key;
    attr.value_size = value;
    attr.max_entries = entries;
    return bpf(BPF_MAP_CREATE, &attr);
}

static int bpf_array(void)
{
    return bpf_map(BPF_MAP_TYPE_ARRAY, 4, 8, 4);
}

static int bpf_hash(void)
{
    return bpf_map(BPF_MAP_TYPE_HASH, 4, 8, 4);
}

static int bpf_programs(void)
{
    return bpf_map(BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4);
}

static int bpf_ring(void)
{
    return bpf_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
}

static int watch(void)
{
    int fd = inotify_init();
    return inotify_add_watch(fd, "/tmp", IN_CREATE) >= 0 ? fd : -1;
}

static int watch_deleted(void)
{
    char path[] = "/tmp/case-XXXXXX";
    int fd = inotify_init(), file = mkstemp(path);
    return inotify_add_watch(fd, path, IN_MODIFY) >= 0 && unlink(path) == 0 && file >= 0 ? fd : -1;
}

static int watch_all(void)
{
    int fd = fanotify_init(FAN_CLASS_NOTIF, O_RDONLY);
    return fd;
}

static int watch_all_marked(void)
{
    int fd = watch_all();
    return fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, "/tmp") == 0 ? fd : -1;
}

static int timer(int clock)
{
    return timerfd_create(clock, 0);
}

static int timer_monotonic(void)
{
    return timer(CLOCK_MONOTONIC);
}

static int timer_boottime(void)
{
    return timer(CLOCK_BOOTTIME);
}

static int timer_alarm(void)
{
    return timer(CLOCK_REALTIME_ALARM);
}

static int signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    return signalfd(-1, &set, 0);
}

static int event(void)
{
    return eventfd(3, EFD_SEMAPHORE);
}

static int poll_event(void)
{
    struct epoll_event ready = { .events = EPOLLIN };
    int fd = epoll_create1(0), target = event();
    return epoll_ctl(fd, EPOLL_CTL_ADD, target, &ready) == 0 ? fd : -1;
}

static int poll_poll(void)
{
    struct epoll_event ready = { .events = EPOLLIN };
    int fd = epoll_create1(0), target = poll_event();
    return epoll_ctl(fd, EPOLL_CTL_ADD, target, &ready) == 0 ? fd : -1;
}

static int poll_closed(void)
{
    struct epoll_event ready = { .events = EPOLLIN };
    int fd = epoll_create1(0), target = event(), copy = dup(target);
    return epoll_ctl(fd, EPOLL_CTL_ADD, target, &ready) == 0 && close(target) == 0 ? copy : -1;
}

static int landlock(void)
{
    struct landlock_ruleset_attr attr = { .handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE };
    return (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
}

static int filter(unsigned flags)
{
    struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
    struct sock_fprog program = { 1, code };
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static int filtered(void)
{
    return filter(0);
}

static int filter_listener(void)
{
    return filter(SECCOMP_FILTER_FLAG_NEW_LISTENER);
}

static int namespace_own(void)
{
    return open("/proc/self/ns/net", O_RDONLY);
}

static int namespace_other(void)
{
    int home = open("/proc/self/ns/uts", O_RDONLY);
    if (unshare(CLONE_NEWUTS) < 0)
        return -1;
    int fd = open("/proc/self/ns/uts", O_RDONLY);
    return setns(home, CLONE_NEWUTS) == 0 ? fd : -1;
}

/* ---- memory ---- */

static int memory_file(void)
{
    return memfd_create("case", 0);
}

static int memory_sealed(void)
{
    int fd = memfd_create("case", MFD_ALLOW_SEALING);
    return fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL) == 0 ? fd : -1;
}

static int memory_huge(void)
{
    return memfd_create("case", MFD_HUGETLB);
}

static int memory_secret(void)
{
    int fd = (int)syscall(SYS_memfd_secret, 0);
    return fd >= 0 && ftruncate(fd, 4096) == 0 ? fd : -1;
}

static int map_huge(void)
{
    FILE *file = fopen("/proc/sys/vm/nr_hugepages", "we");
    if (file == NULL || fputs("2\n", file) < 0 || fclose(file) != 0)
        return -1;
    char *at = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB,
                    -1, 0);
    return at != MAP_FAILED ? (at[0] = 1) : -1;
}

static int map_locked(void)
{
    return mlockall(MCL_CURRENT | MCL_FUTURE);
}

static int sysv_memory(void)
{
    return shmat(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600), NULL, 0) != (void *)-1 ? 0 : -1;
}

static int aio(void)
{
    aio_context_t context = 0;
    return (int)syscall(SYS_io_setup, 4, &context);
}

/* ---- pipes ---- */

static int pipe_with(int flags)
{
    int ends[2];
    return pipe2(ends, flags) == 0 && write(ends[1], "x", 1) == 1 ? ends[0] : -1;
}

static int pipe_full(void)
{
    return pipe_with(0);
}

static int pipe_packets(void)
{
    return pipe_with(O_DIRECT);
}

static int fifo(void)
{
    mkfifo("/tmp/case-fifo", 0600);
    return open("/tmp/case-fifo", O_RDWR);
}

/* ---- sockets ---- */

static int socket_of(int family, int type, int protocol)
{
    return socket(family, type, protocol);
}

static int bound_socket(int type)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "/tmp/case-sock" };
    int fd = socket(AF_UNIX, type, 0);
    unlink(a.sun_path);
    return bind(fd, (struct sockaddr *)&a, sizeof a) == 0 ? fd : -1;
}

static int unix_listening(void)
{
    int fd = bound_socket(SOCK_STREAM);
    return listen(fd, 4) == 0 ? fd : -1;
}

static int unix_deleted(void)
{
    int fd = bound_socket(SOCK_DGRAM);
    return unlink("/tmp/case-sock") == 0 ? fd : -1;
}

static int unix_pair(int type)
{
    int ends[2];
    return socketpair(AF_UNIX, type, 0, ends) == 0 && send(ends[0], "x", 1, 0) == 1 ? ends[1] : -1;
}

static int unix_stream(void)
{
    return unix_pair(SOCK_STREAM);
}

static int unix_packets(void)
{
    return unix_pair(SOCK_SEQPACKET);
}

static int in_flight(int fd)
{
    int ends[2];
    char byte = 'x', room[CMSG_SPACE(sizeof fd)] = { 0 };
    struct iovec io = { &byte, 1 };
    struct msghdr m = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room
    };
    if (fd < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        return -1;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    int r = (int)sendmsg(ends[0], &m, 0);
    close(fd);
    return r == 1 ? ends[1] : -1;
}

static int flight_event(void)
{
    return in_flight(event());
}

static int flight_file(void)
{
    return in_flight(temporary());
}

static int flight_pid(void)
{
    return in_flight(pid_descriptor());
}

static int flight_ring(void)
{
    return in_flight(ring());
}

static int tcp_unconnected(void)
{
    return socket_of(AF_INET, SOCK_STREAM, 0);
}

static int tcp_listening(void)
{
    int fd = tcp_unconnected();
    return listen(fd, 4) == 0 ? fd : -1;
}

static int tcp_multipath(void)
{
    int fd = socket_of(AF_INET, SOCK_STREAM, 262 /* IPPROTO_MPTCP */);
    return listen(fd, 4) == 0 ? fd : -1;
}

static int udp(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket_of(AF_INET, SOCK_DGRAM, 0);
    return bind(fd, (struct sockaddr *)&a, sizeof a) == 0 ? fd : -1;
}

/* With something to read, from itself. */
static int udp_full(void)
{
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    int fd = udp();
    return getsockname(fd, (struct sockaddr *)&a, &len) == 0 &&
                   connect(fd, (struct sockaddr *)&a, len) == 0 && send(fd, "x", 1, 0) == 1
               ? fd
               : -1;
}

static int udp_corked(void)
{
    int one = 1, fd = udp_full();
    return setsockopt(fd, IPPROTO_UDP, UDP_CORK, &one, sizeof one) == 0 ? fd : -1;
}

static int udp_lite(void)
{
    return socket_of(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);
}

static int raw(void)
{
    return socket_of(AF_INET, SOCK_RAW, IPPROTO_ICMP);
}

static int ping(void)
{
    FILE *file = fopen("/proc/sys/net/ipv4/ping_group_range", "we");
    if (file == NULL || fputs("0 100\n", file) < 0 || fclose(file) != 0)
        return -1;
    return socket_of(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
}

static int packet(void)
{
    return socket_of(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
}

static int packet_ring(void)
{
    struct tpacket_req request = { 4096, 1, 2048, 2 };
    int fd = packet();
    return setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) == 0 &&
                   mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED
               ? fd
               : -1;
}

static int netlink(int protocol)
{
    struct sockaddr_nl a = { .nl_family = AF_NETLINK };
    int fd = socket_of(AF_NETLINK, SOCK_RAW, protocol);
    return bind(fd, (struct sockaddr *)&a, sizeof a) == 0 ? fd : -1;
}

static int netlink_route(void)
{
    return netlink(NETLINK_ROUTE);
}

static int netlink_generic(void)
{
    return netlink(NETLINK_GENERIC);
}

static int netlink_full(void)
{
    struct {
        struct nlmsghdr head;
        struct rtgenmsg body;
    } ask = { { .nlmsg_len = sizeof ask,
                .nlmsg_type = RTM_GETLINK,
                .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
              { AF_UNSPEC } };
    int fd = netlink_route();
    return send(fd, &ask, sizeof ask, 0) == sizeof ask ? fd : -1;
}

static int vsock(void)
{
    return socket_of(AF_VSOCK, SOCK_STREAM, 0);
}

static int sctp(void)
{
    return socket_of(AF_INET, SOCK_STREAM, IPPROTO_SCTP);
}

static int crypto(void)
{
    return socket_of(AF_ALG, SOCK_SEQPACKET, 0);
}

static int xdp(void)
{
    return socket_of(AF_XDP, SOCK_RAW, 0);
}

static int keys(void)
{
    return socket_of(AF_KEY, SOCK_RAW, 2);
}

/* ---- processes ---- */

static int wait_in(void *data)
{
    (void)data;
    for (;;)
        pause();
    return 0;
}

static int cloned(int flags)
{
    static char stack[65536] __attribute__((aligned(16)));
    return clone(wait_in, stack + sizeof stack, flags | SIGCHLD, NULL);
}

static int shares_memory(void)
{
    return cloned(CLONE_VM);
}

static int shares_files(void)
{
    return cloned(CLONE_FILES);
}

static int shares_directory(void)
{
    return cloned(CLONE_FS);
}

static int nested_uts(void)
{
    return cloned(CLONE_NEWUTS);
}

static int nested_ipc(void)
{
    return cloned(CLONE_NEWIPC);
}

static int nested_pid(void)
{
    return cloned(CLONE_NEWPID);
}

static int own_uts(void)
{
    return unshare(CLONE_NEWUTS);
}

static int zombie(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    return pid;
}

static int stopped(void)
{
    pid_t pid = fork();
    if (pid == 0)
        wait_in(NULL);
    int status;
    return kill(pid, SIGSTOP) == 0 && waitpid(pid, &status, WUNTRACED) == pid ? pid : -1;
}

static int traced(void)
{
    pid_t pid = fork();
    if (pid == 0)
        wait_in(NULL);
    return ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0 ? pid : -1;
}

static int deadline(void)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = { sizeof attr, 6, 0, 0, 0, 1000000, 10000000, 10000000 };
    return (int)syscall(SYS_sched_setattr, 0, &attr, 0);
}

static int realtime(void)
{
    return sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ 1 });
}

static int clock_timer(void)
{
    timer_t t;
    struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
    return timer_create(CLOCK_MONOTONIC, &e, &t);
}

static int queue(void)
{
    struct mq_attr attr = { .mq_maxmsg = 4, .mq_msgsize = 16 };
    return mq_open("/case", O_RDWR | O_CREAT, 0600, &attr);
}

static int queue_notify(void)
{
    struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
    int fd = queue();
    return mq_notify(fd, &e) == 0 ? fd : -1;
}

static void *outlive(void *data)
{
    wait_in(data);
    return NULL;
}

static int leader_ended(void)
{
    pthread_t thread;
    return pthread_create(&thread, NULL, outlive, NULL) == 0 ? 0 : -1;
}

static int nothing(void)
{
    return 0;
}

/* ---- the table ---- */

#define CASE(name)  \
    {               \
#name, name \
    }
static const struct {
    const char *name;
    Make make;
} cases[] = {
    CASE(nothing),
    CASE(temporary),
    CASE(deleted),
    CASE(deleted_dir),
    CASE(tmpfile_unnamed),
    CASE(lost_name),
    CASE(on_detached_mount),
    CASE(on_overmounted_mount),
    CASE(path_file),
    CASE(path_dir),
    CASE(path_link),
    CASE(path_device),
    CASE(path_serial),
    CASE(path_disk),
    CASE(path_fifo),
    CASE(path_socket),
    CASE(lock_flock),
    CASE(lock_posix),
    CASE(lock_description),
    CASE(lease),
    CASE(deleted_cwd),
    CASE(dev_zero),
    CASE(dev_urandom),
    CASE(dev_kmsg),
    CASE(dev_kmsg_read),
    CASE(dev_mem),
    CASE(dev_port),
    CASE(dev_serial),
    CASE(dev_console),
    CASE(dev_vt),
    CASE(dev_disk),
    CASE(dev_latency),
    CASE(dev_fuse),
    CASE(dev_tun),
    CASE(dev_autofs),
    CASE(dev_hpet),
    CASE(pty_pair),
    CASE(map_zero),
    CASE(map_mem),
    CASE(ring),
    CASE(ring_mapped),
    CASE(faults),
    CASE(pid_descriptor),
    CASE(perf),
    CASE(perf_mapped),
    CASE(bpf_program),
    CASE(bpf_array),
    CASE(bpf_hash),
    CASE(bpf_programs),
    CASE(bpf_ring),
    CASE(watch),
    CASE(watch_deleted),
    CASE(watch_all),
    CASE(watch_all_marked),
    CASE(timer_monotonic),
    CASE(timer_boottime),
    CASE(timer_alarm),
    CASE(signals),
    CASE(event),
    CASE(poll_event),
    CASE(poll_poll),
    CASE(poll_closed),
    CASE(landlock),
    CASE(filtered),
    CASE(filter_listener),
    CASE(namespace_own),
    CASE(namespace_other),
    CASE(memory_file),
    CASE(memory_sealed),
    CASE(memory_huge),
    CASE(memory_secret),
    CASE(map_huge),
    CASE(map_locked),
    CASE(sysv_memory),
    CASE(aio),
    CASE(pipe_full),
    CASE(pipe_packets),
    CASE(fifo),
    CASE(unix_listening),
    CASE(unix_deleted),
    CASE(unix_stream),
    CASE(unix_packets),
    CASE(flight_event),
    CASE(flight_file),
    CASE(flight_pid),
    CASE(flight_ring),
    CASE(tcp_unconnected),
    CASE(tcp_listening),
    CASE(tcp_multipath),
    CASE(udp),
    CASE(udp_full),
    CASE(udp_corked),
    CASE(udp_lite),
    CASE(raw),
    CASE(ping),
    CASE(packet),
    CASE(packet_ring),
    CASE(netlink_route),
    CASE(netlink_generic),
    CASE(netlink_full),
    CASE(vsock),
    CASE(sctp),
    CASE(crypto),
    CASE(xdp),
    CASE(keys),
    CASE(shares_memory),
    CASE(shares_files),
    CASE(shares_directory),
    CASE(nested_uts),
    CASE(nested_ipc),
    CASE(nested_pid),
    CASE(own_uts),
    CASE(zombie),
    CASE(stopped),
    CASE(traced),
    CASE(deadline),
    CASE(realtime),
    CASE(clock_timer),
    CASE(queue),
    CASE(queue_notify),
    CASE(leader_ended),
};
#define N_CASES (sizeof cases / sizeof *cases)

static void __attribute__((noreturn)) be_case(size_t i, int ready)
{
    int null_fd = open("/dev/null", O_RDWR);
    setsid();
    for (int fd = 0; fd < 3; fd++)
        dup2(null_fd, fd);
    ready = dup2(ready, 200);
    close_range(3, 199, 0);
    close_range(201, ~0u, 0);
    int error = cases[i].make() < 0 ? errno : 0;
    if (write(ready, &error, sizeof error) != sizeof error)
        _exit(1);
    close(ready);
    if (cases[i].make == leader_ended)
        pthread_exit(NULL);
    wait_in(NULL);
    _exit(0);
}

static int start(const char *name)
{
    int ready[2], error;
    size_t i = 0;
    while (i < N_CASES && strcmp(cases[i].name, name) != 0)
        i++;
    if (i == N_CASES || pipe2(ready, O_CLOEXEC) < 0)
        return 2;
    pid_t pid = fork();
    if (pid == 0)
        be_case(i, ready[1]);
    close(ready[1]);
    if (read(ready[0], &error, sizeof error) != sizeof error)
        error = ECHILD;
    if (error == 0) {
        printf("%d\n", (int)pid);
        return 0;
    }
    kill(pid, SIGKILL);
    printf("%s\n", strerror(error));
    return 3;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "start") == 0)
        return start(argv[2]);
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (size_t i = 0; i < N_CASES; i++)
            puts(cases[i].name);
        return 0;
    }
    fputs("usage: criu-cases list | start NAME\n", stderr);
    return 2;
}
