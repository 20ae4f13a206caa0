/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the bare-metal guest share. One CPU, and no interrupt but the one that ends a
 * nap: no locks anywhere. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include "state.h"

#define PAGE 4096ul
#define MIB (1ul << 20)
#define GIB (1ul << 30)

#define state ((volatile GuestState *)GUEST_STATE_GPA)

/* options.c: the words of -append, and what their absence means. */
typedef struct {
    uint64_t set_bytes;   /* set=32M */
    uint64_t base;        /* base=16M */
    uint64_t pattern;     /* pattern=seq|random|sparse */
    uint64_t rate;        /* rate=0: visits per ms */
    uint64_t touch_bytes; /* touch=0 */
    uint64_t fill;        /* fill=text|random|zero */
    uint64_t period_us;   /* period=0 */
    uint64_t work;        /* work=64: visits in each period */
    uint64_t deadline_us; /* deadline=0: for them */
    uint64_t report_ms;   /* report=1000, 0 = no lines of itself */
    uint64_t poll_us;     /* poll=1000: look at COM1's input, 0 = never */
    uint64_t tsc_khz;     /* tsc_khz=0: measure it */
    uint64_t send_us;     /* send=0: none */
    uint64_t idle_ms;     /* idle=0: with rate=, sleep for so long while no visit is due; 0: turn */
    bool check;           /* check=0 */
} Options;

extern Options options;
/* False with the word it could not read printed. */
bool options_parse(const char *text);

/* memory.c */
typedef struct {
    uint64_t start, end;
} Range;

/* Take memory map and command line out of the multiboot information and map all RAM. */
const char *memory_init(void);
/* Is [start, end) RAM, and not the guest's own? */
bool memory_is_free(uint64_t start, uint64_t end);
void memory_fill_set(void);
/* Fill @bytes of RAM that is neither the guest's own nor the set's; returns how many there were. */
uint64_t memory_touch(uint64_t bytes);
/* Check the next @n touched pages, going round; reports each bad one. */
uint64_t memory_verify(uint64_t n);
uint64_t memory_touched_pages(void);

/* console.c: lines go to a buffer, and from there to port 0xe9 and COM1 a little at a time. */
void console_init(void);
void print(const char *format, ...); /* %s, %u (uint64_t), %x (uint64_t) and nothing else */
bool console_pending(void);
void console_pump(void);  /* some bytes */
void console_flush(void); /* all of them */
int console_input(void);  /* a byte, or -1 */

/* net.c: an rtl8139. False: there is none. */
bool net_init(void);
void net_send(void); /* the next number */

/* clock.c */
static inline uint64_t rdtsc(void)
{
    uint32_t lo, hi;

    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (uint64_t)hi << 32 | lo;
}

extern uint64_t clock_last;   /* time stamp of the last step */
extern uint64_t clock_per_us; /* ticks */
/* Since the cycle began (work.c): the longest gap of 1 µs or more, and all of them. */
extern uint64_t clock_cycle_worst, clock_cycle_stalled;
void clock_init(void);
void clock_gap(uint64_t gap); /* a gap that may be a stall */
void clock_io_begin(void);    /* around port I/O */
void clock_io_end(void);
void clock_reset(void);
uint64_t clock_ns(uint64_t ticks);

/* One step of the loop: what the TSC says now, the gap since the last step accounted for. A TSC
 * that went back (an older state was loaded) makes a gap with the top bit set. */
static inline uint64_t clock_step(void)
{
    uint64_t now = rdtsc(), gap = now - clock_last;

    clock_last = now;
    if (__builtin_expect(gap > clock_per_us, 0))
        clock_gap(gap);
    return now;
}

/* nap.c */
#define NAP_VECTOR 0x20
/* Ticks each @ms, 50 at most, from now on. */
void nap_init(uint64_t ms);
/* Sleep until the next tick; the TSC then. */
uint64_t nap(void);

/* work.c: never returns. */
void work(void) __attribute__((noreturn));

static inline void outw(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}
static inline uint8_t inb(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline void outl(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}
static inline uint32_t inl(uint16_t port)
{
    uint32_t value;

    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline void outsb(uint16_t port, const char *bytes, size_t n)
{
    __asm__ volatile("rep outsb" : "+S"(bytes), "+c"(n) : "d"(port) : "memory");
}

void guest_main(void) __attribute__((noreturn));
void guest_fault(uint64_t vector, uint64_t a, uint64_t b, uint64_t address);
