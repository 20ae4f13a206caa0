/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Our end of the dialogue with the shim. The door is one of QEMU's descriptors, fetched by
 * pidfd_getfd(2); a child that QEMU forked has a copy of it, so who made it must be the process
 * that we mean.
 */
#include "track/shim-client.h"

#include <errno.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "vmm/shim-page.h"

#define ANSWER_TIMEOUT_S 20

struct _StasisShim {
    int fd;
};

void stasis_shim_free(StasisShim *shim)
{
    if (shim == NULL)
        return;
    stasis_clear_fd(&shim->fd);
    g_free(shim);
}

static int send_request(int socket, const struct stasis_shim_request *request, int fd)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec part = { (void *)request, sizeof(*request) };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        control.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)),
                                         .cmsg_level = SOL_SOCKET,
                                         .cmsg_type = SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
    }
    ssize_t n;
    do
        n = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof(*request) ? 0 : n < 0 ? -errno : -EPROTO;
}

static int receive_reply(int socket, guint16 op, struct stasis_shim_reply *reply)
{
    ssize_t n;
    do
        n = recv(socket, reply, sizeof(*reply), 0);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n == 0 ? -EPIPE : errno == EAGAIN ? -ETIMEDOUT : -errno;
    if (n != sizeof(*reply) || reply->magic != (guint32)STASIS_SHIM_MAGIC ||
        reply->abi != STASIS_SHIM_ABI || reply->bytes != sizeof(*reply) || reply->op != op)
        return -EPROTO;
    return MIN(reply->result, 0);
}

static struct stasis_shim_request make_request(enum stasis_shim_op op, guint32 flags, guint64 arg)
{
    return (struct stasis_shim_request){ .magic = (guint32)STASIS_SHIM_MAGIC,
                                         .abi = STASIS_SHIM_ABI,
                                         .op = (guint16)op,
                                         .bytes = sizeof(struct stasis_shim_request),
                                         .flags = flags,
                                         .arg = { arg } };
}

int stasis_shim_begin(StasisShim *shim, enum stasis_shim_op op, guint32 flags, guint64 arg, int fd)
{
    struct stasis_shim_request request = make_request(op, flags, arg);
    return send_request(shim->fd, &request, fd);
}

int stasis_shim_end(StasisShim *shim, enum stasis_shim_op op, struct stasis_shim_reply *ret_reply)
{
    struct stasis_shim_reply reply;
    int r = receive_reply(shim->fd, (guint16)op, &reply);
    if (ret_reply != NULL && r == 0)
        *ret_reply = reply;
    return r;
}

int stasis_shim_call(StasisShim *shim, enum stasis_shim_op op, guint32 flags, guint64 arg, int fd,
                     struct stasis_shim_reply *ret_reply)
{
    int r = stasis_shim_begin(shim, op, flags, arg, fd);
    return r < 0 ? r : stasis_shim_end(shim, op, ret_reply);
}

/* ---- the door ---- */

static gboolean is_door_of(int fd, pid_t pid)
{
    int type = 0;
    struct ucred maker = { 0 };
    socklen_t len = sizeof(type), maker_len = sizeof(maker);
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET &&
           getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &maker, &maker_len) == 0 && maker.pid == pid;
}

static int fetch_door(pid_t pid, int number)
{
    stasis_autofd int pidfd = pidfd_open(pid, 0);
    stasis_autofd int fd = pidfd >= 0 ? pidfd_getfd(pidfd, number, 0) : -1;
    if (fd < 0)
        return -errno;
    return is_door_of(fd, pid) ? stasis_steal_fd(&fd) : -EPROTO;
}

/* Ask for admission with one end of a pair; our end, or −errno. */
static int knock(int door)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    stasis_autofd int ours = ends[0];
    stasis_autofd int theirs = ends[1];
    struct timeval limit = { .tv_sec = ANSWER_TIMEOUT_S };
    struct stasis_shim_request request = make_request(STASIS_SHIM_CONNECT, 0, 0);
    struct stasis_shim_reply reply;
    setsockopt(ours, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    int r = send_request(door, &request, theirs);
    stasis_clear_fd(&theirs);
    r = r == 0 ? receive_reply(ours, STASIS_SHIM_CONNECT, &reply) : r;
    return r < 0 ? r : stasis_steal_fd(&ours);
}

StasisShim *stasis_shim_connect(pid_t pid, GError **error)
{
    struct stasis_shim_page page;
    if (!stasis_shim_page_read(pid, &page)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "QEMU %d has no shim in it; stasis run starts one with it", (int)pid);
        return NULL;
    }
    stasis_autofd int door = fetch_door(pid, page.door_fd);
    int fd = door >= 0 ? knock(door) : door;
    if (fd == -EBUSY) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                    "another process speaks with the shim in QEMU %d; try again when it is done",
                    (int)pid);
        return NULL;
    }
    if (fd < 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "the shim in QEMU %d does not let us in: %s; use --tracker uffd-async",
                    (int)pid, g_strerror(-fd));
        return NULL;
    }
    StasisShim *shim = g_new0(StasisShim, 1);
    shim->fd = fd;
    return shim;
}

/* ---- keeping it quiet ---- */

static gboolean knows_all(const StasisRam *ram)
{
    struct stasis_shim_page page;
    if (!stasis_shim_page_read(ram->pid, &page))
        return FALSE;
    for (guint i = 0; i < ram->blocks->len; i++) {
        const StasisRamBlock *block = g_ptr_array_index(ram->blocks, i);
        int at = stasis_shim_page_find(&page, block->hva, block->max_bytes);
        guint64 view = at < 0 ? 0 : page.ranges[at].view + (block->hva - page.ranges[at].address);
        if (view != block->view_hva)
            return FALSE;
    }
    return TRUE;
}

gboolean stasis_shim_hold(const StasisRam *ram, GError **error)
{
    struct stasis_shim_page page;
    if (!stasis_shim_page_read(ram->pid, &page))
        return TRUE;
    g_autoptr(StasisShim) shim = stasis_shim_connect(ram->pid, error);
    if (shim == NULL)
        return FALSE;
    int r = stasis_shim_call(shim, STASIS_SHIM_HOLD, 0, 1, -1, NULL);
    if (r < 0)
        return stasis_set_errno(error, -r, "have the shim in QEMU %d hold still", (int)ram->pid);
    if (knows_all(ram))
        return TRUE;
    stasis_shim_call(shim, STASIS_SHIM_HOLD, 0, 0, -1, NULL);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                "the memory layout of QEMU %d is just changing; try again", (int)ram->pid);
    return FALSE;
}

void stasis_shim_unhold(pid_t pid)
{
    g_autoptr(StasisShim) shim = stasis_shim_connect(pid, NULL);
    if (shim != NULL)
        stasis_shim_call(shim, STASIS_SHIM_HOLD, 0, 0, -1, NULL);
}

/* It answers at its door when it is done with who was there before: admitted or not. */
void stasis_shim_settle(pid_t pid)
{
    struct stasis_shim_page page;
    g_autoptr(StasisShim) shim =
        stasis_shim_page_read(pid, &page) ? stasis_shim_connect(pid, NULL) : NULL;
}

gboolean stasis_shim_sweep(pid_t pid, GError **error)
{
    struct stasis_shim_page page;
    if (!stasis_shim_page_read(pid, &page) || (page.state != STASIS_SHIM_ON && page.held == 0))
        return TRUE;
    g_autoptr(StasisShim) shim = stasis_shim_connect(pid, error);
    if (shim == NULL)
        return FALSE;
    int r = stasis_shim_call(shim, STASIS_SHIM_STOP, 0, 0, -1, NULL);
    if (r == 0)
        r = stasis_shim_call(shim, STASIS_SHIM_HOLD, 0, 0, -1, NULL);
    return r == 0 || stasis_set_errno(error, -r, "turn KVM's log off in QEMU %d", (int)pid);
}

const char *stasis_shim_why_not(const StasisRam *ram)
{
    struct stasis_shim_page page;
    if (ram == NULL || !stasis_shim_page_read(ram->pid, &page))
        return "no shim in this QEMU (it was not started by stasis run, or with --no-shim, or "
               "under TCG)";
    switch (page.state) {
    case STASIS_SHIM_IDLE:
        return "no KVM in this QEMU";
    case STASIS_SHIM_RING:
        return "this QEMU uses KVM's dirty ring (dirty-ring-size) in a way that the shim does not "
               "understand";
    case STASIS_SHIM_REFUSED:
        return "the shim in this QEMU met something that it does not understand";
    }
    for (guint i = 0; i < ram->blocks->len; i++)
        if (((const StasisRamBlock *)g_ptr_array_index(ram->blocks, i))->view_hva != 0)
            return NULL;
    return "none of its RAM is in a shared memfd of small pages";
}

const char *stasis_shim_kind(const StasisRam *ram)
{
    struct stasis_shim_page page;
    if (stasis_shim_why_not(ram) != NULL || !stasis_shim_page_read(ram->pid, &page))
        return NULL;
    return page.ring_entries > 0 ? "dirty ring" : "bitmap";
}
