/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sending: a frame each send= µs by an rtl8139, the network interface that needs least to send
 * (Realtek's RTL8139C data sheet, chapter 5: a buffer's address, then its size, which starts it).
 *
 * The frame's number is in the state page before it is in a frame, so that who remembers the state
 * page remembers all that was sent.
 */
#include "guest.h"

#define PCI_ADDRESS 0xcf8
#define PCI_DATA 0xcfc
#define PCI_SLOTS 32u
#define RTL8139 0x813910ecu
#define IO_BASE 0xe00u /* one that ring 3 may use (boot.S), wherever firmware has put it */

#define REG_SIZE 0x10u   /* of buffer 0 to 3: four bytes each */
#define REG_BUFFER 0x20u /* likewise */
#define REG_COMMAND 0x37u
#define TRANSMIT 0x04u
#define N_BUFFERS 4u

typedef struct {
    uint8_t to[6], from[6];
    uint8_t type[2]; /* 0x88b5: for local experiments (IEEE 802) */
    char magic[8];   /* GUEST_FRAME_MAGIC */
    uint64_t number, tsc;
    uint8_t padding[22];
} __attribute__((packed)) Frame;

static Frame frames[N_BUFFERS] __attribute__((aligned(64)));

static uint32_t pci_read(uint32_t slot, uint32_t offset)
{
    outl(PCI_ADDRESS, 0x80000000u | slot << 11 | offset);
    return inl(PCI_DATA);
}

static void pci_write(uint32_t slot, uint32_t offset, uint32_t value)
{
    outl(PCI_ADDRESS, 0x80000000u | slot << 11 | offset);
    outl(PCI_DATA, value);
}

bool net_init(void)
{
    uint32_t slot = 0;

    while (slot < PCI_SLOTS && pci_read(slot, 0) != RTL8139)
        slot++;
    if (slot == PCI_SLOTS)
        return false;
    pci_write(slot, 0x10, IO_BASE);
    pci_write(slot, 0x04, pci_read(slot, 0x04) | 5); /* ports, and DMA */
    outb(IO_BASE + REG_COMMAND, TRANSMIT);
    return true;
}

void net_send(void)
{
    uint64_t number = ++state->sent;
    uint32_t i = (uint32_t)(number - 1) % N_BUFFERS;
    Frame *frame = &frames[i];

    *frame = (Frame){ .to = { 255, 255, 255, 255, 255, 255 },
                      .from = { 2, 0, 0, 0, 0, 1 },
                      .type = { 0x88, 0xb5 },
                      .magic = GUEST_FRAME_MAGIC,
                      .number = number,
                      .tsc = rdtsc() };
    __asm__ volatile("" : : : "memory");
    outl((uint16_t)(IO_BASE + REG_BUFFER + 4 * i), (uint32_t)(uintptr_t)frame);
    outl((uint16_t)(IO_BASE + REG_SIZE + 4 * i), sizeof(Frame));
}
