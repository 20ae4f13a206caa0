/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: whoever asks the agent for a checkpoint gets one answer, in bounded time, whatever
 * becomes of the host in between; who goes on from an image is told so; and no program, nor many,
 * can take what others need. */
#include "test-agent-coop.h"

#include <poll.h>
#include <sys/un.h>

/* ---- what the host says ---- */

static uint64_t host_waits(const char *token, uint64_t n_ended, uint64_t ms)
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

static uint64_t host_begins(pid_t pid, bool cycle, uint64_t ms)
{
    guint8 room[256];
    StasisFieldWriter fields = { room, 0, sizeof room, false };
    if (pid != 0)
        stasis_field_put_number(&fields, STASIS_AGENT_TAG_PID, (uint64_t)pid);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_CYCLE, cycle);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT, ms);
    uint64_t id = host_asks(op_wish_begin, &fields);
    work();
    return id;
}

/* How many callers it told. */
static uint64_t host_ends(uint64_t ticket, uint64_t error_number, const char *image)
{
    guint8 room[256];
    StasisFieldWriter fields = { room, 0, sizeof room, false };
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TICKET, ticket);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_ERRNO, error_number);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_PATH, image);
    host_asks(op_wish_end, &fields);
    work();
    return host_number(STASIS_AGENT_TAG_N_CALLERS);
}

/* It has this answer, a good one. */
static void check_answered(uint64_t id)
{
    g_assert_cmpuint(host.id, ==, id);
    g_assert_cmpuint(host.status, ==, STASIS_AGENT_OK);
}

static uint64_t offered(uint64_t id)
{
    check_answered(id);
    return host_number(STASIS_AGENT_TAG_TICKET);
}

/* ---- programs ---- */

static int wisher(uid_t uid, unsigned scope)
{
    int fd = program_new(700, uid);
    program_says(fd, STASIS_GUEST_FREEZE, scope, "");
    work();
    return fd;
}

static void check_hears(int fd, StasisGuestWhat what, int64_t value)
{
    StasisGuestMessage message;
    g_assert_cmpint(program_hears(fd, &message), ==, 1);
    g_assert_cmpuint(message.magic, ==, STASIS_GUEST_MAGIC);
    g_assert_cmpuint(message.what, ==, what);
    g_assert_cmpint(message.value, ==, value);
}

static void check_silent(int fd)
{
    StasisGuestMessage message;
    g_assert_cmpint(program_hears(fd, &message), ==, -1);
}

/* That answer, and the connection is over. */
static void check_result(int fd, StasisGuestWhat what, int64_t value)
{
    StasisGuestMessage message;
    check_hears(fd, what, value);
    g_assert_cmpint(program_hears(fd, &message), ==, 0);
    close(fd);
}

/* A token of the case's own: nothing of the last one's is left, and counting begins anew. */
static char token[16];
static void begin_case(void)
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

/* ---- wishes ---- */

static void test_wish(void)
{
    begin_case();
    int one = wisher(0, STASIS_FREEZE_VM), two = wisher(0, STASIS_FREEZE_VM);
    int process = wisher(1000, STASIS_FREEZE_PROCESS);
    uint64_t ticket = offered(host_waits(token, 0, 500));
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_CALLERS), ==, 2);
    check_answered(host_begins(0, false, 0));
    check_silent(one);
    g_assert_cmpuint(host_ends(ticket, 0, "01image"), ==, 2);
    check_result(one, STASIS_GUEST_RESULT, 0);
    check_result(two, STASIS_GUEST_RESULT, 0);
    /* Each process is an image of its own. */
    uint64_t second = offered(host_waits(token, 1, 500));
    g_assert_cmpuint(second, >, ticket);
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_PID), ==, 700);
    g_assert_cmpuint(host_ends(second, EREMOTEIO, ""), ==, 1);
    check_result(process, STASIS_GUEST_RESULT, -EREMOTEIO);
}

static void test_waits_for_one(void)
{
    begin_case();
    uint64_t id = host_waits(token, 0, 500);
    g_assert_cmpuint(host.id, !=, id);
    g_assert_cmpint(coop_wait_ms(1000, true), ==, 500);
    later(300);
    int one = wisher(0, STASIS_FREEZE_VM);
    g_assert_cmpuint(offered(id), >, 0);
    close(one);
    work();
    id = host_waits(token, 0, 500);
    later(500);
    g_assert_cmpuint(offered(id), ==, 0);
}

static void test_refused(void)
{
    begin_case();
    check_result(wisher(1000, STASIS_FREEZE_VM), STASIS_GUEST_RESULT, -EPERM);
    check_result(wisher(0, 7), STASIS_GUEST_RESULT, -EINVAL);
    int fd = program_new(700, 1000);
    program_says(fd, STASIS_GUEST_FREEZE_OTHER, 1, "");
    work();
    check_result(fd, STASIS_GUEST_RESULT, -EPERM);
    fd = program_new(700, 1000);
    program_says(fd, STASIS_GUEST_RESTORE, 0, "01image");
    work();
    check_result(fd, STASIS_GUEST_RESULT, -EPERM);
}

static void test_restore(void)
{
    begin_case();
    int fd = program_new(700, 0);
    program_says(fd, STASIS_GUEST_RESTORE, 0, "01image");
    work();
    uint64_t ticket = offered(host_waits(token, 0, 500));
    StasisField path;
    g_assert_true(stasis_field_find(host.payload, host.length, STASIS_AGENT_TAG_PATH, &path));
    g_assert_cmpmem(path.value, path.length, "01image", 7);
    g_assert_cmpuint(host_ends(ticket, ENOENT, ""), ==, 1);
    check_result(fd, STASIS_GUEST_RESULT, -ENOENT);
}

/* ---- a host that dies ---- */

static void test_nobody_serves(void)
{
    begin_case();
    int one = wisher(0, STASIS_FREEZE_VM);
    later(9000);
    check_silent(one);
    later(1000);
    check_result(one, STASIS_GUEST_RESULT, -EHOSTDOWN);
    /* Somebody does, and takes his time. */
    one = wisher(0, STASIS_FREEZE_VM);
    later(9000);
    host_waits(token, 0, 0);
    uint64_t ticket = host_number(STASIS_AGENT_TAG_TICKET);
    later(60000);
    check_silent(one);
    g_assert_cmpuint(host_ends(ticket, 0, ""), ==, 1);
    check_result(one, STASIS_GUEST_RESULT, 0);
}

static void test_host_gone_while_it_waits(void)
{
    begin_case();
    host_waits(token, 0, 500);
    host.there = false;
    unsigned n = host.n_answers;
    int one = wisher(0, STASIS_FREEZE_VM);
    later(500);
    g_assert_cmpuint(host.n_answers, ==, n);
    /* Nothing to do about it: no turning round and round. */
    g_assert_cmpint(coop_wait_ms(1000, false), ==, 1000);
    coop_forget_requests();
    later(9000);
    check_silent(one);
    later(1000);
    check_result(one, STASIS_GUEST_RESULT, -EHOSTDOWN);
}

static void test_lost_answer(void)
{
    begin_case();
    int one = wisher(0, STASIS_FREEZE_VM);
    uint64_t first = offered(host_waits(token, 0, 500)); /* which nobody reads */
    coop_forget_requests();
    later(3000);
    int two = wisher(0, STASIS_FREEZE_VM);
    uint64_t ticket = offered(host_waits(token, 0, 500));
    g_assert_cmpuint(ticket, ==, first);
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_CALLERS), ==, 2);
    /* … and it dies over that, and another one comes, of which nothing is known. */
    check_answered(host_begins(0, false, 0));
    ticket = offered(host_waits("another", 12, 500));
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_ENDED), ==, 12);
    g_assert_cmpuint(host_ends(ticket, 0, ""), ==, 2);
    check_result(one, STASIS_GUEST_RESULT, 0);
    check_result(two, STASIS_GUEST_RESULT, 0);
}

/* It says what it has seen to a host that could not count it any more, and does not take that for a
 * way back. */
static void test_uncounted(void)
{
    begin_case();
    int one = wisher(0, STASIS_FREEZE_VM);
    uint64_t ticket = offered(host_waits(token, 0, 500));
    host_ends(ticket, 0, "");
    check_result(one, STASIS_GUEST_RESULT, 0);
    host_waits(token, 0, 0);
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_ENDED), ==, 1);
    one = wisher(0, STASIS_FREEZE_VM);
    ticket = offered(host_waits(token, 1, 500));
    check_silent(one);
    host_ends(ticket, 0, "");
    check_result(one, STASIS_GUEST_RESULT, 0);
}

static void test_taken_for_ever(void)
{
    begin_case();
    int one = wisher(0, STASIS_FREEZE_VM);
    offered(host_waits(token, 0, 500));
    check_answered(host_begins(0, false, 0));
    later(899000);
    check_silent(one);
    later(1000);
    check_result(one, STASIS_GUEST_RESULT, -ETIMEDOUT);
}

/* ---- going on from an image ---- */

static void test_rolled_back(void)
{
    begin_case();
    int taken = wisher(0, STASIS_FREEZE_VM);
    offered(host_waits(token, 0, 500));
    int wished = wisher(1000, STASIS_FREEZE_PROCESS), told = program_new(701, 1000);
    program_says(told, STASIS_GUEST_SUBSCRIBE, 0, "");
    work();
    /* The host has ended one that this guest knows nothing of. */
    uint64_t id = host_waits(token, 1, 0);
    check_result(taken, STASIS_GUEST_RESUMED, 0);
    check_result(wished, STASIS_GUEST_RESUMED, 0);
    check_hears(told, STASIS_GUEST_RESUMED, 0);
    g_assert_cmpuint(offered(id), ==, 0);
    host_waits(token, 1, 0);
    check_silent(told);
    close(told);
}

static void test_restored(void)
{
    begin_case();
    int one = wisher(0, STASIS_FREEZE_VM);
    offered(host_waits(token, 0, 500));
    check_answered(host_begins(0, false, 0));
    coop_resumed();
    check_result(one, STASIS_GUEST_RESUMED, 0);
    /* A new one is a new one. */
    one = wisher(0, STASIS_FREEZE_VM);
    uint64_t ticket = offered(host_waits("of the clone", 0, 500));
    host_ends(ticket, 0, "");
    check_result(one, STASIS_GUEST_RESULT, 0);
}

/* ---- getting ready ---- */

static void test_told(void)
{
    begin_case();
    int told = program_new(701, 1000), other = program_new(702, 1000);
    program_says(told, STASIS_GUEST_SUBSCRIBE, 0, "");
    program_says(other, STASIS_GUEST_SUBSCRIBE, 0, "");
    work();
    unsigned n = host.n_answers;
    uint64_t id = host_begins(701, false, 0);
    check_hears(told, STASIS_GUEST_BEFORE, 0);
    check_silent(other);
    g_assert_cmpuint(host.n_answers, ==, n);
    program_says(told, STASIS_GUEST_READY, 0, "");
    work();
    check_answered(id);
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_SUBSCRIBED), ==, 1);
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_FAILED), ==, 0);
    host_ends(0, 0, "");
    check_hears(told, STASIS_GUEST_AFTER, 0);
    check_silent(other);
    /* Who does not get ready is waited for, for a second. */
    id = host_begins(0, false, 0);
    program_says(told, STASIS_GUEST_READY, 0, "");
    later(999);
    g_assert_cmpuint(host.id, !=, id);
    later(1);
    check_answered(id);
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_FAILED), ==, 1);
    /* The host dies: that it was not taken is told in the end. */
    check_hears(told, STASIS_GUEST_BEFORE, 0);
    later(899000);
    check_silent(told);
    later(1000);
    check_hears(told, STASIS_GUEST_AFTER, -ETIMEDOUT);
    close(told);
    close(other);
}

static void test_hangs_up_before_it_begins(void)
{
    begin_case();
    int told = program_new(701, 1000);
    program_says(told, STASIS_GUEST_SUBSCRIBE, 0, "");
    work();
    host_begins(0, false, 0);
    check_hears(told, STASIS_GUEST_BEFORE, 0);
    coop_forget_requests();
    check_hears(told, STASIS_GUEST_AFTER, -ECANCELED);
    program_says(told, STASIS_GUEST_READY, 0, "");
    work();
    uint64_t id = host_begins(0, false, 0);
    check_hears(told, STASIS_GUEST_BEFORE, 0);
    close(told); /* it has ended: nobody waits for it */
    work();
    check_answered(id);
    uint64_t second = host_begins(0, false, 0);
    g_assert_cmpuint(host.id, ==, second);
    g_assert_cmpuint(host.status, ==, STASIS_AGENT_STATE);
    host_ends(0, 0, "");
}

static void test_held_off(void)
{
    begin_case();
    int one = program_new(701, 1000), two = program_new(702, 1000);
    program_says(one, STASIS_GUEST_CRITICAL_BEGIN, 3000, "");
    work();
    check_hears(one, STASIS_GUEST_RESULT, 0);
    uint64_t id = host_begins(0, false, 0);
    /* Another one waits meanwhile, for a second at most. */
    program_says(two, STASIS_GUEST_CRITICAL_BEGIN, 100, "");
    work();
    check_silent(two);
    g_assert_cmpint(coop_wait_ms(100000, true), ==, 1000);
    later(1000);
    check_hears(two, STASIS_GUEST_RESULT, 0);
    later(1000);
    g_assert_cmpuint(host.id, !=, id);
    program_says(one, STASIS_GUEST_CRITICAL_END, 0, "");
    work();
    check_answered(id);
    host_ends(0, 0, "");
    /* One that does not end has a limit. */
    program_says(one, STASIS_GUEST_CRITICAL_BEGIN, 1 << 30, "");
    work();
    id = host_begins(0, false, 0);
    later(9000);
    g_assert_cmpuint(host.id, !=, id);
    later(1000);
    check_answered(id);
    host_ends(0, 0, "");
    close(one);
    close(two);
}

static void test_cycles(void)
{
    begin_case();
    int one = program_new(701, 0), two = program_new(702, 0);
    program_says(one, STASIS_GUEST_CYCLES, 0, "");
    program_says(two, STASIS_GUEST_CYCLES, 0, "");
    work();
    check_answered(host_begins(0, false, 1000)); /* not at the end of one */
    host_ends(0, 0, "");
    check_silent(one);
    uint64_t id = host_begins(0, true, 1000);
    check_hears(one, STASIS_GUEST_WANT_CYCLE, 0);
    check_hears(two, STASIS_GUEST_WANT_CYCLE, 0);
    program_says(one, STASIS_GUEST_CYCLE_END, 0, "");
    later(999);
    g_assert_cmpuint(host.id, !=, id);
    later(1);
    check_answered(id);
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_CYCLE), ==, 1);
    host_ends(0, 0, "");
    close(one);
    close(two);
}

/* One in a single conversation is over when that is, and is no end that the host counts. */
static void test_held(void)
{
    guint8 room[64];
    StasisFieldWriter fields = { room, 0, sizeof room, false };
    begin_case();
    int told = program_new(701, 1000);
    program_says(told, STASIS_GUEST_SUBSCRIBE, 0, "");
    work();
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_HELD, 1);
    for (guint i = 0; i < 3; i++) {
        uint64_t id = host_asks(op_wish_begin, &fields);
        work();
        if (i == 2) /* one that was left half a second ago */
            check_hears(told, STASIS_GUEST_AFTER, -ECANCELED);
        check_hears(told, STASIS_GUEST_BEFORE, 0);
        program_says(told, STASIS_GUEST_READY, 0, "");
        work();
        check_answered(id);
        check_silent(told);
        if (i == 2)
            host_asks(op_wish_end, &fields);
        else
            coop_forget_requests();
        if (i == 1) {
            later(500);
            continue;
        }
        later(999);
        if (i == 0)
            check_silent(told);
        later(1);
        check_hears(told, STASIS_GUEST_AFTER, i == 0 ? -ECANCELED : 0);
    }
    host_waits(token, 0, 0);
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_ENDED), ==, 0);
    close(told);
    work();
}

/* ---- too much ---- */

static int connect_to(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    g_strlcpy(address.sun_path, path, sizeof address.sun_path);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof address), ==, 0);
    work();
    return fd;
}

static unsigned count_clients(void)
{
    unsigned n = 0;
    for (CoopClient *c = coop_clients; c < coop_clients + COOP_MAX_CLIENTS; c++)
        n += c->fd >= 0;
    return n;
}

static void test_places(gconstpointer data)
{
    const char *path = data;
    int fds[COOP_MAX_CLIENTS];
    begin_case();
    guint limit = getuid() == 0 ? COOP_MAX_CLIENTS : 16;
    for (guint i = 0; i < limit; i++)
        fds[i] = connect_to(path);
    g_assert_cmpuint(count_clients(), ==, limit);
    check_result(connect_to(path), STASIS_GUEST_RESULT, -EAGAIN);
    close(fds[3]);
    work();
    fds[3] = connect_to(path);
    check_silent(fds[3]);
    for (guint i = 0; i < limit; i++)
        close(fds[i]);
    work();
    g_assert_cmpuint(count_clients(), ==, 0);
}

static void test_connections_in_a_second(gconstpointer data)
{
    const char *path = data;
    struct pollfd fds[COOP_MAX_FDS];
    begin_case();
    later(1000);
    for (guint i = 0; i < 100; i++)
        close(connect_to(path));
    work();
    g_assert_cmpuint(count_clients(), ==, 0);
    g_assert_cmpuint(coop_poll_fds(fds), ==, 0); /* nobody is listened to in this second any more */
    int one = connect_to(path);
    g_assert_cmpuint(count_clients(), ==, 0);
    later(1000);
    g_assert_cmpuint(coop_poll_fds(fds), ==, 2);
    g_assert_cmpuint(count_clients(), ==, 1);
    close(one);
    work();
}

static void test_junk(void)
{
    static const char *const junk[] = { "", "StG1",
                                        "StG1 and more than such a packet has, and more, "
                                        "and yet more of it, until it does not fit" };
    StasisGuestMessage message;
    begin_case();
    for (guint i = 0; i < G_N_ELEMENTS(junk); i++) {
        int fd = program_new(700, 0);
        g_assert_cmpint(send(fd, junk[i], strlen(junk[i]), MSG_NOSIGNAL), ==,
                        (ssize_t)strlen(junk[i]));
        work();
        g_assert_cmpint(program_hears(fd, &message), ==, 0);
        close(fd);
    }
    /* Not known: of a newer library. */
    int fd = program_new(700, 0);
    program_says(fd, 63, 1, "");
    work();
    check_silent(fd);
    /* Too many of them. */
    unsigned n = 0;
    for (; n < 5000 && program_hears(fd, &message) == -1; n++) {
        program_says(fd, 63, 1, "");
        if (n % 32 == 0)
            work();
    }
    g_assert_cmpuint(n, >, 3900);
    g_assert_cmpuint(n, <, 4200);
    close(fd);
}

/* It does not read: the agent does not wait for it. */
static void test_deaf(void)
{
    begin_case();
    int fd = program_new(700, 0);
    for (guint i = 0; i < 2000 && count_clients() == 1; i++) {
        program_says(fd, STASIS_GUEST_CRITICAL_BEGIN, 1, "");
        work();
    }
    g_assert_cmpuint(count_clients(), ==, 0);
    close(fd);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_autofree char *dir = g_dir_make_tmp("coop.XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "socket", NULL);
    coop_init(path);
    g_test_add_func("/agent-coop/wish", test_wish);
    g_test_add_func("/agent-coop/waits-for-one", test_waits_for_one);
    g_test_add_func("/agent-coop/refused", test_refused);
    g_test_add_func("/agent-coop/restore", test_restore);
    g_test_add_func("/agent-coop/nobody-serves", test_nobody_serves);
    g_test_add_func("/agent-coop/host-gone-while-it-waits", test_host_gone_while_it_waits);
    g_test_add_func("/agent-coop/lost-answer", test_lost_answer);
    g_test_add_func("/agent-coop/uncounted", test_uncounted);
    g_test_add_func("/agent-coop/taken-for-ever", test_taken_for_ever);
    g_test_add_func("/agent-coop/rolled-back", test_rolled_back);
    g_test_add_func("/agent-coop/restored", test_restored);
    g_test_add_func("/agent-coop/told", test_told);
    g_test_add_func("/agent-coop/hangs-up-before-it-begins", test_hangs_up_before_it_begins);
    g_test_add_func("/agent-coop/held-off", test_held_off);
    g_test_add_func("/agent-coop/cycles", test_cycles);
    g_test_add_func("/agent-coop/held", test_held);
    g_test_add_data_func("/agent-coop/places", path, test_places);
    g_test_add_data_func("/agent-coop/connections-in-a-second", path, test_connections_in_a_second);
    g_test_add_func("/agent-coop/junk", test_junk);
    g_test_add_func("/agent-coop/deaf", test_deaf);
    int result = g_test_run();
    unlink(path);
    rmdir(dir);
    return result;
}
