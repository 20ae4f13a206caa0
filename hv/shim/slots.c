/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * KVM's memory slots as QEMU makes them, and what becomes of them on the way to KVM: the address is
 * that of the range's second mapping, and LOG_DIRTY_PAGES is set as long as our log is on.
 *
 * Towards QEMU each slot behaves as it would without us: its log is there when QEMU turned it on,
 * begins as KVM's would begin, and loses nothing to the monitor. A slot that shows no range is none
 * of our business.
 */
#include <errno.h>
#include <string.h>

#include "shim/shim.h"

struct shim_slot *shim_slot_find(uint32_t id)
{
    for (unsigned i = 0; i < shim.end_slots; i++)
        if (shim.slots[i].used && shim.slots[i].id == id)
            return &shim.slots[i];
    return NULL;
}

static bool wants_log(const struct shim_slot *slot)
{
    return (slot->qemu_flags & KVM_MEM_LOG_DIRTY_PAGES) != 0;
}

static void forget(struct shim_slot *slot)
{
    shim_free(slot->for_qemu, shim_words(slot->n_pages) * 8);
    slot->range->n_slots--;
    shim.n_slots--;
    *slot = (struct shim_slot){ 0 };
}

/* Room for a bitmap of a slot in the scratch area. */
static bool reserve(uint64_t n_words)
{
    if (n_words <= shim.scratch_words)
        return true;
    uint64_t *scratch = shim_alloc(n_words * 8);
    if (scratch == NULL)
        return false;
    shim_free(shim.scratch, shim.scratch_words * 8);
    shim.scratch = scratch;
    shim.scratch_words = n_words;
    return true;
}

/* A free entry for a slot of this size, or NULL. */
static struct shim_slot *prepare(const struct kvm_userspace_memory_region *region)
{
    uint64_t words = shim_words(region->memory_size / SHIM_PAGE);
    for (unsigned i = 0; i < SHIM_MAX_SLOTS; i++) {
        struct shim_slot *slot = &shim.slots[i];
        if (slot->used)
            continue;
        slot->for_qemu = reserve(words) ? shim_alloc(words * 8) : NULL;
        return slot->for_qemu != NULL ? slot : NULL;
    }
    return NULL;
}

/* The two requests begin alike; the second is longer. */
union region {
    struct kvm_userspace_memory_region head;
    unsigned char bytes[256];
};

static int ask(int fd, unsigned long request, const void *arg, uint64_t address, bool with_log)
{
    union region copy;
    memcpy(copy.bytes, arg, _IOC_SIZE(request));
    copy.head.userspace_addr = address;
    if (with_log)
        copy.head.flags |= KVM_MEM_LOG_DIRTY_PAGES;
    return shim_kernel(fd, request, copy.bytes);
}

static int hand_on(int fd, unsigned long request, const struct kvm_userspace_memory_region *region)
{
    if ((region->flags & KVM_MEM_LOG_DIRTY_PAGES) != 0)
        shim.foreign_logs = true;
    return shim_kernel(fd, request, (void *)region);
}

static int make(int fd, unsigned long request, const struct kvm_userspace_memory_region *region)
{
    bool whole = region->userspace_addr % SHIM_PAGE == 0 && region->memory_size % SHIM_PAGE == 0;
    /* Of the flags only these two are ours to understand. */
    bool known = (region->flags & ~(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY)) == 0;
    struct shim_range *range =
        whole && known ? shim_range_for(region->userspace_addr, region->memory_size) : NULL;
    struct shim_slot *slot = range != NULL ? prepare(region) : NULL;
    if (slot == NULL)
        return hand_on(fd, request, region);
    uint64_t offset = region->userspace_addr - range->address;
    int r = ask(fd, request, region, range->view + offset, shim.logging);
    if (r < 0) {
        shim_free(slot->for_qemu, shim_words(region->memory_size / SHIM_PAGE) * 8);
        *slot = (struct shim_slot){ 0 };
        return hand_on(fd, request, region);
    }
    uint64_t *for_qemu = slot->for_qemu;
    *slot = (struct shim_slot){ .used = true,
                                .id = region->slot,
                                .qemu_flags = region->flags,
                                .gpa = region->guest_phys_addr,
                                .n_pages = region->memory_size / SHIM_PAGE,
                                .address = region->userspace_addr,
                                .serial = ++shim.last_serial,
                                .first_page = offset / SHIM_PAGE,
                                .range = range,
                                .for_qemu = for_qemu };
    uint32_t end = (uint32_t)(slot - shim.slots) + 1;
    shim.end_slots = end > shim.end_slots ? end : shim.end_slots;
    range->n_slots++;
    shim.n_slots++;
    shim_slot_begin(slot);
    shim_publish();
    return r;
}

/* QEMU turns its log on while ours is on already: make it begin as KVM's own would. */
static void begin_for_qemu(struct shim_slot *slot)
{
    if (shim.ring_entries > 0) {
        shim_ring_begin_for_qemu(slot);
        return;
    }
    uint64_t words = shim_words(slot->n_pages);
    memset(slot->for_qemu, 0, words * 8);
    if ((shim.manual & KVM_DIRTY_LOG_INITIALLY_SET) != 0)
        shim_bits_set(slot->for_qemu, 0, slot->n_pages);
    else
        shim_absorb(slot);
}

static int change(int fd, unsigned long request, struct shim_slot *slot,
                  const struct kvm_userspace_memory_region *region)
{
    uint64_t view = slot->range->view + slot->first_page * SHIM_PAGE;
    bool same_place = region->userspace_addr == slot->address;
    /* Another address for a slot that is there: KVM will say what it thinks of that. */
    int r = ask(fd, request, region, same_place ? view : region->userspace_addr, shim.logging);
    if (r < 0)
        return r;
    bool began = !wants_log(slot) && (region->flags & KVM_MEM_LOG_DIRTY_PAGES) != 0;
    if (region->guest_phys_addr != slot->gpa)
        shim_slot_gone(slot);
    slot->gpa = region->guest_phys_addr;
    if (began && shim.logging)
        begin_for_qemu(slot);
    slot->qemu_flags = region->flags;
    if (!wants_log(slot))
        memset(slot->for_qemu, 0, shim_words(slot->n_pages) * 8);
    return r;
}

int shim_set_region(int fd, unsigned long request, void *arg)
{
    const struct kvm_userspace_memory_region *region = arg;
    if (_IOC_SIZE(request) > sizeof(union region))
        return shim_kernel(fd, request, arg);
    int r;
    shim_lock();
    struct shim_slot *slot = shim_slot_find(region->slot);
    if (region->memory_size == 0) {
        bool exact = slot != NULL && shim_slot_settle(slot);
        r = shim_kernel(fd, request, arg);
        if (r >= 0 && slot != NULL) {
            if (!exact)
                shim_slot_gone(slot);
            forget(slot);
            shim_publish();
            shim_wake();
        }
    } else if (slot != NULL) {
        r = change(fd, request, slot, region);
    } else {
        r = make(fd, request, region);
    }
    shim_ring_watch();
    shim_unlock();
    return r;
}

int shim_set_flags(struct shim_slot *slot, bool with_log)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot->id,
        .flags = slot->qemu_flags | (with_log ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = slot->gpa,
        .memory_size = slot->n_pages * SHIM_PAGE,
        .userspace_addr = slot->range->view + slot->first_page * SHIM_PAGE,
    };
    int r = shim_kernel(shim.vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
    return r < 0 ? r : 0;
}

/* GET: without manual protection it also begins the log anew, and the monitor's share is kept. */
static int get_locked(int fd, struct kvm_dirty_log *log)
{
    struct shim_slot *slot = shim.ring_entries == 0 ? shim_slot_find(log->slot) : NULL;
    if (slot != NULL && !wants_log(slot))
        return -ENOENT; /* as KVM says when there is no log */
    int r = shim_kernel(fd, KVM_GET_DIRTY_LOG, log);
    if (r < 0 || slot == NULL)
        return r;
    uint64_t *bits = log->dirty_bitmap, words = shim_words(slot->n_pages);
    if (shim.manual == 0 && shim.logging)
        shim_pending_or(slot->range, slot->first_page, bits, slot->n_pages);
    for (uint64_t i = 0; i < words; i++)
        bits[i] |= slot->for_qemu[i];
    if (shim.manual == 0)
        memset(slot->for_qemu, 0, words * 8);
    return r;
}

int shim_get_log(int fd, struct kvm_dirty_log *log)
{
    shim_lock();
    int r = get_locked(fd, log);
    shim_unlock();
    return r;
}

/* CLEAR: what QEMU has seen and drops, the monitor may not have seen. */
static int clear_locked(int fd, struct kvm_clear_dirty_log *clear)
{
    struct shim_slot *slot = shim.ring_entries == 0 ? shim_slot_find(clear->slot) : NULL;
    if (slot == NULL)
        return shim_kernel(fd, KVM_CLEAR_DIRTY_LOG, clear);
    if (!wants_log(slot))
        return -ENOENT;
    uint64_t first = clear->first_page, n = clear->num_pages;
    bool fits = first % 64 == 0 && first <= slot->n_pages && n <= slot->n_pages - first;
    if (!fits)
        return shim_kernel(fd, KVM_CLEAR_DIRTY_LOG, clear);
    if (shim.logging)
        shim_pending_or(slot->range, slot->first_page + first, clear->dirty_bitmap, n);
    int r = shim_kernel(fd, KVM_CLEAR_DIRTY_LOG, clear);
    if (r < 0)
        return r;
    const uint64_t *bits = clear->dirty_bitmap;
    for (uint64_t i = 0; i < shim_words(n); i++)
        slot->for_qemu[first / 64 + i] &= ~bits[i];
    return r;
}

int shim_clear_log(int fd, struct kvm_clear_dirty_log *clear)
{
    shim_lock();
    int r = clear_locked(fd, clear);
    shim_unlock();
    return r;
}
