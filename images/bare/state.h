/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bare-metal guest's state page: what a host tool may read from guest-physical address
 * GUEST_STATE_GPA of a running, stopped or saved guest. Needs no library; little
 * endian; tests/lib/guests.py (class State) holds the same layout for Python.
 *
 * The work: the set has `pages` pages; page p lies at base + p * stride. In round n = 1, 2, 3 …
 * every page is visited once, in an order that is the same in each round. A visit is two stores:
 * n into the word at offset 0 of the page, then n into the word at offset `second_word`. The word
 * at offset 8 holds GUEST_PAGE_TAG ^ gpa for ever. So in an image that is an instant, with k the
 * number of visits finished in the present round n,
 *
 *      the first k pages of the order hold n, all later ones n - 1, and only page k of the
 *      order may be between its two stores (first word n, second word n - 1).
 *
 * `stores` is written after each batch of at most `batch` visits, in one store, so that the image
 * of this page and the set agree: with S the number of visits finished since the start,
 * stores <= S <= stores + batch; n = S / pages + 1 and k = S % pages.
 *
 * Orders:  seq     page p is visited as number p; stride is 4096.
 *          sparse  the same; stride is 64 * 4096.
 *          random  the pages order(0), order(1) … order(2^b - 1), less those >= pages, where 2^b
 *                  is the least power of two >= pages (b >= 1) and order() is guest_order() below.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define GUEST_STATE_GPA 0x400000ul
#define GUEST_STATE_MAGIC "STASISGUEST1"
#define GUEST_STATE_VERSION 1
#define GUEST_FRAME_MAGIC "STASIS-N" /* of a frame (send=), at offset 14; number and TSC follow */
#define GUEST_PAGE_TAG 0x5354415349530000ul
#define GUEST_HIST 24
#define GUEST_RANGES 8
#define GUEST_MISSES 64

enum { GUEST_SEQ, GUEST_RANDOM, GUEST_SPARSE };
enum { GUEST_BOOTING, GUEST_FILLING, GUEST_RUNNING, GUEST_FAILED };
/* panic: told by pvpanic's port; hang: "jmp ." for ever; line: "DRIVER FAILED" on the console, and
 * the work goes on; watchdog: it arms an ib700 that barks at once, and hangs; off: it powers the
 * machine off, reset: resets it, by the PIIX's ports. */
enum {
    GUEST_FAIL_NONE,
    GUEST_FAIL_PANIC,
    GUEST_FAIL_HANG,
    GUEST_FAIL_LINE,
    GUEST_FAIL_WATCHDOG,
    GUEST_FAIL_OFF,
    GUEST_FAIL_RESET,
};
enum { GUEST_FILL_ZERO, GUEST_FILL_TEXT, GUEST_FILL_RANDOM };

/* Deadlines missed at one time; durations are ticks of the TSC. */
typedef struct {
    uint64_t tsc;     /* when it was seen: the end of the cycle, or of its slack */
    uint64_t n;       /* deadlines: 1, or the periods that went by */
    uint64_t late;    /* behind the deadline */
    uint64_t worst;   /* longest gap of that cycle, */
    uint64_t stalled; /* … and all gaps of 1 µs or more, together */
} GuestMiss;

typedef struct {
    char magic[16];   /* 0x000  GUEST_STATE_MAGIC, zero-padded */
    uint64_t version; /* 0x010 */
    uint64_t size;    /* 0x018  of this struct */
    uint64_t phase;   /* 0x020  GUEST_BOOTING … */

    /* The set, fixed from GUEST_RUNNING on. */
    uint64_t pattern;     /* 0x028  GUEST_SEQ … */
    uint64_t base;        /* 0x030  gpa of page 0 */
    uint64_t pages;       /* 0x038 */
    uint64_t stride;      /* 0x040  bytes from one page to the next */
    uint64_t second_word; /* 0x048  offset in the page */
    uint64_t batch;       /* 0x050 */
    uint64_t rate;        /* 0x058  visits per ms, 0 = as fast as it can */
    uint64_t fill;        /* 0x060  GUEST_FILL_ZERO …, of set and touched RAM alike */
    uint64_t touched;     /* 0x068  bytes of further RAM filled */
    uint64_t tsc_khz;     /* 0x070 */

    /* How far it is. */
    uint64_t stores; /* 0x078  visits finished */
    uint64_t round;  /* 0x080  for people: stores says it exactly */
    uint64_t index;  /* 0x088  likewise */
    uint64_t tsc;    /* 0x090  time stamp of the last batch */

    /* What was found wrong: never reset. */
    uint64_t torn;     /* 0x098  pages of the set that did not hold the previous round's number */
    uint64_t cold_bad; /* 0x0a0  touched pages whose content had changed */
    uint64_t cold_checked; /* 0x0a8  touched pages looked at */

    /* Stalls: gaps between consecutive steps of the loop, since the last reset. Port I/O, which
     * leaves the guest by itself, is counted apart. Gaps below 1 µs are not seen as stalls. */
    uint64_t worst_ticks;           /* 0x0b0 */
    uint64_t worst_ns;              /* 0x0b8 */
    uint64_t worst_io_ticks;        /* 0x0c0 */
    uint64_t worst_io_ns;           /* 0x0c8 */
    uint64_t stalled_ticks;         /* 0x0d0  sum of all gaps of 1 µs or more */
    uint64_t missed;                /* 0x0d8  deadlines missed (period=) */
    uint64_t tsc_backwards;         /* 0x0e0  times the TSC was behind its last value */
    uint64_t reset;                 /* 0x0e8  the host stores 1; the guest resets and stores 0 */
    uint64_t resets;                /* 0x0f0  resets done */
    uint64_t period_us;             /* 0x0f8 */
    uint64_t histogram[GUEST_HIST]; /* 0x100  [b]: gaps of 2^b to 2^(b+1) µs; the last: all more */

    uint64_t touched_ranges;                 /* 0x1c0  used of the next, of which more than fit
                                                       are left out */
    uint64_t touched_range[GUEST_RANGES][2]; /* 0x1c8  gpa of start and end */

    uint64_t fail; /* 0x248  the host stores one of GUEST_FAIL_PANIC …: it happens within 1 ms; with
                              n << 8, n ms later */

    uint64_t cycles; /* 0x250  with period=: ends of cycles; what follows is slack until the next */

    uint64_t sent; /* 0x258  with send=: numbers of frames given to the network so far, or about to
                              be */

    uint64_t misses;              /* 0x260  noted so far; the last GUEST_MISSES are here: */
    GuestMiss miss[GUEST_MISSES]; /* 0x268  number n in miss[n % GUEST_MISSES] */
} GuestState;

_Static_assert(offsetof(GuestState, histogram) == 0x100, "layout is an interface");
_Static_assert(offsetof(GuestState, miss) == 0x1e8 + 16 * GUEST_RANGES, "layout is an interface");
_Static_assert(sizeof(GuestState) <= 4096, "it is a page");

/* The order of `random`: a bijection of the numbers of @bits bits, multiplication and xor-shift
 * by turns. Number 0 is not left in place. */
static inline uint64_t guest_order(uint64_t step, unsigned bits)
{
    uint64_t mask = ((uint64_t)1 << bits) - 1;
    unsigned shift = (bits + 1) / 2;
    uint64_t x = (step + 0x632be5ab) & mask;

    x = (x * 0x9e3779b97f4a7c15ul) & mask;
    x ^= x >> shift;
    x = (x * 0xd6e8feb86659fd93ul) & mask;
    x ^= x >> shift;
    return x;
}

/* Content of touched RAM (and of what the set does not use of its pages) with fill=random. */
static inline uint64_t guest_random_word(uint64_t gpa)
{
    uint64_t x = gpa * 0x9e3779b97f4a7c15ul;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ul;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebul;
    return x ^ (x >> 31);
}
