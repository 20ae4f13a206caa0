/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent's say for programs (guest-agent/coop*.c) without its loop: a clock that the test moves,
 * programs at the other ends of socket pairs, and a host that asks by op-wish.c and keeps the last
 * answer. For one file of a program: it defines what the agent has in util.c.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "coop.h"

static int64_t world_ms = 1000000;

int64_t now_ms(void)
{
    return world_ms;
}

void say(const char *format, ...)
{
}

/* ---- the host ---- */

static struct {
    bool there;
    unsigned n_answers;
    uint64_t id;
    uint16_t status;
    uint32_t length;
    uint8_t payload[STASIS_AGENT_MAX_PAYLOAD];
} host = { .there = true };

static bool host_hears(const Answer *answer, uint16_t status, uint8_t flags)
{
    g_assert_true(host.there);
    g_assert_cmpuint(flags, ==, STASIS_AGENT_END);
    g_assert_false(answer->fields.overflow);
    host.n_answers++;
    host.id = answer->id;
    host.status = status;
    host.length = answer->fields.length;
    memcpy(host.payload, answer->payload, answer->fields.length);
    return true;
}

static bool host_is_there(void)
{
    return host.there;
}

/* The agent's loop goes round until it has taken what there is. */
static G_GNUC_UNUSED void work(void)
{
    for (guint i = 0; i < 8; i++)
        coop_work(host_hears, host_is_there);
}

static G_GNUC_UNUSED void later(int64_t ms)
{
    world_ms += ms;
    work();
}

/* @fields: what was put into it; may be NULL. The request's id is the number of the call. */
static G_GNUC_UNUSED uint64_t host_asks(void (*op)(const Request *, Answer *),
                                        const StasisFieldWriter *fields)
{
    static Answer answer;
    static uint64_t id;
    Request request = { ++id, fields != NULL ? fields->payload : NULL,
                        fields != NULL ? fields->length : 0 };
    answer.id = id;
    answer.send = host_hears;
    answer.ended = false;
    answer.fields = (StasisFieldWriter){ answer.payload, 0, STASIS_AGENT_MAX_PAYLOAD, false };
    op(&request, &answer);
    return id;
}

static G_GNUC_UNUSED uint64_t host_number(StasisAgentTag tag)
{
    return stasis_field_number(host.payload, host.length, tag, 0);
}

/* ---- programs ---- */

/* A connection that the agent has; the program's end, or -1 when there is no place. */
static G_GNUC_UNUSED int program_new(pid_t pid, uid_t uid)
{
    int ends[2];
    for (CoopClient *c = coop_clients; c < coop_clients + COOP_MAX_CLIENTS; c++) {
        if (c->fd >= 0)
            continue;
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends),
                        ==, 0);
        *c = (CoopClient){ .fd = ends[0], .pid = pid, .uid = uid };
        return ends[1];
    }
    return -1;
}

static G_GNUC_UNUSED void program_says(int fd, uint32_t what, int64_t value, const char *text)
{
    StasisGuestMessage message = { STASIS_GUEST_MAGIC, what, value, "" };
    g_strlcpy(message.text, text, sizeof message.text);
    send(fd, &message, sizeof message, MSG_NOSIGNAL);
}

/* 1, with what it hears; 0 at the end of the connection; -1: nothing yet. */
static G_GNUC_UNUSED int program_hears(int fd, StasisGuestMessage *ret)
{
    ssize_t n = recv(fd, ret, sizeof *ret, MSG_DONTWAIT);
    if (n == (ssize_t)sizeof *ret)
        return 1;
    return n < 0 && errno == EAGAIN ? -1 : 0;
}

static G_GNUC_UNUSED void check_hears(int fd, StasisGuestWhat what, int64_t value)
{
    StasisGuestMessage message;
    g_assert_cmpint(program_hears(fd, &message), ==, 1);
    g_assert_cmpuint(message.magic, ==, STASIS_GUEST_MAGIC);
    g_assert_cmpuint(message.what, ==, what);
    g_assert_cmpint(message.value, ==, value);
}

static G_GNUC_UNUSED void check_silent(int fd)
{
    StasisGuestMessage message;
    g_assert_cmpint(program_hears(fd, &message), ==, -1);
}

/* That answer, and the connection is over. */
static G_GNUC_UNUSED void check_result(int fd, StasisGuestWhat what, int64_t value)
{
    StasisGuestMessage message;
    check_hears(fd, what, value);
    g_assert_cmpint(program_hears(fd, &message), ==, 0);
    close(fd);
}

/* ---- cases ---- */

static G_GNUC_UNUSED uint64_t host_waits(const char *token, uint64_t n_ended, uint64_t ms)
{
    guint8 room[256];
    StasisFieldWriter fields = { room, 0, sizeof room, false };
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, token);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_N_ENDED, n_ended);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT, ms);
    uint64_t id = host_asks(op_wish_wait, &fields);
    work();
    return id;
}

/* A token of the case's own: nothing of the last one's is left, and counting begins anew. */
static char token[16];
static G_GNUC_UNUSED void begin_case(void)
{
    static unsigned n;
    g_snprintf(token, sizeof token, "case %u", ++n);
    for (CoopClient *c = coop_clients; c < coop_clients + COOP_MAX_CLIENTS; c++)
        if (c->fd >= 0)
            coop_close(c);
    host.there = true;
    coop_forget_requests();
    later(2000000); /* whatever had begun is over */
    host_waits(token, 0, 0);
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_TICKET), ==, 0);
}
