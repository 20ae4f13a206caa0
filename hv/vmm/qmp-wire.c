/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes and lines of a QMP connection.
 *
 * A raw socket and poll(2) rather than GIO streams: what is between `stop` and `cont` is the
 * guest's pause, so a command is one send, one poll and one receive into a buffer that is there
 * already. Events that come meanwhile are noted by name, newest time only, in a table of fixed
 * size.
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

gboolean stasis_qmp_fail(StasisQmp *qmp, int code, GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    qmp->broken = TRUE;
    g_set_error(error, STASIS_ERROR, code, "QMP %s: %s", qmp->path, what);
    return FALSE;
}

/* Wait for @events on the socket. 1, 0 at the deadline, or −errno. */
static int wait_for(StasisQmp *qmp, short events, guint64 deadline_us)
{
    for (;;) {
        struct pollfd fds[2] = { { .fd = qmp->fd, .events = events }, { .fd = -1 } };
        if (qmp->cancellable != NULL && g_cancellable_is_cancelled(qmp->cancellable))
            return -ECANCELED;
        if (qmp->cancellable != NULL)
            fds[1] = (struct pollfd){ g_cancellable_get_fd(qmp->cancellable), POLLIN, 0 };
        guint64 now = stasis_now_us();
        int wait_ms = now >= deadline_us ? 0 : (int)((deadline_us - now + 999) / 1000);
        int n = poll(fds, 2, wait_ms);
        int saved = errno;
        if (fds[1].fd >= 0)
            g_cancellable_release_fd(qmp->cancellable);
        if (n < 0 && saved != EINTR)
            return -saved;
        if (n > 0 && fds[0].revents != 0)
            return 1;
        if (n == 0 && stasis_now_us() >= deadline_us)
            return 0;
    }
}

static gboolean make_room(StasisQmp *qmp, GError **error)
{
    if (qmp->start > 0) {
        memmove(qmp->in, qmp->in + qmp->start, qmp->end - qmp->start);
        qmp->end -= qmp->start;
        qmp->scanned -= qmp->start;
        qmp->start = 0;
    }
    if (qmp->end < qmp->capacity)
        return TRUE;
    if (qmp->capacity >= MAX_LINE)
        return stasis_qmp_fail(qmp, STASIS_ERROR_CORRUPT, error,
                               "a line of more than %u MiB; is this QEMU?", MAX_LINE >> 20);
    qmp->capacity = MIN(qmp->capacity * 2, MAX_LINE);
    qmp->in = g_realloc(qmp->in, qmp->capacity);
    return TRUE;
}

gboolean stasis_qmp_receive(StasisQmp *qmp, guint64 deadline_us, GError **error)
{
    if (qmp->end == qmp->capacity && !make_room(qmp, error))
        return FALSE;
    for (;;) {
        ssize_t n = recv(qmp->fd, qmp->in + qmp->end, qmp->capacity - qmp->end, MSG_DONTWAIT);
        if (n > 0) {
            qmp->end += (gsize)n;
            return TRUE;
        }
        if (n == 0)
            return stasis_qmp_fail(qmp, STASIS_ERROR_FAILED, error,
                                   "QEMU closed the connection; it has "
                                   "ended, or another client was let in");
        if (errno != EAGAIN && errno != EINTR)
            return stasis_qmp_fail(qmp, STASIS_ERROR_FAILED, error, "receive: %s",
                                   g_strerror(errno));
        int r = wait_for(qmp, POLLIN, deadline_us);
        if (r == -ECANCELED)
            return stasis_qmp_fail(qmp, STASIS_ERROR_CANCELLED, error, "cancelled");
        if (r < 0)
            return stasis_qmp_fail(qmp, STASIS_ERROR_FAILED, error, "poll: %s", g_strerror(-r));
        if (r == 0)
            return FALSE;
    }
}

/* Take the next whole line out of the buffer. */
static gboolean buffered_line(StasisQmp *qmp, const char **ret_text, gsize *ret_len)
{
    char *newline = memchr(qmp->in + qmp->scanned, '\n', qmp->end - qmp->scanned);
    if (newline == NULL) {
        qmp->scanned = qmp->end;
        return FALSE;
    }
    *ret_text = qmp->in + qmp->start;
    *ret_len = (gsize)(newline - *ret_text);
    qmp->start = qmp->scanned = (gsize)(newline + 1 - qmp->in);
    if (qmp->start == qmp->end)
        qmp->start = qmp->scanned = qmp->end = 0;
    return TRUE;
}

StasisQmpEvent *stasis_qmp_find_event(StasisQmp *qmp, const char *name, gsize len)
{
    for (guint i = 0; i < qmp->n_events; i++)
        if (strlen(qmp->events[i].name) == len && memcmp(qmp->events[i].name, name, len) == 0)
            return &qmp->events[i];
    return NULL;
}

static void note_event(StasisQmp *qmp, const StasisQmpLine *line)
{
    if (line->event_len > STASIS_QMP_EVENT_NAME)
        return;
    StasisQmpEvent *event = stasis_qmp_find_event(qmp, line->event, line->event_len);
    if (event == NULL && qmp->n_events < STASIS_QMP_EVENTS) {
        event = &qmp->events[qmp->n_events++];
        memcpy(event->name, line->event, line->event_len);
        event->name[line->event_len] = '\0';
    }
    if (event != NULL)
        event->time_us = line->time_us;
}

int stasis_qmp_take_line(StasisQmp *qmp, const char **ret_text, gsize *ret_len, StasisQmpLine *ret,
                         GError **error)
{
    if (!buffered_line(qmp, ret_text, ret_len))
        return 0;
    if (!stasis_qmp_line_parse(*ret_text, *ret_len, ret)) {
        stasis_qmp_fail(qmp, STASIS_ERROR_CORRUPT, error,
                        "a line that is no JSON object; is this a QMP socket (not -monitor)?");
        return -1;
    }
    if (ret->kind == STASIS_QMP_EVENT)
        note_event(qmp, ret);
    return 1;
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

gboolean stasis_qmp_send(StasisQmp *qmp, struct iovec *iov, guint n_iov, int pass_fd,
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
        ssize_t n = sendmsg(qmp->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0)
            advance(&msg, (gsize)n);
        else if (errno != EAGAIN && errno != EINTR)
            return stasis_qmp_fail(qmp, STASIS_ERROR_FAILED, error, "send: %s", g_strerror(errno));
        else if (errno == EAGAIN && wait_for(qmp, POLLOUT, deadline_us) <= 0)
            return stasis_qmp_fail(qmp, STASIS_ERROR_FAILED, error,
                                   "send: QEMU does not read its monitor");
    }
    return TRUE;
}
