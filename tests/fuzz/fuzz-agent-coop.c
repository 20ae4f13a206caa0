/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Promise: whatever programs of the guest say to the agent, and whatever becomes of the host
 * between two of its requests, the agent neither crashes nor goes round and round; and once a host
 * serves that does not die, each program that had asked for a checkpoint has its answer.
 *
 * The input is a sequence of what happens, two or more bytes each.
 */
#include "../unit/test-agent-coop.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define N_PROGRAMS 8u

static struct {
    int fd;     /* or -1 */
    bool asked; /* for a checkpoint, as the protocol has it: the first thing that it said */
    bool spoke;
} programs[N_PROGRAMS];

static const uint8_t *input;
static size_t left;

static uint8_t next(void)
{
    if (left == 0)
        return 0;
    left--;
    return *input++;
}

static void program_leaves(unsigned i)
{
    if (programs[i].fd >= 0)
        close(programs[i].fd);
    programs[i].fd = -1;
}

/* Everything that it is told makes sense. */
static void program_listens(unsigned i)
{
    StasisGuestMessage message;
    int r = -1;
    while (programs[i].fd >= 0 && (r = program_hears(programs[i].fd, &message)) == 1) {
        g_assert_cmpuint(message.magic, ==, STASIS_GUEST_MAGIC);
        g_assert_cmpuint(message.what, >=, STASIS_GUEST_RESULT);
        g_assert_true(memchr(message.text, '\0', sizeof message.text) != NULL);
    }
    if (r == 0)
        program_leaves(i);
}

static void program_acts(void)
{
    unsigned i = next() % N_PROGRAMS;
    uint8_t what = next();
    if (programs[i].fd < 0) {
        programs[i].fd = program_new(700 + (pid_t)i, what % 2 == 0 ? 0 : 1000);
        programs[i].asked = programs[i].spoke = false;
    } else if (what == 255) {
        program_leaves(i);
    } else if (what > 200) {
        uint8_t junk[300];
        memset(junk, next(), sizeof junk);
        send(programs[i].fd, junk, what - 200u, MSG_NOSIGNAL);
        programs[i].spoke = true;
    } else {
        int64_t values[] = { 0, 1, 2, -1, INT64_MAX, INT64_MIN, 500, 20000 };
        programs[i].asked |= !programs[i].spoke && what % 16 == STASIS_GUEST_FREEZE;
        programs[i].spoke = true;
        program_says(programs[i].fd, what % 16 == 0 ? what : what % 16, values[next() % 8],
                     what > 100 ? "01image" : "");
    }
}

/* Of one of two hosts; sometimes without a field. */
static void wait_for_wish(const char *token, uint64_t n_ended, uint64_t ms)
{
    guint8 room[256];
    StasisFieldWriter fields = { room, 0, sizeof room, false };
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, token);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_N_ENDED, n_ended);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT, ms);
    host_asks(op_wish_wait, &fields);
}

static void begin(uint8_t what)
{
    guint8 room[1024];
    StasisFieldWriter fields = { room, 0, sizeof room, false };
    for (unsigned i = 0; i < what % 4u; i++)
        stasis_field_put_number(&fields, STASIS_AGENT_TAG_PID, 700 + i);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_CYCLE, what & 4);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT, what * 100u);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_HELD, what & 8);
    host_asks(op_wish_begin, &fields);
}

static void end(uint64_t ticket, uint8_t what)
{
    guint8 room[256];
    StasisFieldWriter fields = { room, 0, sizeof room, false };
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TICKET, ticket);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_ERRNO, what % 3 == 0 ? what * 40u : 0);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_PATH, "01image");
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_HELD, what & 64);
    host_asks(op_wish_end, &fields);
}

static void host_acts(void)
{
    static const char *const tokens[] = { "one", "two", "" };
    uint8_t what = next(), detail = next();
    if (!host.there && what % 8 != 0)
        return;
    switch (what % 8) {
    case 0: /* it comes, or goes: what it waited for is forgotten now, or later */
        host.there = !host.there;
        if (detail % 2 == 0)
            coop_forget_requests();
        break;
    case 1:
    case 2:
        wait_for_wish(tokens[detail % 3], detail / 3u % 8u, detail * 10u);
        break;
    case 3:
    case 4:
        begin(detail);
        break;
    case 5:
        end(host_number(STASIS_AGENT_TAG_TICKET), detail);
        break;
    case 6:
        host_asks(what > 127 ? op_wish_wait : what > 63 ? op_wish_begin : op_wish_end, NULL);
        break;
    default:
        coop_resumed();
    }
}

/* One that does not die has served all wishes before long. */
static void serve_all(void)
{
    unsigned n = 0;
    host.there = true;
    do {
        coop_forget_requests();
        wait_for_wish("the last one", 0, 0);
        later(0);
        uint64_t ticket = host_number(STASIS_AGENT_TAG_TICKET);
        unsigned answers = host.n_answers;
        if (ticket == 0)
            break;
        begin(0);
        for (unsigned i = 0; i < 30 && host.n_answers == answers; i++)
            later(1000);
        g_assert_cmpuint(host.n_answers, ==, answers + 1);
        g_assert_cmpuint(host.status, ==, STASIS_AGENT_OK);
        end(ticket, 1);
        work();
    } while (++n < 2 * N_PROGRAMS);
    g_assert_cmpuint(n, <, 2 * N_PROGRAMS);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static bool begun;
    if (!begun)
        coop_init(NULL);
    begun = true;
    input = bytes;
    left = size < 400 ? size : 400;
    for (unsigned i = 0; i < N_PROGRAMS; i++)
        programs[i].fd = -1;
    while (left > 0) {
        uint8_t who = next();
        if (who % 4 == 0)
            later((int64_t)next() * next());
        else if (who % 4 == 1)
            host_acts();
        else
            program_acts();
        work();
        /* It waits, unless there is something to do. */
        g_assert_cmpint(coop_wait_ms(1000, host.there), >, 0);
        for (unsigned i = 0; i < N_PROGRAMS; i++)
            program_listens(i);
    }
    serve_all();
    for (unsigned i = 0; i < N_PROGRAMS; i++) {
        program_listens(i);
        g_assert_true(programs[i].fd < 0 || !programs[i].asked);
        program_leaves(i);
    }
    work();
    for (CoopClient *c = coop_clients; c < coop_clients + COOP_MAX_CLIENTS; c++)
        g_assert_cmpint(c->fd, <, 0);
    return 0;
}
