/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sleeping between visits (idle=), so that a guest that has little to do takes little of the host.
 *
 * The PIT's channel 0 ticks all the time, and the PIC, which ends each interrupt by itself, hands
 * that on to boot.S. Interrupts are on in a nap only: whatever tick came before ends it at once,
 * and one that is lost costs a period. So nothing here depends on where an image was taken.
 */
#include "guest.h"

#define PIT_PER_MS 1193ul
#define PIT_CONTROL 0x43
#define PIT_CHANNEL0 0x40
#define PIT_RATE 0x34 /* channel 0, low and high byte, mode 2 */
#define PIC 0x20
#define PIC_SECOND 0xa0
#define PIC_INIT 0x11 /* edges, two of them, a fourth word follows */
#define PIC_AUTO 0x03 /* 8086; ends interrupts by itself */
#define ONLY_TICKS 0xfe
#define APIC_SPURIOUS 0xfee000f0ul
#define APIC_ENABLED 0x1ff
#define APIC_LINT0 0xfee00350ul
#define APIC_PIC 0x700 /* hands on what the PIC has, as SeaBIOS leaves it, and qboot does not */

void nap_init(uint64_t ms)
{
    outb(PIC, PIC_INIT);
    outb(PIC + 1, NAP_VECTOR);
    outb(PIC + 1, 4); /* where the second one is */
    outb(PIC + 1, PIC_AUTO);
    outb(PIC + 1, ONLY_TICKS);
    outb(PIC_SECOND + 1, 0xff);
    *(volatile uint32_t *)APIC_SPURIOUS = APIC_ENABLED;
    *(volatile uint32_t *)APIC_LINT0 = APIC_PIC;
    outb(PIT_CONTROL, PIT_RATE);
    outb(PIT_CHANNEL0, (uint8_t)(ms * PIT_PER_MS));
    outb(PIT_CHANNEL0, (uint8_t)(ms * PIT_PER_MS >> 8));
}

/* No stall, however long it takes: the clock begins anew. */
uint64_t nap(void)
{
    __asm__ volatile("int $0x30" : : : "memory");
    return clock_last = rdtsc();
}
