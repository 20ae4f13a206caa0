/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connections of programs. Any user's may come, so all is bounded: places in all, places of one
 * user, packets in a second; who oversteps is let go, and the agent, which runs before all others,
 * has done with it.
 */
#include "coop.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_OF_USER 16u      /* other than root */
#define MAX_OF_USERS 48u     /* of all of these: some places are root's */
#define MAX_PER_SECOND 4000u /* packets of one program */
#define MAX_COMING 100u      /* connections a second; others wait in the backlog */
#define BACKLOG 16
#define AT_ONCE 16u /* packets of one program, connections: then others have their turn */

CoopClient coop_clients[COOP_MAX_CLIENTS];
static int listener = -1;
static bool stopped;
static Rate coming; /* connections, of all programs */

static bool is_spent(const Rate *rate, unsigned limit)
{
    return rate->n >= limit && now_ms() - rate->second_ms < 1000;
}

/* False: that was one too many in this second. */
static bool spend(Rate *rate, unsigned limit)
{
    int64_t now = now_ms();
    if (now - rate->second_ms >= 1000)
        *rate = (Rate){ now, 0 };
    return ++rate->n <= limit;
}

static void make_dir_of(const char *path)
{
    char dir[108];
    snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    if (slash == NULL || slash == dir)
        return;
    *slash = '\0';
    mkdir(dir, 0755);
}

void coop_init(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    for (unsigned i = 0; i < COOP_MAX_CLIENTS; i++)
        coop_clients[i].fd = -1;
    if (path == NULL)
        return;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    make_dir_of(path);
    unlink(path); /* of an agent that has ended */
    listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0 &&
        chmod(path, 0666) == 0 && listen(listener, BACKLOG) == 0)
        return;
    say("listen at %s: %s", path, strerror(errno));
    if (listener >= 0)
        close(listener);
    listener = -1;
}

unsigned coop_poll_fds(struct pollfd *fds)
{
    unsigned n = 0;
    if (stopped)
        return 0;
    if (listener >= 0 && !is_spent(&coming, MAX_COMING))
        fds[n++] = (struct pollfd){ .fd = listener, .events = POLLIN };
    for (CoopClient *c = coop_clients; c < coop_clients + COOP_MAX_CLIENTS; c++)
        if (c->fd >= 0)
            fds[n++] = (struct pollfd){ .fd = c->fd, .events = POLLIN };
    return n;
}

/* Workers may have copies: it is to see the end now, not when they have ended. */
void coop_close(CoopClient *client)
{
    shutdown(client->fd, SHUT_RDWR);
    close(client->fd);
    *client = (CoopClient){ .fd = -1 };
}

void coop_tell(CoopClient *client, StasisGuestWhat what, int64_t value)
{
    StasisGuestMessage message = { STASIS_GUEST_MAGIC, what, value, "" };
    memcpy(message.text, client->image, sizeof message.text);
    if (send(client->fd, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        coop_close(client);
}

/* ---- coming ---- */

static void turn_away(int fd)
{
    StasisGuestMessage message = { STASIS_GUEST_MAGIC, STASIS_GUEST_RESULT, -EAGAIN, "" };
    send(fd, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
}

static CoopClient *find_place(uid_t uid)
{
    CoopClient *place = NULL;
    unsigned n = 0, n_users = 0;
    for (CoopClient *c = coop_clients; c < coop_clients + COOP_MAX_CLIENTS; c++) {
        n += c->fd >= 0 && c->uid == uid;
        n_users += c->fd >= 0 && c->uid != 0;
        if (c->fd < 0 && place == NULL)
            place = c;
    }
    return uid == 0 || (n < MAX_OF_USER && n_users < MAX_OF_USERS) ? place : NULL;
}

static bool take_connection(void)
{
    struct ucred peer = { 0 };
    socklen_t size = sizeof peer;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return false;
    CoopClient *c = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 0
                        ? find_place(peer.uid)
                        : NULL;
    if (c == NULL)
        turn_away(fd);
    else
        *c = (CoopClient){ .fd = fd, .pid = peer.pid, .uid = peer.uid };
    return true;
}

/* ---- saying ---- */

static void take_message(CoopClient *c, const StasisGuestMessage *message)
{
    switch (message->what) {
    case STASIS_GUEST_FREEZE:
        coop_wish(c, message->value == STASIS_FREEZE_VM        ? COOP_VM
                     : message->value == STASIS_FREEZE_PROCESS ? COOP_PROCESS
                                                               : COOP_N_SCOPES);
        break;
    case STASIS_GUEST_FREEZE_OTHER:
        if (c->uid == 0 && message->value > 1 && message->value <= INT32_MAX)
            c->pid = (pid_t)message->value;
        coop_wish(c, c->uid == 0 ? COOP_PROCESS : COOP_VM); /* the latter is root's */
        break;
    case STASIS_GUEST_RESTORE:
        memcpy(c->image, message->text, sizeof c->image);
        c->image[sizeof c->image - 1] = '\0';
        coop_wish(c, COOP_RESTORE);
        break;
    case STASIS_GUEST_SUBSCRIBE:
        c->subscribed = true;
        break;
    case STASIS_GUEST_READY:
        c->ready = true;
        break;
    case STASIS_GUEST_CRITICAL_BEGIN:
        coop_hold(c, message->value);
        break;
    case STASIS_GUEST_CRITICAL_END:
        c->holds = c->wants_to_hold = false;
        break;
    case STASIS_GUEST_CYCLES:
        c->cycles = true;
        break;
    case STASIS_GUEST_CYCLE_END:
        c->cycle_wanted = false;
        break;
    case STASIS_GUEST_MISSED:
        coop_missed(message->value);
        break;
    default:
        break; /* of a newer library */
    }
}

/* False: it has nothing more to say now, or is gone. */
static bool take_packet(CoopClient *c)
{
    StasisGuestMessage message;
    ssize_t n = recv(c->fd, &message, sizeof message, MSG_DONTWAIT | MSG_TRUNC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n != sizeof message || message.magic != STASIS_GUEST_MAGIC ||
        !spend(&c->said, MAX_PER_SECOND)) {
        coop_close(c);
        return false;
    }
    take_message(c, &message);
    return c->fd >= 0;
}

void coop_take(void)
{
    for (unsigned i = 0;
         listener >= 0 && i < AT_ONCE && !is_spent(&coming, MAX_COMING) && take_connection(); i++)
        spend(&coming, MAX_COMING);
    for (CoopClient *c = coop_clients; c < coop_clients + COOP_MAX_CLIENTS; c++)
        for (unsigned i = 0; c->fd >= 0 && i < AT_ONCE && take_packet(c); i++)
            ;
}

void coop_stop(void)
{
    stopped = true;
}

void coop_work(bool (*send)(const Answer *, uint16_t, uint8_t), bool (*can_send)(void))
{
    if (stopped)
        return;
    coop_take();
    coop_turn(send, can_send);
}
