/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program for guests that fails at random, some time after it could have been known:
 *
 *     racy STEP-MS ODDS LATER STEPS
 *
 * Each step it draws a byte; below ODDS (of 256) it is decided, and LATER steps on it dies of
 * SIGSEGV in crash_here(). After STEPS it ends well. Where it stands is also in a page of its
 * memory that begins with "RACY-STATE-PAGE.", then two numbers (u64): the step, and that of the
 * decision or 0. So an image tells by itself whether it is from before or after.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

static struct {
    char magic[16];
    volatile uint64_t step, decided;
} __attribute__((aligned(4096))) racy_state;

/* So that the words are nowhere else in memory: not in the program's file, which the page cache
 * has. */
static void write_magic(void)
{
    static const volatile char turned[] =
        "\161\142\140\172\016\160\167\142\167\146\016\163\142\144\146\015";
    for (unsigned i = 0; i < 16; i++)
        racy_state.magic[i] = (char)(turned[i] ^ 0x23);
}

__attribute__((noinline)) static void crash_here(void)
{
    volatile int *volatile nowhere = NULL;
    *nowhere = 1;
}

/* Busy, not asleep: whoever stops the VM finds it here. */
__attribute__((noinline)) static void spin_here(unsigned ms)
{
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (volatile unsigned i = 0; i < 20000; i++)
            ;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 <
             (long)ms);
}

int main(int argc, char **argv)
{
    unsigned char byte;
    if (argc != 5)
        return 2;
    unsigned step_ms = (unsigned)atoi(argv[1]), odds = (unsigned)atoi(argv[2]);
    unsigned later = (unsigned)atoi(argv[3]), steps = (unsigned)atoi(argv[4]);
    write_magic();
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (racy_state.step = 1; racy_state.step <= steps; racy_state.step++) {
        spin_here(step_ms);
        if (racy_state.decided == 0 && getrandom(&byte, 1, 0) == 1 && byte < odds) {
            racy_state.decided = racy_state.step;
            printf("DECIDED %u\n", (unsigned)racy_state.step);
        }
        if (racy_state.decided != 0 && racy_state.step >= racy_state.decided + later)
            crash_here();
    }
    puts("DONE");
    return 0;
}
