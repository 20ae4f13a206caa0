/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rings that ran over. KVM has a vCPU leave the guest when its ring is nearly full, and trusts that
 * no more than 64 entries come until it does. Where it interprets much guest code between two such
 * looks that is wrong (seen with Linux 6.18: "WARNING … kvm_dirty_ring_push"): it goes on writing
 * over entries that nobody has read yet, and its own place in the ring is ahead of where any reader
 * looks, by the number that is lost. QEMU alone would never see another page of that vCPU's.
 *
 * Such a ring is one that is full to the last entry. What was lost is unknown: all counts as
 * written (doubt() in ring.c). Then the whole ring is given back, and the first entry that comes
 * afterwards shows where KVM is. What lies before it is given back, too: else KVM would wait for it
 * for ever.
 *
 *     after giving back         0 0 0 0 0 0 0 0 0 0 0 0
 *                               ^ head = tail
 *     one entry has come        0 0 0 0 D 0 0 0 0 0 0 0
 *                               └ lost ┘^ head = tail, from now on
 */
#include "shim/ring.h"

static bool is_dirty(const struct shim_vcpu *vcpu, uint32_t at)
{
    return shim_flags_of(shim_gfn(vcpu->real, at)) == KVM_DIRTY_GFN_F_DIRTY;
}

/* How many entries from head on are not new ones: all, when none has come. */
static uint32_t count_lost(const struct shim_vcpu *vcpu)
{
    uint32_t n = 0;
    while (n < shim.ring_entries && !is_dirty(vcpu, vcpu->head + n))
        n++;
    return n;
}

static void give_back(struct shim_vcpu *vcpu, uint32_t n)
{
    shim_ring_mark(vcpu, n);
    __atomic_store_n(&vcpu->head, vcpu->tail, __ATOMIC_RELEASE);
    shim_ring_finish();
}

void shim_ring_find(struct shim_vcpu *vcpu)
{
    uint32_t lost = count_lost(vcpu), n = shim.ring_entries;
    if (lost == n)
        return;
    /* KVM has come round to where the search begins, so that no entry can be told to be the first:
     * as if it were full. */
    if (lost == 0 && is_dirty(vcpu, vcpu->head + n - 1)) {
        __atomic_store_n(&vcpu->head, vcpu->tail + n, __ATOMIC_RELEASE);
        return;
    }
    vcpu->lost = false;
    if (lost > 0)
        give_back(vcpu, lost);
}

/* Called full, and nothing in it. Once that may be because our thread has just emptied it. */
static bool is_stuck(struct shim_vcpu *vcpu)
{
    bool nothing = vcpu->head == vcpu->tail && vcpu->given == vcpu->taken &&
                   count_lost(vcpu) == shim.ring_entries;
    bool again = nothing && vcpu->stuck && vcpu->stuck_at == vcpu->head;
    vcpu->stuck = nothing;
    vcpu->stuck_at = vcpu->head;
    return again;
}

void shim_ring_recover(struct shim_vcpu *vcpu)
{
    bool stuck = is_stuck(vcpu);
    if (!stuck && !shim_ring_is_full(vcpu))
        return;
    /* Where there is nothing KVM is ahead by more than all but 64. */
    vcpu->lost = true;
    give_back(vcpu, stuck ? shim.ring_entries / 2 : shim.ring_entries);
}
