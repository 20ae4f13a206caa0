/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the kernel tells of processes: the proc connector (linux/connector.h, linux/cn_proc.h;
 * Documentation/driver-api/connector.rst), a netlink multicast of each fork, exec and exit.
 * CONFIG_PROC_EVENTS, which distributions have; for root in the first network and PID namespace.
 */
#include <errno.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "watch/watch.h"

/* Events of a storm wait here while the loop does something else. */
#define ROOM_BYTES (4 << 20)
#define ACK_MS 1000

static bool ask_for_events(int fd, uint32_t op)
{
    struct __attribute__((packed)) {
        struct nlmsghdr head;
        struct cn_msg message;
        uint32_t op;
    } ask = { .head = { .nlmsg_len = sizeof ask, .nlmsg_type = NLMSG_DONE },
              .message = { .id = { CN_IDX_PROC, CN_VAL_PROC }, .len = sizeof ask.op },
              .op = op };
    return send(fd, &ask, sizeof ask, 0) == (ssize_t)sizeof ask;
}

/* The next message; NULL: there is none, or none of the kernel's. */
static const struct proc_event *receive(int fd, uint8_t *buffer, size_t size, ssize_t *ret_n)
{
    struct sockaddr_nl from = { 0 };
    socklen_t length = sizeof from;
    *ret_n = recvfrom(fd, buffer, size, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
    if (*ret_n < (ssize_t)(NLMSG_HDRLEN + sizeof(struct cn_msg) + sizeof(struct proc_event)) ||
        from.nl_pid != 0)
        return NULL;
    const struct cn_msg *message = (const struct cn_msg *)(void *)(buffer + NLMSG_HDRLEN);
    return message->id.idx == CN_IDX_PROC ? (const struct proc_event *)(void *)message->data : NULL;
}

/* The kernel says whether it will. One that has no such part says nothing at all. */
static int wait_for_ack(int fd)
{
    uint8_t buffer[512] __attribute__((aligned(8)));
    int64_t end_ms = now_ms() + ACK_MS;
    while (now_ms() < end_ms) {
        struct pollfd one = { .fd = fd, .events = POLLIN };
        ssize_t n;
        if (poll(&one, 1, (int)(end_ms - now_ms())) <= 0)
            continue;
        const struct proc_event *event = receive(fd, buffer, sizeof buffer, &n);
        /* Any event proves that it tells: the answer may be for another listener's question. */
        if (event != NULL)
            return event->what == PROC_EVENT_NONE ? (int)event->event_data.ack.err : 0;
    }
    return EOPNOTSUPP;
}

int watch_connector_open(void)
{
    struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = CN_IDX_PROC };
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_CONNECTOR);
    if (fd < 0)
        return -errno;
    int room = ROOM_BYTES;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    int r = bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
                    !ask_for_events(fd, PROC_CN_MCAST_LISTEN)
                ? errno
                : wait_for_ack(fd);
    if (r == 0)
        return fd;
    close(fd);
    return -r;
}

void watch_connector_close(int fd)
{
    /* Kernels before 6.6 don't learn from close(2) that nobody listens any more. */
    ask_for_events(fd, PROC_CN_MCAST_IGNORE);
    close(fd);
}

bool watch_connector_read(int fd, unsigned max,
                          void (*heard)(void *data, WatchHeard what, pid_t pid, pid_t other),
                          void *data, bool *lost)
{
    uint8_t buffer[512] __attribute__((aligned(8)));
    for (unsigned i = 0; i < max; i++) {
        ssize_t n;
        const struct proc_event *e = receive(fd, buffer, sizeof buffer, &n);
        if (n < 0 && errno == EAGAIN)
            return true;
        *lost |= n < 0 && errno == ENOBUFS;
        if (e == NULL)
            continue;
        /* Values of a kernel header's enum: by their names. Threads are no processes. */
        if (e->what == PROC_EVENT_FORK &&
            e->event_data.fork.child_pid == e->event_data.fork.child_tgid)
            heard(data, WATCH_HEARD_FORK, e->event_data.fork.parent_tgid,
                  e->event_data.fork.child_tgid);
        else if (e->what == PROC_EVENT_EXEC)
            heard(data, WATCH_HEARD_EXEC, e->event_data.exec.process_tgid, 0);
        else if (e->what == PROC_EVENT_EXIT)
            heard(data, WATCH_HEARD_EXIT, e->event_data.exit.process_tgid,
                  e->event_data.exit.process_pid);
    }
    return false;
}
