/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The work: an ever-rising number over the pages of the set (see state.h for the invariant), and
 * between batches of it what has to happen now and then (events()).
 *
 * round_of() is compiled once per pattern and check: the loop of each has no branch on either.
 */
#include "guest.h"

#define BATCH 16
#define EVENT_US 1000
#define COLD_PAGES 16 /* touched pages verified at each event, with check=1 */
#define TORN_LINES 16
#define CATCH_UP_US 20000
#define PVPANIC_PORT 0x505 /* QEMU's docs/specs/pvpanic */
#define PVPANIC_PANICKED 1
#define IB700_ENABLE 0x443 /* QEMU's hw/watchdog/wdt_ib700.c: 15 is a time of 0 s */
#define IB700_AT_ONCE 15
#define PM_CONTROL 0x604 /* of PIIX4, where qboot and SeaBIOS have put it */
#define PM_SOFT_OFF 0x2000
#define RESET_CONTROL 0xcf9
#define RESET_NOW 6

static uint64_t next_event, next_poll, next_report, next_send;
static uint64_t quantum, quantum_ticks, due, in_quantum; /* pacing; quantum 0: none */
static uint64_t begun_due;                               /* when the quantum under way was due */
static uint64_t last_event, event_ms = 1; /* between two of them at most: a nap, or EVENT_US */

static void status(void)
{
    print("round=%u stores=%u worst_us=%u worst_io_us=%u torn=%u cold_bad=%u cold_checked=%u "
          "stalled_us=%u missed=%u\n",
          state->stores / state->pages + 1, state->stores, state->worst_ns / 1000,
          state->worst_io_ns / 1000, state->torn, state->cold_bad, state->cold_checked,
          clock_ns(state->stalled_ticks) / 1000, state->missed);
}

static void reset(void)
{
    clock_reset();
    due = clock_last + quantum_ticks;
    begun_due = clock_last;
    state->reset = 0;
    print("RESET\n");
}

static void command(int byte)
{
    uint64_t bad;

    switch (byte) {
    case 'r':
        reset();
        break;
    case 's':
        status();
        break;
    case 'v':
        bad = memory_verify(memory_touched_pages());
        print("VERIFIED pages=%u bad=%u\n", memory_touched_pages(), bad);
        break;
    }
}

/* Interrupts are off but in a nap. The guest that has told of its panic does nothing more. */
static void fail(uint64_t how)
{
    state->fail = GUEST_FAIL_NONE;
    if (how == GUEST_FAIL_LINE) {
        print("DRIVER FAILED\n");
        return;
    }
    print("FAILING how=%u\n", how);
    console_flush();
    if (how == GUEST_FAIL_PANIC)
        outb(PVPANIC_PORT, PVPANIC_PANICKED);
    else if (how == GUEST_FAIL_WATCHDOG)
        outb(IB700_ENABLE, IB700_AT_ONCE);
    else if (how == GUEST_FAIL_OFF)
        outw(PM_CONTROL, PM_SOFT_OFF);
    else if (how == GUEST_FAIL_RESET)
        outb(RESET_CONTROL, RESET_NOW);
    for (;;)
        __asm__ volatile("");
}

/* Is it time for what was to be done at *next? Also when the TSC went back far. */
static bool is_due(uint64_t now, uint64_t *next, uint64_t interval_us)
{
    uint64_t interval = interval_us * clock_per_us;

    if (interval == 0 || (now < *next && *next - now <= interval))
        return false;
    *next = now + interval;
    return true;
}

/* Whole milliseconds since the last event, those of a nap at most. */
static uint64_t ms_passed(uint64_t now)
{
    uint64_t ms = now > last_event ? (now - last_event) / (1000 * clock_per_us) : 0;

    last_event = now;
    return ms < 1 ? 1 : ms < event_ms ? ms : event_ms;
}

static void __attribute__((noinline)) events(uint64_t now)
{
    uint64_t ms = ms_passed(now);

    next_event = now + EVENT_US * clock_per_us;
    state->round = state->stores / state->pages + 1;
    state->index = state->stores % state->pages;
    if (state->reset != 0)
        reset();
    if (state->fail >> 8 >= ms)
        state->fail -= ms << 8;
    else if (state->fail >> 8 != 0)
        state->fail &= 0xff;
    else if (state->fail != GUEST_FAIL_NONE)
        fail(state->fail);
    if (options.check)
        memory_verify(COLD_PAGES * ms);
    if (is_due(now, &next_send, options.send_us))
        net_send();
    if (is_due(now, &next_poll, options.poll_us))
        command(console_input());
    if (is_due(now, &next_report, options.report_ms * 1000))
        status();
    if (console_pending())
        console_pump();
}

static inline uint64_t step(void)
{
    uint64_t now = clock_step();

    if (__builtin_expect(now >= next_event || next_event - now > 2 * EVENT_US * clock_per_us, 0))
        events(now);
    state->tsc = now;
    return now;
}

static void note_miss(uint64_t now, uint64_t n, uint64_t late)
{
    if (n == 0)
        return;
    state->missed += n;
    state->miss[state->misses % GUEST_MISSES] =
        (GuestMiss){ now, n, late, clock_cycle_worst, clock_cycle_stalled };
    state->misses++;
}

/* Quanta are due one interval after the other. With period= a deadline that went by is missed, and
 * counted; with rate= up to CATCH_UP_US are made up for, so that the rate holds on average. */
static void allow_for_lateness(uint64_t late)
{
    if (options.period_us != 0) {
        note_miss(due + late, late / quantum_ticks, late);
        due += late / quantum_ticks * quantum_ticks;
    } else if (late > CATCH_UP_US * clock_per_us) {
        due += late;
    }
}

/* The work of one period is done, and there is slack until the next. */
static void end_cycle(uint64_t now)
{
    uint64_t limit = options.deadline_us * clock_per_us;

    if (limit != 0 && now > begun_due && now - begun_due > limit)
        note_miss(now, 1, now - begun_due - limit);
    state->cycles++;
}

/* After @n visits: wait until the next quantum may begin. */
static void __attribute__((noinline)) pace(uint64_t n)
{
    uint64_t now = clock_last;

    in_quantum += n;
    if (in_quantum < quantum)
        return;
    in_quantum -= quantum;
    end_cycle(now);
    if (due > now && due - now > 2 * quantum_ticks) /* the TSC went back */
        due = now;
    while (now < due) {
        if (options.idle_ms != 0)
            nap();
        else
            __asm__ volatile("pause");
        now = step();
    }
    allow_for_lateness(now - due);
    begun_due = due;
    due += quantum_ticks;
    clock_cycle_worst = clock_cycle_stalled = 0;
}

static void pace_init(void)
{
    if (options.period_us != 0) {
        quantum = options.work > 0 ? options.work : 1;
        quantum_ticks = options.period_us * clock_per_us;
    } else if (options.rate != 0) {
        quantum = options.rate < 16 * BATCH ? 1 : BATCH;
        quantum_ticks = quantum * state->tsc_khz / options.rate;
    }
    state->batch = quantum != 0 && quantum < BATCH ? quantum : BATCH;
    if (options.idle_ms != 0) {
        quantum = options.rate * options.idle_ms;
        quantum_ticks = options.idle_ms * state->tsc_khz;
        event_ms = options.idle_ms;
        nap_init(options.idle_ms);
    }
    if (quantum_ticks == 0)
        quantum = 0;
    begun_due = rdtsc();
    due = begun_due + quantum_ticks;
}

static void __attribute__((noinline))
torn(uint64_t page, uint64_t want, uint64_t first, uint64_t second, uint64_t tag)
{
    state->torn++;
    if (state->torn <= TORN_LINES)
        print("TORN page=%u want=%u got=%u second=%u tag=%s\n", page, want, first, second,
              tag == (GUEST_PAGE_TAG ^ (state->base + page * state->stride)) ? "ok" : "BAD");
}

static inline __attribute__((always_inline)) void visit(uint64_t page, uint64_t gpa, uint64_t n,
                                                        uint64_t second, bool check)
{
    volatile uint64_t *word = (volatile uint64_t *)gpa;

    if (check) {
        uint64_t a = word[0], tag = word[1], b = word[second];

        if (__builtin_expect((a ^ (n - 1)) | (b ^ (n - 1)) | (tag ^ GUEST_PAGE_TAG ^ gpa), 0))
            torn(page, n - 1, a, b, tag);
    }
    word[0] = n;
    word[second] = n;
}

static inline __attribute__((always_inline)) void round_of(uint64_t n, bool random, bool check)
{
    const uint64_t base = state->base, pages = state->pages, stride = state->stride;
    const uint64_t batch = state->batch, second = state->second_word / 8;
    const unsigned bits = pages > 2 ? 64u - (unsigned)__builtin_clzl(pages - 1) : 1;
    uint64_t turn = 0;

    for (uint64_t done = 0; done < pages;) {
        uint64_t end = done + batch < pages ? done + batch : pages, first = done;

        for (; done < end; done++) {
            uint64_t page = done;

            if (random) {
                do
                    page = guest_order(turn++, bits);
                while (page >= pages);
            }
            visit(page, base + page * stride, n, second, check);
        }
        state->stores = (n - 1) * pages + done;
        step();
        if (quantum != 0)
            pace(done - first);
    }
}

void work(void)
{
    bool random = state->pattern == GUEST_RANDOM;

    pace_init();
    clock_reset();
    state->resets = 0;
    next_event = next_poll = next_send = clock_last;
    next_report = clock_last + options.report_ms * 1000 * clock_per_us;
    for (uint64_t n = 1;; n++) {
        if (options.check && random)
            round_of(n, true, true);
        else if (options.check)
            round_of(n, false, true);
        else if (random)
            round_of(n, true, false);
        else
            round_of(n, false, false);
    }
}
