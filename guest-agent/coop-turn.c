/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A checkpoint's turn, as the guest sees it:
 *
 *     a program wishes for one ── the host waits for wishes, and takes it ─┐
 *     the host wants one itself (it is time) ─────────────────────────────┴─ it says BEGIN:
 *
 *     HOLDING  critical sections come to their end; new ones wait
 *     TELLING  programs that want to know are told "before", and say that they are ready
 *     CYCLING  each control loop comes to the end of a cycle, if the host wants that
 *     BEGUN    the host has its answer, hangs up, and takes the checkpoint
 *
 * and END, in another conversation (or in this one, and then it is over when that is): the wish's
 * caller gets its result, and who was told before is told after. Each step has a limit, and so has
 * BEGUN, since the host may die. If it has one who tells of that, it is over then.
 *
 * Who goes on from an image finds itself somewhere in this, without the host that was part of it,
 * and is told so by coop_resumed(): by the host's "instant", or when the host has ended more
 * checkpoints than we know of (then the VM was taken back in place). All callers that wait have
 * then been in an image while they waited.
 */
#include "coop.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "stasis-guest.h"

#define SERVED_LIMIT_MS 10000 /* for a wish, without anybody who serves */
#define TAKEN_LIMIT_MS 900000 /* for the host to take it */
#define READY_LIMIT_MS 1000   /* for programs to get ready */
#define BEGUN_LIMIT_MS 900000 /* for the host to say END */
#define ORPHAN_MS 1000        /* for one whose conversation has ended */
#define HOLD_WAIT_MS 1000     /* for a critical section that comes when one has begun */
#define MAX_HOLD_MS 10000     /* of one, and of all together that a checkpoint waits for */

typedef enum { IDLE, HOLDING, TELLING, CYCLING, BEGUN } Step;

static struct {
    char server[65]; /* who serves */
    uint64_t n_ended;
    int64_t served_ms; /* when it was last heard of */
    uint64_t last_ticket;

    bool waiting; /* it waits for a wish */
    uint64_t wait_id;
    int64_t wait_end_ms;

    Step step;
    uint64_t begin_id;
    char by[65]; /* who has begun */
    bool at_cycle_end;
    bool held, orphan; /* over with its conversation; which has ended */
    int64_t step_end_ms;
    unsigned timeout_ms, n_told, n_late, n_cycles, n_cycles_late;
    pid_t pids[STASIS_AGENT_MAX_LIST];
    unsigned n_pids;

    uint64_t n_missed, n_until;     /* deadlines of programs: since the BEGIN, and between the last
                                       END that there was and that */
    uint64_t n_meanwhile, n_before; /* … both, of the checkpoint that has ended */
    bool counts;                    /* some program has told of one */
} turn;

static Answer answer;

#define EACH(c)                                                                  \
    for (CoopClient *c = coop_clients; c < coop_clients + COOP_MAX_CLIENTS; c++) \
        if (c->fd >= 0)

/* ---- wishes ---- */

static void finish_wish(CoopClient *c, int64_t result)
{
    coop_tell(c, STASIS_GUEST_RESULT, result);
    if (c->fd >= 0)
        coop_close(c);
}

void coop_wish(CoopClient *c, CoopScope scope)
{
    if (c->wish != COOP_NO_WISH)
        return;
    if (scope >= COOP_N_SCOPES) {
        finish_wish(c, -EINVAL);
        return;
    }
    if (scope != COOP_PROCESS && c->uid != 0) {
        finish_wish(c, -EPERM);
        return;
    }
    c->scope = scope;
    c->wish = COOP_WISHED;
    c->ticket = ++turn.last_ticket;
    c->since_ms = now_ms();
}

static void limit_wishes(int64_t now)
{
    EACH(c)
    {
        int64_t heard = c->since_ms > turn.served_ms ? c->since_ms : turn.served_ms;
        if (c->wish == COOP_TAKEN && now - c->since_ms >= TAKEN_LIMIT_MS)
            finish_wish(c, -ETIMEDOUT);
        else if (c->wish == COOP_WISHED && !turn.waiting && turn.step == IDLE &&
                 now - heard >= SERVED_LIMIT_MS)
            finish_wish(c, -EHOSTDOWN);
    }
}

static CoopClient *oldest_wish(void)
{
    CoopClient *oldest = NULL;
    EACH(c)
    if (c->wish == COOP_WISHED && (oldest == NULL || c->ticket < oldest->ticket))
        oldest = c;
    return oldest;
}

/* All that one checkpoint serves get the same ticket. */
static unsigned take_wish(CoopClient *one)
{
    unsigned n = 0;
    EACH(c)
    {
        bool same =
            c == one || (c->wish == COOP_WISHED && one->scope == COOP_VM && c->scope == COOP_VM);
        if (!same)
            continue;
        c->wish = COOP_TAKEN;
        c->ticket = one->ticket;
        c->since_ms = now_ms();
        n++;
    }
    return n;
}

/* ---- answers to the host ---- */

static StasisFieldWriter *new_answer(uint64_t id, bool (*send)(const Answer *, uint16_t, uint8_t))
{
    answer.id = id;
    answer.send = send;
    answer.ended = false;
    answer.fields = (StasisFieldWriter){ answer.payload, 0, STASIS_AGENT_MAX_PAYLOAD, false };
    return &answer.fields;
}

/* Whoever may be told of a checkpoint, or hold it off by then: all but callers, who only wait. */
static unsigned count_standing(void)
{
    unsigned n = 0;
    EACH(c)
    n += c->wish == COOP_NO_WISH;
    return n;
}

static void answer_wait(int64_t now, bool (*send)(const Answer *, uint16_t, uint8_t))
{
    CoopClient *c = turn.step == IDLE ? oldest_wish() : NULL;
    if (c == NULL && now < turn.wait_end_ms)
        return;
    StasisFieldWriter *fields = new_answer(turn.wait_id, send);
    if (c != NULL) {
        stasis_field_put_number(fields, STASIS_AGENT_TAG_TICKET, c->ticket);
        static const char *const kinds[COOP_N_SCOPES] = { "process", "vm", "restore" };
        stasis_field_put_text(fields, STASIS_AGENT_TAG_KIND, kinds[c->scope]);
        stasis_field_put_text(fields, STASIS_AGENT_TAG_PATH, c->image);
        stasis_field_put_number(fields, STASIS_AGENT_TAG_PID, (uint64_t)c->pid);
        stasis_field_put_number(fields, STASIS_AGENT_TAG_N_CALLERS, take_wish(c));
    }
    stasis_field_put_number(fields, STASIS_AGENT_TAG_N_SUBSCRIBED, count_standing());
    stasis_field_put_number(fields, STASIS_AGENT_TAG_N_ENDED, turn.n_ended);
    answer_end(&answer);
    turn.waiting = false;
    turn.served_ms = now;
}

bool coop_wait_wish(uint64_t id, unsigned timeout_ms)
{
    if (turn.waiting)
        return false;
    turn.waiting = true;
    turn.wait_id = id;
    turn.wait_end_ms = now_ms() + timeout_ms;
    return true;
}

/* ---- begin ---- */

static bool is_concerned(const CoopClient *c)
{
    for (unsigned i = 0; i < turn.n_pids; i++)
        if (turn.pids[i] == c->pid)
            return true;
    return turn.n_pids == 0;
}

void coop_hold(CoopClient *c, int64_t ms)
{
    c->hold_ms = ms > 0 && ms < MAX_HOLD_MS ? (unsigned)ms : MAX_HOLD_MS;
    bool now = turn.step == IDLE;
    c->holds = now;
    c->wants_to_hold = !now;
    c->hold_end_ms = now_ms() + (now ? c->hold_ms : HOLD_WAIT_MS);
    if (now)
        coop_tell(c, STASIS_GUEST_RESULT, 0);
}

static void grant_holds(int64_t now, bool all)
{
    EACH(c)
    {
        if (!c->wants_to_hold || !(all || now >= c->hold_end_ms))
            continue;
        c->wants_to_hold = false;
        c->holds = true;
        c->hold_end_ms = now + c->hold_ms;
        coop_tell(c, STASIS_GUEST_RESULT, 0);
    }
}

static void end_turn(StasisGuestWhat what, int64_t value)
{
    turn.step = IDLE;
    EACH(c)
    {
        bool told = c->told;
        c->told = c->cycle_wanted = false;
        if (told || (what == STASIS_GUEST_RESUMED && c->subscribed))
            coop_tell(c, what, value);
    }
    grant_holds(now_ms(), true);
}

bool coop_begin(uint64_t id, const pid_t *pids, unsigned n_pids, const char *by, bool at_cycle_end,
                unsigned timeout_ms, bool held)
{
    if (turn.step == BEGUN && turn.orphan)
        end_turn(STASIS_GUEST_AFTER, -ECANCELED);
    if (turn.step != IDLE)
        return false;
    turn.step = HOLDING;
    turn.step_end_ms = now_ms() + MAX_HOLD_MS; /* others may have theirs meanwhile, for ever */
    turn.begin_id = id;
    snprintf(turn.by, sizeof turn.by, "%s", by);
    turn.at_cycle_end = at_cycle_end;
    turn.held = held;
    turn.orphan = false;
    turn.timeout_ms = timeout_ms;
    turn.n_told = turn.n_late = turn.n_cycles = turn.n_cycles_late = 0;
    memcpy(turn.pids, pids, n_pids * sizeof *pids);
    turn.n_pids = n_pids;
    if (!held) { /* … which no END of wishes follows */
        turn.n_until += turn.n_missed;
        turn.n_missed = 0;
    }
    return true;
}

static bool is_held(int64_t now)
{
    EACH(c)
    if (c->holds && now < c->hold_end_ms && is_concerned(c))
        return true;
    return false;
}

static void tell_before(int64_t now)
{
    EACH(c)
    {
        if (!c->subscribed || !is_concerned(c))
            continue;
        c->told = true;
        c->ready = false;
        turn.n_told++;
        coop_tell(c, STASIS_GUEST_BEFORE, 0);
    }
    turn.step = TELLING;
    turn.step_end_ms = now + READY_LIMIT_MS;
}

static unsigned count_unready(void)
{
    unsigned n = 0;
    EACH(c)
    n += c->told && !c->ready;
    return n;
}

static void want_cycles(int64_t now)
{
    EACH(c)
    {
        if (!c->cycles || !turn.at_cycle_end || !is_concerned(c))
            continue;
        c->cycle_wanted = true;
        turn.n_cycles++;
        coop_tell(c, STASIS_GUEST_WANT_CYCLE, 0);
    }
    turn.step = CYCLING;
    turn.step_end_ms = now + turn.timeout_ms;
}

static unsigned count_unfinished_cycles(void)
{
    unsigned n = 0;
    EACH(c)
    n += c->cycle_wanted;
    return n;
}

static void answer_begin(int64_t now, bool (*send)(const Answer *, uint16_t, uint8_t))
{
    StasisFieldWriter *fields = new_answer(turn.begin_id, send);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_N_SUBSCRIBED, turn.n_told);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_N_FAILED, turn.n_late);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_CYCLE, turn.n_cycles - turn.n_cycles_late);
    answer_end(&answer);
    turn.step = BEGUN;
    turn.step_end_ms = now + BEGUN_LIMIT_MS;
}

/* ---- end ---- */

void coop_missed(int64_t n)
{
    if (n <= 0)
        return;
    turn.n_missed += n < UINT32_MAX ? (uint64_t)n : UINT32_MAX;
    turn.counts = true;
}

bool coop_count_missed(uint64_t *ret_meanwhile, uint64_t *ret_before)
{
    *ret_meanwhile = turn.n_meanwhile;
    *ret_before = turn.n_before;
    return turn.counts;
}

/* One that has not begun tells of none: those of before it are for the next. */
static void count_missed(void)
{
    bool begun = turn.step == BEGUN && !turn.held;
    turn.n_meanwhile = begun ? turn.n_missed : 0;
    turn.n_before = begun ? turn.n_until : 0;
    if (begun)
        turn.n_missed = turn.n_until = 0;
}

unsigned coop_end(uint64_t ticket, int64_t result, const char *image)
{
    unsigned n = 0;
    count_missed();
    turn.n_ended++;
    turn.served_ms = now_ms();
    EACH(c)
    {
        if (c->wish != COOP_TAKEN || c->ticket != ticket)
            continue;
        n++;
        snprintf(c->image, sizeof c->image, "%s", image);
        finish_wish(c, result);
    }
    /* Of a restore nobody was told before. */
    if (turn.step == BEGUN)
        end_turn(STASIS_GUEST_AFTER, result < 0 ? result : 0);
    return n;
}

void coop_left(const char *by)
{
    if (turn.step != BEGUN || turn.held || strcmp(by, turn.by) != 0)
        return;
    /* For the next server, or until it is seen that there is none. */
    EACH(c)
    if (c->wish == COOP_TAKEN)
        c->wish = COOP_WISHED;
    turn.served_ms = now_ms();
    end_turn(STASIS_GUEST_AFTER, -ECANCELED);
}

void coop_end_held(int64_t result)
{
    if (turn.step == BEGUN && turn.held)
        end_turn(STASIS_GUEST_AFTER, result);
}

void coop_resumed(void)
{
    turn.waiting = false;
    EACH(c)
    {
        if (c->wish == COOP_NO_WISH)
            continue;
        coop_tell(c, STASIS_GUEST_RESUMED, 0);
        if (c->fd >= 0)
            coop_close(c);
    }
    end_turn(STASIS_GUEST_RESUMED, 0);
}

void coop_served_by(const char *server, uint64_t n_ended)
{
    bool same = strcmp(server, turn.server) == 0;
    turn.served_ms = now_ms();
    snprintf(turn.server, sizeof turn.server, "%s", server);
    if (same && n_ended > turn.n_ended)
        coop_resumed();
    /* The host may have died between END and counting it: it learns our number by the answer. */
    if (!same || n_ended > turn.n_ended)
        turn.n_ended = n_ended;
    /* Who asks for wishes is about none: it has never heard of these, or has died over them. */
    EACH(c)
    if (c->wish == COOP_TAKEN)
        c->wish = COOP_WISHED;
    if (turn.step == BEGUN)
        end_turn(STASIS_GUEST_AFTER, -ECANCELED);
}

void coop_forget_requests(void)
{
    turn.waiting = false;
    if (turn.step != IDLE && turn.step != BEGUN)
        end_turn(STASIS_GUEST_AFTER, -ECANCELED);
    /* Not at once: this may be a fork of the VM, whose next request is to freeze processes, and
     * nothing is to be said to those. */
    if (turn.step == BEGUN && turn.held && !turn.orphan) {
        turn.orphan = true;
        turn.step_end_ms = now_ms() + ORPHAN_MS;
    }
}

/* ---- time ---- */

static bool is_step_done(int64_t now)
{
    switch (turn.step) {
    case HOLDING:
        return !is_held(now) || now >= turn.step_end_ms;
    case TELLING:
        return count_unready() == 0 || now >= turn.step_end_ms;
    case CYCLING:
        return count_unfinished_cycles() == 0 || now >= turn.step_end_ms;
    default:
        return turn.step == BEGUN && now >= turn.step_end_ms;
    }
}

static void step_on(int64_t now, bool (*send)(const Answer *, uint16_t, uint8_t))
{
    switch (turn.step) {
    case HOLDING:
        tell_before(now);
        break;
    case TELLING:
        turn.n_late = count_unready();
        want_cycles(now);
        break;
    case CYCLING:
        turn.n_cycles_late = count_unfinished_cycles();
        answer_begin(now, send);
        break;
    default:
        end_turn(STASIS_GUEST_AFTER, turn.orphan ? -ECANCELED : -ETIMEDOUT);
    }
}

void coop_turn(bool (*send)(const Answer *, uint16_t, uint8_t), bool (*can_send)(void))
{
    int64_t now = now_ms();
    limit_wishes(now);
    grant_holds(now, false);
    while (is_step_done(now) && (turn.step != CYCLING || can_send()))
        step_on(now, send);
    /* Not to a host that has gone: what it has not heard of is not taken. */
    if (turn.waiting && can_send())
        answer_wait(now, send);
}

static int sooner(int64_t at_ms, int64_t now, int otherwise)
{
    int64_t left = at_ms > now ? at_ms - now : 0;
    return left < otherwise ? (int)left : otherwise;
}

/* Limits of seconds are looked at once a second anyway. */
int coop_wait_ms(int otherwise, bool can_send)
{
    int64_t now = now_ms();
    if (turn.waiting && can_send)
        otherwise = sooner(turn.wait_end_ms, now, otherwise);
    if (turn.step == HOLDING || turn.step == TELLING || (turn.step == CYCLING && can_send))
        otherwise = sooner(turn.step_end_ms, now, otherwise);
    EACH(c)
    if (c->wants_to_hold || (c->holds && turn.step == HOLDING && now < c->hold_end_ms))
        otherwise = sooner(c->hold_end_ms, now, otherwise);
    return otherwise;
}
