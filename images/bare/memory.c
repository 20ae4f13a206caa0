/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's RAM: where it is (the multiboot memory map), its mapping above 4 GiB, and what it is
 * filled with before the work begins.
 *
 * The filled ("touched") RAM is all free RAM below and above the set, in address order, up to the
 * size asked for; its content follows from its address, so that it can be verified at any time.
 * The guest's own memory, all below OWN_END, is never part of it.
 */
#include "guest.h"

#define OWN_END (8 * MIB)
#define MAX_RAM (64 * GIB)
#define MAX_RANGES 16
#define PTE_TABLE 0x67ul
#define PTE_LARGE 0xe7ul

#define MB_HAS_CMDLINE (1u << 2)
#define MB_HAS_MMAP (1u << 6)

typedef struct {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
    uint32_t mmap_length, mmap_addr;
} MultibootInfo;

typedef struct {
    uint32_t size; /* of what follows */
    uint64_t addr, len;
    uint32_t type; /* 1 = RAM */
} __attribute__((packed)) MultibootMmap;

extern uint64_t multiboot_info;
extern uint64_t page_dir_ptrs[512], page_dirs[64 * 512];

static Range ram[MAX_RANGES];
static size_t n_ram;
static Range touched[2 * MAX_RANGES];
static size_t n_touched;
static uint64_t n_touched_pages, verify_at; /* verify_at: the next page to verify, of those */
static char cmdline[1024];

static void add_ram(uint64_t start, uint64_t end)
{
    start = (start + PAGE - 1) & ~(PAGE - 1);
    end &= ~(PAGE - 1);
    if (start < OWN_END)
        start = OWN_END;
    if (end > MAX_RAM)
        end = MAX_RAM;
    if (start < end && n_ram < MAX_RANGES)
        ram[n_ram++] = (Range){ start, end };
}

/* The first 4 GiB are mapped already. A large page more than there is RAM does no harm. */
static void map_high(uint64_t end)
{
    for (uint64_t gib = 4; gib * GIB < end; gib++) {
        uint64_t *dir = page_dirs + gib * 512;

        for (uint64_t i = 0; i < 512; i++)
            dir[i] = (gib * GIB + i * 2 * MIB) | PTE_LARGE;
        __asm__ volatile("" ::: "memory");
        page_dir_ptrs[gib] = (uintptr_t)dir | PTE_TABLE;
    }
}

const char *memory_init(void)
{
    const MultibootInfo *info = (const MultibootInfo *)multiboot_info;
    uint64_t at = info->mmap_addr;

    if (info->flags & MB_HAS_CMDLINE) {
        const char *from = (const char *)(uintptr_t)info->cmdline;

        for (size_t i = 0; i + 1 < sizeof(cmdline) && from[i] != '\0'; i++)
            cmdline[i] = from[i];
    }
    while ((info->flags & MB_HAS_MMAP) && at < (uint64_t)info->mmap_addr + info->mmap_length) {
        const MultibootMmap *entry = (const MultibootMmap *)at;

        if (entry->type == 1)
            add_ram(entry->addr, entry->addr + entry->len);
        at += entry->size + sizeof(entry->size);
    }
    for (size_t i = 0; i < n_ram; i++)
        map_high(ram[i].end);
    return cmdline;
}

bool memory_is_free(uint64_t start, uint64_t end)
{
    for (size_t i = 0; i < n_ram; i++) {
        if (start >= ram[i].start && start < end && end <= ram[i].end)
            return true;
    }
    return false;
}

/* 64 bytes: a line of text that names its page and its place there. */
static void text_line(uint64_t gpa, uint64_t line[8])
{
    static const char words[] = "page 0000000000 offset 000: the quick brown fox comes back soon\n";
    char *text = (char *)line;
    uint64_t page = gpa / PAGE, offset = gpa % PAGE;

    _Static_assert(sizeof(words) == 65, "a line is a cache line");
    __builtin_memcpy(text, words, 64);
    for (int i = 14; page != 0; i--, page >>= 4)
        text[i] = "0123456789abcdef"[page & 15];
    for (int i = 25; offset != 0; i--, offset >>= 4)
        text[i] = "0123456789abcdef"[offset & 15];
}

static void fill_page(uint64_t gpa)
{
    uint64_t *word = (uint64_t *)gpa;

    for (size_t i = 0; i < PAGE / 8; i++) {
        if (options.fill == GUEST_FILL_TEXT && i % 8 == 0)
            text_line(gpa + i * 8, word + i);
        else if (options.fill == GUEST_FILL_RANDOM)
            word[i] = guest_random_word(gpa + i * 8);
        else if (options.fill == GUEST_FILL_ZERO)
            word[i] = 0;
    }
}

static bool page_is_filled(uint64_t gpa)
{
    const uint64_t *word = (const uint64_t *)gpa;
    uint64_t want[8] = { 0 }, differ = 0;

    for (size_t i = 0; i < PAGE / 8; i++) {
        if (options.fill == GUEST_FILL_TEXT && i % 8 == 0)
            text_line(gpa + i * 8, want);
        else if (options.fill == GUEST_FILL_RANDOM)
            want[i % 8] = guest_random_word(gpa + i * 8);
        differ |= word[i] ^ want[i % 8];
    }
    return differ == 0;
}

void memory_fill_set(void)
{
    for (uint64_t i = 0; i < state->pages; i++) {
        uint64_t gpa = state->base + i * state->stride;
        volatile uint64_t *word = (volatile uint64_t *)gpa;

        fill_page(gpa);
        word[0] = 0;
        word[1] = GUEST_PAGE_TAG ^ gpa;
        word[state->second_word / 8] = 0;
    }
}

static uint64_t touch_range(uint64_t start, uint64_t end, uint64_t left)
{
    if (start >= end || left == 0)
        return 0;
    if (end - start > left)
        end = start + left;
    for (uint64_t gpa = start; gpa < end; gpa += PAGE)
        fill_page(gpa);
    if (n_touched < GUEST_RANGES) {
        state->touched_range[n_touched][0] = start;
        state->touched_range[n_touched][1] = end;
        state->touched_ranges = n_touched + 1;
    }
    touched[n_touched++] = (Range){ start, end };
    n_touched_pages += (end - start) / PAGE;
    return end - start;
}

uint64_t memory_touch(uint64_t bytes)
{
    uint64_t set_start = state->base, set_end = set_start + state->pages * state->stride;
    uint64_t done = 0;

    bytes &= ~(PAGE - 1);
    for (size_t i = 0; i < n_ram; i++) {
        uint64_t low = ram[i].end < set_start ? ram[i].end : set_start;
        uint64_t high = ram[i].start > set_end ? ram[i].start : set_end;

        done += touch_range(ram[i].start, low, bytes - done);
        done += touch_range(high, ram[i].end, bytes - done);
    }
    return done;
}

uint64_t memory_touched_pages(void)
{
    return n_touched_pages;
}

static uint64_t nth_touched_page(uint64_t n)
{
    size_t i = 0;

    while (n >= (touched[i].end - touched[i].start) / PAGE) {
        n -= (touched[i].end - touched[i].start) / PAGE;
        i++;
    }
    return touched[i].start + n * PAGE;
}

uint64_t memory_verify(uint64_t n)
{
    uint64_t bad = 0;

    for (uint64_t i = 0; i < n && n_touched_pages > 0; i++) {
        uint64_t gpa = nth_touched_page(verify_at);

        if (!page_is_filled(gpa)) {
            bad++;
            state->cold_bad++;
            if (state->cold_bad <= 16)
                print("COLD page=0x%x has changed\n", gpa);
        }
        state->cold_checked++;
        verify_at = verify_at + 1 < n_touched_pages ? verify_at + 1 : 0;
        clock_step();
    }
    return bad;
}
