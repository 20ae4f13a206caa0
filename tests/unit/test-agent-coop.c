/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: whoever asks the agent for a checkpoint gets one answer, in bounded time, whatever
 * becomes of the host in between, and who goes on from an image is told so. */
#include "test-agent-coop.h"

/* ---- what the host says ---- */

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

/* Whoever may have to be waited for is counted, so that the host asks whom a wish is about. */
static void test_counted(void)
{
    begin_case();
    int holder = program_new(701, 1000);
    program_says(holder, STASIS_GUEST_CRITICAL_BEGIN, 3000, "");
    wisher(0, STASIS_FREEZE_PROCESS);
    offered(host_waits(token, 0, 500));
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_SUBSCRIBED), ==, 1);
    close(holder);
    work();
    wisher(0, STASIS_FREEZE_PROCESS);
    offered(host_waits(token, 0, 500));
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_SUBSCRIBED), ==, 0);
}

/* Two that take turns, so that there is always one: it waits for them as long as for one. */
static void test_held_off_by_turns(void)
{
    begin_case();
    int players[2] = { program_new(701, 1000), program_new(702, 1000) };
    program_says(players[0], STASIS_GUEST_CRITICAL_BEGIN, 10000, "");
    work();
    check_hears(players[0], STASIS_GUEST_RESULT, 0);
    uint64_t id = host_begins(0, false, 0);
    for (guint i = 1; i < 5; i++) {
        program_says(players[i % 2], STASIS_GUEST_CRITICAL_BEGIN, 10000, "");
        work();
        later(1000); /* it may begin */
        check_hears(players[i % 2], STASIS_GUEST_RESULT, 0);
        later(1000);
        program_says(players[(i + 1) % 2], STASIS_GUEST_CRITICAL_END, 0, "");
        work();
    }
    later(1999);
    g_assert_cmpuint(host.id, !=, id);
    g_assert_cmpint(coop_wait_ms(100000, true), ==, 1);
    later(1);
    check_answered(id);
    host_ends(0, 0, "");
    close(players[0]);
    close(players[1]);
    work();
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

static void check_missed(uint64_t meanwhile, uint64_t before)
{
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_MISSED), ==, meanwhile);
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_MISSED_BEFORE), ==, before);
}

/* Of all programs; none is counted twice, nor what is no number of deadlines. */
static void test_missed(void)
{
    guint8 room[64];
    StasisFieldWriter fields = { room, 0, sizeof room, false };
    begin_case();
    int one = program_new(701, 0), two = program_new(702, 1000);
    host_begins(0, false, 1000);
    host_ends(0, 0, "");
    program_says(one, STASIS_GUEST_MISSED, 2, "");
    program_says(two, STASIS_GUEST_MISSED, 3, "");
    program_says(two, STASIS_GUEST_MISSED, -1, "");
    work();
    /* One of which no wish has to hear. */
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_HELD, 1);
    host_asks(op_wish_begin, &fields);
    work();
    host_asks(op_wish_end, &fields);
    host_begins(0, false, 1000);
    program_says(two, STASIS_GUEST_MISSED, 4, "");
    work();
    host_ends(0, 0, "");
    check_missed(4, 5);
    host_begins(0, false, 1000);
    host_ends(0, 0, "");
    check_missed(0, 0);
    /* It could not begin: later ones tell. */
    program_says(one, STASIS_GUEST_MISSED, INT64_MAX, "");
    program_says(two, STASIS_GUEST_CYCLES, 0, "");
    work();
    host_begins(0, true, 1000);
    coop_forget_requests();
    host_ends(0, EREMOTEIO, "");
    check_missed(0, 0);
    /* Right before its end. */
    host_begins(0, false, 1000);
    program_says(two, STASIS_GUEST_MISSED, 6, "");
    host_ends(0, 0, "");
    check_missed(6, UINT32_MAX);
    program_says(one, STASIS_GUEST_MISSED, INT64_MAX, "");
    work();
    host_begins(0, false, 1000);
    host_ends(0, 0, "");
    check_missed(0, UINT32_MAX);
    close(one);
    close(two);
    work();
}

/* Who watches over the host tells that it is no more: that ends what it has begun, and no other. */
static void test_left(void)
{
    guint8 room[128];
    begin_case();
    int told = program_new(701, 1000);
    program_says(told, STASIS_GUEST_SUBSCRIBE, 0, "");
    work();
    StasisFieldWriter fields = { room, 0, sizeof room, false };
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, "one");
    uint64_t id = host_asks(op_wish_begin, &fields);
    work();
    check_hears(told, STASIS_GUEST_BEFORE, 0);
    program_says(told, STASIS_GUEST_READY, 0, "");
    work();
    check_answered(id);
    StasisFieldWriter other = { room + 64, 0, 64, false };
    stasis_field_put_text(&other, STASIS_AGENT_TAG_TOKEN, "two");
    check_answered(host_asks(op_wish_end, &other));
    work();
    check_silent(told);
    check_answered(host_asks(op_wish_end, &fields));
    work();
    check_hears(told, STASIS_GUEST_AFTER, -ECANCELED);
    check_answered(host_asks(op_wish_end, &fields));
    work();
    check_silent(told);
    host_waits(token, 0, 0);
    g_assert_cmpuint(host_number(STASIS_AGENT_TAG_N_ENDED), ==, 0);
    close(told);
    work();
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
    g_test_add_func("/agent-coop/counted", test_counted);
    g_test_add_func("/agent-coop/held-off", test_held_off);
    g_test_add_func("/agent-coop/held-off-by-turns", test_held_off_by_turns);
    g_test_add_func("/agent-coop/cycles", test_cycles);
    g_test_add_func("/agent-coop/missed", test_missed);
    g_test_add_func("/agent-coop/left", test_left);
    g_test_add_func("/agent-coop/held", test_held);
    int result = g_test_run();
    unlink(path);
    rmdir(dir);
    return result;
}
