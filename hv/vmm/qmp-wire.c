/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes and lines of a QMP connection.
 *
 * A raw socket and poll(2) rather than GIO streams: what is between `stop` and `cont` is the
 * guest's pause, so a command is one send, one poll and one receive into a buffer that is there
 * already.
 *
 * Invariant: a connection on which something went wrong (time-out, end of file, a line that is no
 * QMP) is marked broken and never used again, so an answer can't be taken for another's.
 */
#include "vmm/qmp-wire.h"

#include <errno.h>
#include <poll.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"

#define MAX_LINE (16u << 20)

/* Wait for @events on the socket. 1, 0 at the deadline, or −errno. */
static int wait_for(StasisQmpWire *wire, short events, guint64 deadline_us)
{
    for (;;) {
        struct pollfd fds[2] = { { .fd = wire->fd, .events = events }, { .fd = -1 } };
        if (wire->cancellable != NULL && g_cancellable_is_cancelled(wire->cancellable))
            return -ECANCELED;
        if (wire->cancellable != NULL)
            fds[1] = (struct pollfd){ g_cancellable_get_fd(wire->cancellable), POLLIN, 0 };
        guint64 now = stasis_now_us();
        int wait_ms = now >= deadline_us ? 0 : (int)((deadline_us - now + 999) / 1000);
        int n = poll(fds, 2, wait_ms);
        int saved = errno;
        if (fds[1].fd >= 0)
            g_cancellable_release_fd(wire->cancellable);
        if (n < 0 && saved != EINTR)
            return -saved;
        if (n > 0 && fds[0].revents != 0)
            return 1;
        if (n == 0 && stasis_now_us() >= deadline_us)
            return 0;
    }
}

static gboolean make_room(StasisQmpWire *wire, GError **error)
{
    if (wire->start > 0) {
        memmove(wire->in, wire->in + wire->start, wire->end - wire->start);
        wire->end -= wire->start;
        wire->scanned -= wire->start;
        wire->start = 0;
    }
    if (wire->end < wire->capacity)
        return TRUE;
    if (wire->capacity >= MAX_LINE)
        return stasis_qmp_fail(&wire->base, STASIS_ERROR_CORRUPT, error,
                               "a line of more than %u MiB; is this QEMU?", MAX_LINE >> 20);
    wire->capacity = MIN(wire->capacity * 2, MAX_LINE);
    wire->in = g_realloc(wire->in, wire->capacity);
    return TRUE;
}

gboolean stasis_qmp_receive(StasisQmpWire *wire, guint64 deadline_us, GError **error)
{
    if (wire->end == wire->capacity && !make_room(wire, error))
        return FALSE;
    for (;;) {
        ssize_t n = recv(wire->fd, wire->in + wire->end, wire->capacity - wire->end, MSG_DONTWAIT);
        if (n > 0) {
            wire->end += (gsize)n;
            return TRUE;
        }
        if (n == 0)
            return stasis_qmp_fail(&wire->base, STASIS_ERROR_FAILED, error,
                                   "QEMU closed the connection; it has "
                                   "ended, or another client was let in");
        if (errno != EAGAIN && errno != EINTR)
            return stasis_qmp_fail(&wire->base, STASIS_ERROR_FAILED, error, "receive: %s",
                                   g_strerror(errno));
        int r = wait_for(wire, POLLIN, deadline_us);
        if (r == -ECANCELED)
            return stasis_qmp_fail(&wire->base, STASIS_ERROR_CANCELLED, error, "cancelled");
        if (r < 0)
            return stasis_qmp_fail(&wire->base, STASIS_ERROR_FAILED, error, "poll: %s",
                                   g_strerror(-r));
        if (r == 0)
            return FALSE;
    }
}

/* Take the next whole line out of the buffer. */
static gboolean buffered_line(StasisQmpWire *wire, const char **ret_text, gsize *ret_len)
{
    char *newline = memchr(wire->in + wire->scanned, '\n', wire->end - wire->scanned);
    if (newline == NULL) {
        wire->scanned = wire->end;
        return FALSE;
    }
    *ret_text = wire->in + wire->start;
    *ret_len = (gsize)(newline - *ret_text);
    wire->start = wire->scanned = (gsize)(newline + 1 - wire->in);
    if (wire->start == wire->end)
        wire->start = wire->scanned = wire->end = 0;
    return TRUE;
}

int stasis_qmp_take_line(StasisQmpWire *wire, const char **ret_text, gsize *ret_len,
                         StasisQmpLine *ret, GError **error)
{
    if (!buffered_line(wire, ret_text, ret_len))
        return 0;
    if (!stasis_qmp_line_parse(*ret_text, *ret_len, ret)) {
        stasis_qmp_fail(&wire->base, STASIS_ERROR_CORRUPT, error,
                        "a line that is no JSON object; is this a QMP socket (not -monitor)?");
        return -1;
    }
    if (ret->kind == STASIS_QMP_EVENT)
        stasis_qmp_note_event(&wire->base, ret->event, ret->event_len, ret->time_us, *ret_text,
                              *ret_len);
    return 1;
}

/* The last words of a peer that takes nothing more: they may say why. */
static void hear_out(StasisQmpWire *wire)
{
    const char *text;
    gsize len;
    StasisQmpLine line;
    int r;
    do
        r = stasis_qmp_take_line(wire, &text, &len, &line, NULL);
    while (r > 0 || (r == 0 && stasis_qmp_receive(wire, /* deadline_us= */ 0, NULL)));
}

/* Drop the first @n bytes of what is to be sent. */
static void advance(struct msghdr *msg, gsize n)
{
    while (msg->msg_iovlen > 0 && n >= msg->msg_iov->iov_len) {
        n -= msg->msg_iov->iov_len;
        msg->msg_iov++;
        msg->msg_iovlen--;
    }
    if (msg->msg_iovlen > 0) {
        msg->msg_iov->iov_base = (char *)msg->msg_iov->iov_base + n;
        msg->msg_iov->iov_len -= n;
    }
    msg->msg_control = NULL;
    msg->msg_controllen = 0;
}

gboolean stasis_qmp_send(StasisQmpWire *wire, struct iovec *iov, guint n_iov, int pass_fd,
                         guint64 deadline_us, GError **error)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = { 0 };
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = n_iov };
    if (pass_fd >= 0) {
        msg.msg_control = control.space;
        msg.msg_controllen = sizeof control.space;
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cmsg), &pass_fd, sizeof(int));
    }
    while (msg.msg_iovlen > 0) {
        ssize_t n = sendmsg(wire->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0)
            advance(&msg, (gsize)n);
        else if (errno != EAGAIN && errno != EINTR) {
            int errnum = errno;
            hear_out(wire);
            return stasis_qmp_fail(&wire->base, STASIS_ERROR_FAILED, error, "send: %s",
                                   g_strerror(errnum));
        } else if (errno == EAGAIN && wait_for(wire, POLLOUT, deadline_us) <= 0)
            return stasis_qmp_fail(&wire->base, STASIS_ERROR_FAILED, error,
                                   "send: QEMU does not read its monitor");
    }
    return TRUE;
}
