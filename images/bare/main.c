/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bare-metal guest: set up, say START, work. What it is for and what its parameters mean is in
 * images/README.md; what it keeps true in memory is in state.h.
 */
#include "guest.h"

/* The compiler may call these even in freestanding code. */
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);

void *memcpy(void *to, const void *from, size_t n)
{
    void *ret = to;

    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return ret;
}

void *memset(void *to, int byte, size_t n)
{
    void *ret = to;

    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return ret;
}

/* Runs in ring 0, on an exception: there is no way on from here. */
void guest_fault(uint64_t vector, uint64_t a, uint64_t b, uint64_t address)
{
    state->phase = GUEST_FAILED;
    print("FAULT vector=%u stack=0x%x,0x%x cr2=0x%x\n", vector, a, b, address);
    console_flush();
}

static void __attribute__((noreturn)) fail(const char *why)
{
    print("ERROR %s\n", why);
    state->phase = GUEST_FAILED;
    console_flush();
    for (;;)
        __asm__ volatile("pause");
}

/* An empty state page, but one that can be known as such: also what goes wrong next shows there. */
static void introduce(void)
{
    memset((void *)GUEST_STATE_GPA, 0, PAGE);
    state->version = GUEST_STATE_VERSION;
    state->size = sizeof(GuestState);
    for (size_t i = 0; i < sizeof(GUEST_STATE_MAGIC); i++)
        state->magic[i] = GUEST_STATE_MAGIC[i];
}

static void describe(void)
{
    state->pattern = options.pattern;
    state->base = options.base;
    state->pages = options.set_bytes / PAGE;
    state->stride = options.pattern == GUEST_SPARSE ? 64 * PAGE : PAGE;
    state->second_word = PAGE - 8;
    state->rate = options.rate;
    state->fill = options.fill;
    state->period_us = options.period_us;
}

void guest_main(void)
{
    static const char *const patterns[] = { "seq", "random", "sparse" };
    static const char *const fills[] = { "zero", "text", "random" };
    const char *cmdline;

    introduce();
    console_init();
    cmdline = memory_init();
    if (!options_parse(cmdline))
        fail("bad parameters");
    if (options.base % PAGE != 0 || options.set_bytes < PAGE)
        fail("base= must be a multiple of 4K, and set= at least 4K");
    describe();
    if (!memory_is_free(state->base, state->base + state->pages * state->stride))
        fail("the set does not lie in one piece of RAM above 8M: see set=, base=, pattern=");

    if (options.idle_ms > 50 ||
        (options.idle_ms != 0 && (options.rate == 0 || options.period_us != 0)))
        fail("idle= is 50 at most, needs rate=, and knows no period=");
    if (options.send_us != 0 && !net_init())
        fail("send= needs an rtl8139 on PCI bus 0");

    state->phase = GUEST_FILLING;
    memory_fill_set();
    state->touched = memory_touch(options.touch_bytes);
    clock_init();
    print("START pattern=%s base=0x%x pages=%u stride=%u rate=%u touched=%u fill=%s check=%u "
          "period_us=%u tsc_khz=%u\n",
          patterns[state->pattern], state->base, state->pages, state->stride, state->rate,
          state->touched, fills[state->fill], (uint64_t)options.check, state->period_us,
          state->tsc_khz);
    console_flush();
    state->phase = GUEST_RUNNING;
    work();
}
