/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Time by the TSC: its frequency, and the guest's own stalls.
 *
 * A stall is a gap between two steps of the work loop (clock_step). Nothing in the guest takes
 * longer than a fraction of a microsecond between two steps, so that what is longer was done to
 * it: preemption, a fault taken on its behalf, a stop of the machine. Port I/O leaves the guest
 * and takes microseconds by itself: gaps around it are kept apart, not hidden.
 */
#include "guest.h"

#define PIT_HZ 1193182ul
#define PIT_CONTROL 0x43
#define PIT_CHANNEL2 0x42
#define SPEAKER 0x61 /* bit 0: gate of channel 2, bit 1: the speaker itself, bit 5: its output */
#define OUTPUT 0x20

uint64_t clock_last;
uint64_t clock_cycle_worst, clock_cycle_stalled;
uint64_t clock_per_us = ~0ul; /* no gap is a stall before clock_init */

static uint64_t io_start;

/* A moment as both clocks see it: the tightest of several readings, since the host may take the
 * CPU away in the middle of one. */
static void read_both(uint64_t *ret_tsc, uint64_t *ret_pit)
{
    uint64_t best = ~0ul;

    for (int i = 0; i < 8; i++) {
        uint64_t before = rdtsc(), after, count;

        outb(PIT_CONTROL, 0x80); /* latch channel 2 */
        after = rdtsc();
        count = inb(PIT_CHANNEL2);
        count |= (uint64_t)inb(PIT_CHANNEL2) << 8;
        if (after - before < best) {
            best = after - before;
            *ret_tsc = before + best / 2;
            *ret_pit = count;
        }
    }
}

/* Count channel 2 of the PIT down from 65535 (55 ms) and compare over about 25 ms. */
static uint64_t measure_khz(void)
{
    uint64_t tsc0, pit0, tsc1, pit1;

    outb(SPEAKER, (inb(SPEAKER) & ~3) | 1);
    outb(PIT_CONTROL, 0xb0); /* channel 2, low and high byte, mode 0 */
    outb(PIT_CHANNEL2, 0xff);
    outb(PIT_CHANNEL2, 0xff);
    read_both(&tsc0, &pit0);
    do {
        for (int i = 0; i < 20000; i++)
            __asm__ volatile("pause");
        read_both(&tsc1, &pit1);
        if (inb(SPEAKER) & OUTPUT) /* it ran out, and began anew: the host was away for long */
            return 0;
    } while (pit0 - pit1 < PIT_HZ / 40);
    return (tsc1 - tsc0) * PIT_HZ / (pit0 - pit1) / 1000;
}

void clock_init(void)
{
    uint64_t khz = options.tsc_khz;

    for (int i = 0; i < 100 && khz == 0; i++)
        khz = measure_khz();
    if (khz < 1000) {
        print("ERROR TSC frequency not measurable: pass tsc_khz=\n");
        khz = 1000000;
    }
    state->tsc_khz = khz;
    clock_per_us = khz / 1000;
    clock_last = rdtsc();
}

uint64_t clock_ns(uint64_t ticks)
{
    uint64_t khz = state->tsc_khz;

    if (khz == 0) /* not known yet */
        return 0;
    return ticks / khz * 1000000 + ticks % khz * 1000000 / khz;
}

void clock_gap(uint64_t gap)
{
    unsigned bucket;

    if (gap >> 63) {
        state->tsc_backwards++;
        return;
    }
    bucket = 63u - (unsigned)__builtin_clzl(gap / clock_per_us | 1);
    state->histogram[bucket < GUEST_HIST ? bucket : GUEST_HIST - 1]++;
    state->stalled_ticks += gap;
    clock_cycle_stalled += gap;
    if (gap > clock_cycle_worst)
        clock_cycle_worst = gap;
    if (gap > state->worst_ticks) {
        state->worst_ticks = gap;
        state->worst_ns = clock_ns(gap);
    }
}

void clock_io_begin(void)
{
    clock_step();
    io_start = clock_last;
}

void clock_io_end(void)
{
    uint64_t gap;

    clock_last = rdtsc();
    gap = clock_last - io_start;
    if (gap >> 63) {
        state->tsc_backwards++;
    } else if (gap > state->worst_io_ticks) {
        state->worst_io_ticks = gap;
        state->worst_io_ns = clock_ns(gap);
    }
}

void clock_reset(void)
{
    for (int i = 0; i < GUEST_HIST; i++)
        state->histogram[i] = 0;
    state->worst_ticks = state->worst_ns = 0;
    state->worst_io_ticks = state->worst_io_ns = 0;
    state->stalled_ticks = 0;
    state->missed = 0;
    state->resets++;
    clock_last = rdtsc();
}
