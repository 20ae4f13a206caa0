/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The thread that answers a monitor. It is made when QEMU makes its virtual machine: after
 * -daemonize has forked, and a child that QEMU forks later has no such thread and can't answer.
 *
 * Nothing that comes in is trusted: messages have one size, the buffer must be sealed so that
 * nobody can take it from under us, and a monitor that goes away at any point leaves everything as
 * it is at that moment.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shim/shim.h"

#define STACK_BYTES (256u << 10)
#define MAX_BUFFER_BYTES ((uint64_t)1 << 30)
#define REAP_SOON_MS 1000
#define REAP_LATER_MS 3000

static struct {
    int door, wake, monitor; /* our ends; -1: none */
    uint64_t *buffer;
    uint64_t buffer_bytes;
} server = { .door = -1, .wake = -1, .monitor = -1 };

int shim_check_request(const void *bytes, size_t n)
{
    struct stasis_shim_request request;
    if (n != sizeof request)
        return -EPROTO;
    memcpy(&request, bytes, sizeof request);
    if (request.magic != (uint32_t)STASIS_SHIM_MAGIC || request.bytes != sizeof request)
        return -EPROTO;
    return request.abi == STASIS_SHIM_ABI ? 0 : -EPROTONOSUPPORT;
}

/* ---- messages ---- */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The one descriptor of @message, or -1; -EPROTO if there are more, all of which are closed. */
static int take_fd(struct msghdr *message, int *ret_fd)
{
    int n = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
            if (n++ > 0)
                close(*ret_fd);
            memcpy(ret_fd, (char *)c + at, sizeof(int));
        }
    }
    if (n <= 1)
        return 0;
    close(*ret_fd);
    *ret_fd = -1;
    return -EPROTO;
}

ssize_t shim_receive(int socket, struct stasis_shim_request *request, int *ret_fd)
{
    /* Its size is that of two, for the sake of alignment; so two may come in. */
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = { request, sizeof *request };
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control
    };
    *ret_fd = -1;
    memset(request, 0, sizeof *request);
    ssize_t n = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return -errno;
    int r = take_fd(&message, ret_fd);
    return r < 0 || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 ? -EPROTO : n;
}

static bool answer(int socket, uint16_t op, int result, uint64_t begun_ns)
{
    struct stasis_shim_reply reply = {
        .magic = (uint32_t)STASIS_SHIM_MAGIC,
        .abi = STASIS_SHIM_ABI,
        .op = op,
        .bytes = sizeof reply,
        .result = result,
        .layout = shim.layout,
        .token = shim.logging ? shim.token : 0,
        .n_words = shim.page->n_words,
        .took_ns = now_ns() - begun_ns,
        .part_ns = shim_inside_part_ns(),
    };
    return send(socket, &reply, sizeof reply, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof reply;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void drop_buffer(void)
{
    if (server.buffer != NULL)
        munmap(server.buffer, server.buffer_bytes);
    server.buffer = NULL;
    server.buffer_bytes = 0;
}

static void hang_up(void)
{
    shim_inside_abandon();
    close_fd(&server.monitor);
    drop_buffer();
}

/* ---- requests; under the lock ---- */

static int take_buffer(int fd, uint64_t bytes)
{
    struct stat st;
    int seals = fd >= 0 ? fcntl(fd, F_GET_SEALS) : -1;
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(fd, &st) < 0 || bytes == 0 ||
        bytes % 8 != 0 || bytes > MAX_BUFFER_BYTES || (uint64_t)st.st_size < bytes)
        return -EINVAL;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    madvise(memory, bytes, MADV_DONTFORK);
    drop_buffer();
    server.buffer = memory;
    server.buffer_bytes = bytes;
    return 0;
}

/* What is not in QEMU's page tables needs no watching. */
static int drop_tables(uint64_t address, uint64_t bytes)
{
    int r = bytes == 0 ? 0 : -EINVAL;
    for (unsigned i = 0; i < STASIS_SHIM_MAX_RANGES; i++) {
        struct shim_range *range = &shim.ranges[i];
        if (!range->used || range->stale)
            continue;
        if (bytes == 0)
            r = r < 0 ? r : shim_range_drop(range, range->address, range->bytes);
        else if (address >= range->address && address - range->address < range->bytes)
            return shim_range_drop(range, address, bytes);
    }
    return r;
}

/* A request that works on the buffer: does the monitor know what is in it? */
static int check_layout(const struct stasis_shim_request *request)
{
    if (request->arg[0] != shim.layout)
        return -EAGAIN;
    if (server.buffer == NULL || server.buffer_bytes / 8 < shim.page->n_words)
        return -ENOSPC;
    shim_fix_layout();
    return 0;
}

static int perform(const struct stasis_shim_request *request, int fd)
{
    uint64_t n_words = server.buffer_bytes / 8;
    int r;
    switch (request->op) {
    case STASIS_SHIM_HELLO:
        return 0;
    case STASIS_SHIM_BUFFER:
        return take_buffer(fd, request->arg[0]);
    case STASIS_SHIM_START:
        return shim_start(request->arg[0]);
    case STASIS_SHIM_HARVEST:
        r = check_layout(request);
        return r < 0 ? r
                     : shim_harvest(server.buffer, n_words,
                                    (request->flags & STASIS_SHIM_REARM) != 0);
    case STASIS_SHIM_GIVE_BACK:
        r = check_layout(request);
        if (r == 0)
            shim_give_back(server.buffer, n_words);
        return r;
    case STASIS_SHIM_STOP:
        return shim_stop();
    case STASIS_SHIM_HOLD:
        shim.held = request->arg[0] != 0;
        shim_publish();
        return 0;
    case STASIS_SHIM_SWITCH:
        return shim_inside_switch(fd, request->arg[0]);
    case STASIS_SHIM_DROP_TABLES:
        return drop_tables(request->arg[0], request->flags * STASIS_SHIM_TABLE_BYTES);
    default:
        return -EOPNOTSUPP;
    }
}

/* Not under the lock: QEMU's main loop may need it. */
static int perform_waiting(const struct stasis_shim_request *request, int fd)
{
    switch (request->op) {
    case STASIS_SHIM_PAUSE:
        return shim_inside_pause(request->arg[0], request->flags);
    case STASIS_SHIM_RESUME:
        return shim_inside_resume();
    case STASIS_SHIM_FLUSH:
        return shim_flush(fd, request->arg[0]);
    default:
        return -EOPNOTSUPP;
    }
}

/* ---- the two sockets ---- */

static bool has_hung_up(int socket)
{
    struct pollfd fds = { .fd = socket, .events = 0 };
    return poll(&fds, 1, 0) > 0;
}

static void at_the_door(void)
{
    struct stasis_shim_request request;
    int fd;
    ssize_t n = shim_receive(server.door, &request, &fd);
    if (fd < 0)
        return;
    if (server.monitor >= 0 && has_hung_up(server.monitor))
        hang_up();
    int r = n < 0 ? (int)n : shim_check_request(&request, (size_t)n);
    if (r == 0 && request.op != STASIS_SHIM_CONNECT)
        r = -EPROTO;
    if (r == 0 && server.monitor >= 0)
        r = -EBUSY;
    shim_lock_thread();
    bool sent = answer(fd, STASIS_SHIM_CONNECT, r, now_ns());
    shim_unlock();
    if (r == 0 && sent)
        server.monitor = fd;
    else
        close(fd);
}

static void at_the_monitor(void)
{
    struct stasis_shim_request request;
    uint64_t begun_ns = now_ns();
    int fd;
    ssize_t n = shim_receive(server.monitor, &request, &fd);
    if (n == -EAGAIN || n == -EINTR)
        return;
    int r = n == 0 ? -EPIPE : n < 0 ? (int)n : shim_check_request(&request, (size_t)n);
    bool well_formed = r == 0;
    if (well_formed)
        r = perform_waiting(&request, fd);
    shim_lock_thread();
    if (well_formed && r == -EOPNOTSUPP)
        r = perform(&request, fd);
    bool sent = n != 0 && answer(server.monitor, request.op, r, begun_ns);
    shim_unlock();
    close_fd(&fd);
    if (!well_formed || !sent)
        hang_up();
}

static int reap(int timeout_ms)
{
    uint64_t count;
    if (read(server.wake, &count, sizeof count) > 0)
        return REAP_SOON_MS;
    if (timeout_ms < 0)
        return timeout_ms;
    shim_lock_thread();
    bool left = shim_ranges_reap();
    shim_unlock();
    return left ? REAP_LATER_MS : -1;
}

static void *serve(void *unused)
{
    (void)unused;
    pthread_setname_np(pthread_self(), STASIS_SHIM_NAME);
    for (int timeout_ms = -1;;) {
        struct pollfd fds[] = { { .fd = server.door, .events = POLLIN },
                                { .fd = server.wake, .events = POLLIN },
                                { .fd = server.monitor, .events = POLLIN } };
        int n = poll(fds, 3, timeout_ms);
        if (n < 0 && errno != EINTR)
            return NULL;
        if (n == 0 || (n > 0 && fds[1].revents != 0))
            timeout_ms = reap(timeout_ms);
        if (n > 0 && fds[2].revents != 0)
            at_the_monitor();
        if (n > 0 && fds[0].revents != 0)
            at_the_door();
    }
}

void shim_wake(void)
{
    uint64_t one = 1;
    if (server.wake >= 0 && write(server.wake, &one, sizeof one) < 0)
        return; /* it is awake */
}

/* ---- making it ---- */

static struct stasis_shim_page *make_page(int *ret_fd)
{
    int fd = memfd_create(STASIS_SHIM_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    *ret_fd = fd;
    if (fd < 0 || ftruncate(fd, STASIS_SHIM_PAGE_BYTES) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return NULL;
    void *page = mmap(NULL, STASIS_SHIM_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return page == MAP_FAILED ? NULL : page;
}

static bool start_thread(void)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes) != 0)
        return false;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&thread, &attributes, serve, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return r == 0;
}

void shim_serve(void)
{
    static bool tried;
    int ends[2] = { -1, -1 }, page_fd = -1;
    if (tried)
        return;
    tried = true;
    struct stasis_shim_page *page = make_page(&page_fd);
    server.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (page != NULL && server.wake >= 0 &&
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0) {
        server.door = ends[0];
        page->door_fd = ends[1];
        page->abi = STASIS_SHIM_ABI;
        page->bytes = sizeof *page;
        page->inside = (shim_inside_ready() ? STASIS_SHIM_INSIDE_STOP : 0) |
                       (shim_inside_can_switch() ? STASIS_SHIM_INSIDE_DISKS : 0) |
                       (shim_flush_ready() ? STASIS_SHIM_INSIDE_FLUSH : 0);
        shim.page = page;
        shim_publish();
        page->magic = STASIS_SHIM_MAGIC;
        if (start_thread())
            return;
    }
    /* Nobody can talk to us, so nothing may be split. */
    shim.refused = true;
    shim.page = NULL;
    close_fd(&page_fd);
    close_fd(&ends[0]);
    close_fd(&ends[1]);
    close_fd(&server.wake);
    server.door = -1;
}
