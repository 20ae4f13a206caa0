/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * KVM's dirty rings and two readers. Each virtual CPU has a ring into which KVM puts the pages that
 * it writes; KVM write-protects ("re-arms") a page again when its entry is given back. QEMU takes
 * every entry for its own and has no bitmap for slots whose log it has not turned on: so KVM's
 * rings ("real") are ours alone, and QEMU has a ring of the same size in the place of each
 * ("shadow"), into which we put those entries that are for slots that QEMU logs.
 *
 *     real     ... re-armed │ tail   read, not re-armed   head │ KVM's, not read yet │ free ...
 *     shadow                  ... collected by QEMU │ taken   for QEMU   given │ free ...
 *
 * Reading an entry puts it into the shadow, if it is QEMU's, and into what is pending for the
 * monitor (log.c). Afterwards entries are re-armed in the order in which they came, but
 *
 *     of a real ring at least as many stay un-armed as QEMU has not collected of its shadow.    (*)
 *
 * Why a shadow never overflows: it has room for N − (given − taken), by (*) at least
 * N − (head − tail); and that is more than KVM can have put into the real ring unread.
 *
 * Why QEMU loses no write. What it asks for with KVM_RESET_DIRTY_RINGS is that the entries which it
 * collected are armed when that returns. Entries of a shadow are some of those of the real ring, in
 * the same order; if u are not collected the last collected one lies before the last u of the real
 * one, and up to there everything is re-armed (re-arming always goes as far as (*) lets it).
 * Armed too early is harmless: the next write makes another entry. QEMU reads a shadow after it has
 * kicked the vCPUs out of KVM_RUN, and no call of a vCPU's returns to QEMU before what it left in
 * the real ring has been read (vcpu.c).
 *
 * Why the monitor loses no write. A harvest reads all rings, re-arms, and then takes what is
 * pending: whatever was written before a page was armed is in memory when the answer comes, what is
 * written later makes a new entry. What (*) leaves un-armed is pending again at once: such a page
 * is reported a second time, never left out. A ring that fills up between two harvests is given
 * back without arming; the harvest arms those pages in another way (ring-retire.c).
 *
 * Source: Documentation/virt/kvm/api.rst, "KVM_CAP_DIRTY_LOG_RING"; virt/kvm/dirty_ring.c.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include "shim/ring.h"
#include "shim/shim.h"

/* KVM's lock is held for each call, and vCPUs that fault wait for it. */
#define PIECE_ENTRIES 8192u

/* ---- reading ---- */

static void give_to_qemu(struct shim_vcpu *vcpu, const struct kvm_dirty_gfn *gfn)
{
    /* The second only after KVM itself has lost entries. */
    if (!vcpu->shown || vcpu->given - vcpu->taken >= shim.ring_entries)
        return;
    struct kvm_dirty_gfn *to = shim_gfn(vcpu->shadow, vcpu->given);
    to->slot = gfn->slot;
    to->offset = gfn->offset;
    shim_set_gfn_flags(to, KVM_DIRTY_GFN_F_DIRTY);
    vcpu->given++;
}

static void keep_for_monitor(const struct shim_slot *slot, uint64_t page)
{
    if (shim.logging && page < slot->n_pages)
        shim_pending_add(slot->range, slot->first_page + page);
}

/* The table of slots is long, and entries come in runs of one slot. */
struct lookup {
    bool valid;
    uint32_t id;
    struct shim_slot *slot;
};

static struct shim_slot *look_up(struct lookup *last, uint32_t id)
{
    if (!last->valid || last->id != id)
        *last = (struct lookup){ true, id, shim_slot_find(id) };
    return last->slot;
}

/* There may be entries that are not read yet: asked by vCPUs without the lock. The last thing that
 * a reader does with an entry is to move `head` on: who sees it moved sees the shadow filled. */
bool shim_ring_has_news(const struct shim_vcpu *vcpu)
{
    uint32_t head = __atomic_load_n(&vcpu->head, __ATOMIC_ACQUIRE);
    return vcpu->lost || shim_flags_of(shim_gfn(vcpu->real, head)) == KVM_DIRTY_GFN_F_DIRTY;
}

/* Turning the log off and on arms all of a slot; what was written in between nobody knows. */
static void arm_whole(struct shim_slot *slot)
{
    shim_set_flags(slot, false);
    shim_set_flags(slot, true);
    shim_slot_gone(slot);
}

/* Where QEMU logs the log must stay on: all counts as written until it is off. (To QEMU such pages
 * are lost without us, too.) A log that is off arms all when it is turned on. */
static void settle_doubts(void)
{
    for (unsigned i = 0; shim.ring_doubts && i < shim.end_slots; i++) {
        struct shim_slot *slot = &shim.slots[i];
        if (!slot->used || !slot->doubtful)
            continue;
        slot->doubtful = shim_slot_is_logged(slot);
        if (slot->doubtful)
            shim_slot_gone(slot);
        else if (shim.logging)
            arm_whole(slot);
    }
}

/* Entries may have been lost in any slot: what can be armed anew as a whole is, and all of it
 * counts as written for the monitor. */
static void doubt(void)
{
    shim.ring_doubts = true;
    for (unsigned i = 0; i < shim.end_slots; i++)
        shim.slots[i].doubtful = true;
    settle_doubts();
}

void shim_ring_read(struct shim_vcpu *vcpu)
{
    struct lookup last = { 0 };
    if (vcpu->lost)
        shim_ring_find(vcpu);
    /* Entries that are read and not re-armed are still marked as they were. */
    while (vcpu->head - vcpu->tail < shim.ring_entries) {
        const struct kvm_dirty_gfn *gfn = shim_gfn(vcpu->real, vcpu->head);
        if (shim_flags_of(gfn) != KVM_DIRTY_GFN_F_DIRTY)
            break;
        const struct shim_slot *slot = look_up(&last, gfn->slot);
        if (slot != NULL)
            keep_for_monitor(slot, gfn->offset);
        /* A slot that we don't know is in the log because QEMU wants it there. */
        if (slot == NULL || shim_slot_is_logged(slot))
            give_to_qemu(vcpu, gfn);
        __atomic_store_n(&vcpu->head, vcpu->head + 1, __ATOMIC_RELEASE);
    }
    if (shim_ring_is_full(vcpu))
        doubt();
}

void shim_ring_read_all(void)
{
    for (unsigned i = 0; i < shim.n_vcpus; i++)
        shim_ring_read(&shim.vcpus[i]);
}

/* ---- re-arming ---- */

/* A ring that KVM has filled to the brim is left to its own vCPU. */
static uint32_t may_be_armed(const struct shim_vcpu *vcpu)
{
    uint32_t unarmed = vcpu->head - vcpu->tail, kept = vcpu->given - vcpu->taken;
    return unarmed > kept && !shim_ring_is_full(vcpu) ? unarmed - kept : 0;
}

uint32_t shim_ring_mark(struct shim_vcpu *vcpu, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        shim_set_gfn_flags(shim_gfn(vcpu->real, vcpu->tail + i), KVM_DIRTY_GFN_F_RESET);
    vcpu->tail += n;
    shim.ring_marked += n;
    return n;
}

static long times_asleep(void)
{
    struct rusage usage = { 0 };
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw;
}

/* Have KVM arm all that is marked. A call that a signal cuts short leaves some behind for the next;
 * and since Linux 6.16 those that it had counted last are not armed at all. A signal that can't be
 * blocked (a stop, a debugger) makes the thread sleep. false: some may not be armed. */
static bool reset(void)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    long asleep = times_asleep();
    int done = shim_kernel(shim.vm_fd, KVM_RESET_DIRTY_RINGS, NULL);
    bool sure = done >= 0 && (uint32_t)done == shim.ring_marked && times_asleep() == asleep;
    while (done > 0 && (uint32_t)done < shim.ring_marked) {
        shim.ring_marked -= (uint32_t)done;
        done = shim_kernel(shim.vm_fd, KVM_RESET_DIRTY_RINGS, NULL);
    }
    shim.ring_marked = 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return sure;
}

void shim_ring_finish(void)
{
    if (shim.ring_marked > 0 && !reset())
        doubt();
}

/* A ring may have run over since it was read; then KVM is writing over what was marked just now. As
 * nothing has been armed yet, that can be undone: the ring is full. */
static uint32_t mark_if_whole(struct shim_vcpu *vcpu, uint32_t n)
{
    uint32_t tail = vcpu->tail;
    shim_ring_mark(vcpu, n);
    if (!shim_ring_ran_over(vcpu, tail))
        return n;
    for (uint32_t i = 0; i < n; i++)
        shim_set_gfn_flags(shim_gfn(vcpu->real, tail + i), KVM_DIRTY_GFN_F_DIRTY);
    vcpu->tail = tail;
    shim.ring_marked -= n;
    __atomic_store_n(&vcpu->head, tail + shim.ring_entries, __ATOMIC_RELEASE);
    doubt();
    return 0;
}

/* Up to PIECE_ENTRIES more, but of each ring no further than @limit, where there is one. */
static uint32_t arm_piece(const uint32_t *limit)
{
    uint32_t n = 0;
    for (unsigned i = 0; i < shim.n_vcpus && n < PIECE_ENTRIES; i++) {
        struct shim_vcpu *vcpu = &shim.vcpus[i];
        uint32_t may = may_be_armed(vcpu), left = PIECE_ENTRIES - n;
        uint32_t ahead = limit != NULL ? limit[i] - vcpu->tail : may;
        /* Others may have gone further than the limit by now. */
        may = (int32_t)ahead < 0 ? 0 : may < ahead ? may : ahead;
        n += mark_if_whole(vcpu, may < left ? may : left);
    }
    shim_ring_finish();
    return n;
}

/* Re-arm what has been read, and that may be re-armed. */
static void arm(void)
{
    while (arm_piece(NULL) == PIECE_ENTRIES)
        ;
}

void shim_ring_arm_slowly(void)
{
    static uint32_t limit[SHIM_MAX_VCPUS]; /* the thread's own */
    for (unsigned i = 0; i < SHIM_MAX_VCPUS; i++)
        limit[i] = shim.vcpus[i].head;
    while (arm_piece(limit) == PIECE_ENTRIES)
        shim_breathe();
    shim_retired_arm_all();
}

static bool each_unarmed(bool (*found)(struct shim_slot *slot, uint64_t page, void *opaque),
                         void *opaque)
{
    bool any = false;
    for (unsigned i = 0; i < shim.n_vcpus; i++) {
        struct shim_vcpu *vcpu = &shim.vcpus[i];
        struct lookup last = { 0 };
        for (uint32_t at = vcpu->tail; at != vcpu->head; at++) {
            const struct kvm_dirty_gfn *gfn = shim_gfn(vcpu->real, at);
            struct shim_slot *slot = look_up(&last, gfn->slot);
            if (slot != NULL && found(slot, gfn->offset, opaque))
                any = true;
        }
    }
    return any;
}

static bool keep_unarmed(struct shim_slot *slot, uint64_t page, void *unused)
{
    (void)unused;
    keep_for_monitor(slot, page);
    return true;
}

void shim_ring_keep_unarmed(void)
{
    each_unarmed(keep_unarmed, NULL);
    shim_retired_keep();
    settle_doubts();
}

/* ---- QEMU's side ---- */

static uint32_t take_back(struct shim_vcpu *vcpu)
{
    uint32_t n = 0;
    for (; vcpu->taken != vcpu->given; vcpu->taken++, n++) {
        struct kvm_dirty_gfn *gfn = shim_gfn(vcpu->shadow, vcpu->taken);
        if ((shim_flags_of(gfn) & KVM_DIRTY_GFN_F_RESET) == 0)
            break;
        shim_set_gfn_flags(gfn, 0);
    }
    return n;
}

int shim_ring_reset(void)
{
    uint32_t n = 0;
    for (unsigned i = 0; i < shim.n_vcpus; i++)
        n += take_back(&shim.vcpus[i]);
    arm();
    shim_ring_watch();
    return (int)n;
}

static bool is_of(struct shim_slot *slot, uint64_t page, void *opaque)
{
    (void)page;
    return slot == opaque;
}

void shim_ring_begin_for_qemu(struct shim_slot *slot)
{
    shim_ring_read_all();
    arm();
    bool armed =
        shim_retired_arm(slot->range, slot->first_page, slot->first_page + slot->n_pages, false);
    if (each_unarmed(is_of, slot) || !armed)
        arm_whole(slot);
}

void shim_ring_watch(void)
{
    bool logs = shim.foreign_logs, left = false;
    for (unsigned i = 0; shim.n_vcpus > 0 && i < shim.end_slots && !logs; i++)
        logs = shim.slots[i].used && shim_slot_is_logged(&shim.slots[i]);
    /* Nothing new comes when nobody logs; but a full ring would keep its vCPU from running. */
    if (!logs && !shim.logging && shim.n_vcpus > 0) {
        shim_ring_read_all();
        arm();
    }
    for (unsigned i = 0; i < shim.n_vcpus && !left; i++)
        left = shim.vcpus[i].tail != shim.vcpus[i].head;
    __atomic_store_n(&shim.forwarding, logs, __ATOMIC_RELEASE);
    bool watched = shim.n_vcpus > 0 && (logs || left || shim.logging);
    __atomic_store_n(&shim.watched, watched, __ATOMIC_RELEASE);
}

/* Those that the next arming gives back. */
static void retire(struct shim_vcpu *vcpu)
{
    struct lookup last = { 0 };
    for (uint32_t n = may_be_armed(vcpu), i = 0; i < n; i++) {
        struct kvm_dirty_gfn *gfn = shim_gfn(vcpu->real, vcpu->tail + i);
        shim_ring_retire(look_up(&last, gfn->slot), gfn);
    }
}

bool shim_ring_make_room(struct shim_vcpu *vcpu)
{
    shim_ring_read(vcpu);
    shim_ring_recover(vcpu);
    retire(vcpu);
    arm();
    return vcpu->given == vcpu->taken;
}
