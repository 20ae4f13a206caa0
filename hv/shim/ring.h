/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What ring.c and ring-full.c share. Places in a ring are numbers that go on and on. */
#pragma once

#include "shim/shim.h"

static inline struct kvm_dirty_gfn *shim_gfn(struct kvm_dirty_gfn *ring, uint32_t at)
{
    return &ring[at & (shim.ring_entries - 1)];
}

/* Acquire and release are what KVM_CAP_DIRTY_LOG_RING_ACQ_REL asks for; on x86 they cost nothing.
 */
static inline uint32_t shim_flags_of(const struct kvm_dirty_gfn *gfn)
{
    return __atomic_load_n(&gfn->flags, __ATOMIC_ACQUIRE);
}

static inline void shim_set_gfn_flags(struct kvm_dirty_gfn *gfn, uint32_t flags)
{
    __atomic_store_n(&gfn->flags, flags, __ATOMIC_RELEASE);
}

/* @n more entries of the real one, from its tail on, are to be armed. */
uint32_t shim_ring_mark(struct shim_vcpu *vcpu, uint32_t n);
/* Have KVM arm what is marked. */
void shim_ring_finish(void);

/* --- ring-retire.c --- */

/* Take one page out of KVM's tables. A variable so that tests can stand in for KVM. */
extern int (*shim_zap)(uint64_t view, uint64_t bytes);
/* An entry that is about to be given back: change it so that its page is not armed. false: it must
 * be. */
bool shim_ring_retire(const struct shim_slot *slot, struct kvm_dirty_gfn *gfn);
/* Arm retired pages from @from to before @end. false: some could not be. */
bool shim_retired_arm(struct shim_range *range, uint64_t from, uint64_t end, bool may_breathe);
/* In our thread: lets others in between. */
void shim_retired_arm_all(void);
/* What is retired is pending. */
void shim_retired_keep(void);

/* --- ring-full.c --- */

/* KVM has put as many entries into the real ring as it holds, or more. */
static inline bool shim_ring_is_full(const struct shim_vcpu *vcpu)
{
    return vcpu->head - vcpu->tail >= shim.ring_entries;
}

/* Has KVM come round to the tail, past what has been read? Its entries come in order, so the one
 * before the tail is the last that comes before those that are written over. */
static inline bool shim_ring_ran_over(const struct shim_vcpu *vcpu, uint32_t tail)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return vcpu->head - tail < shim.ring_entries &&
           shim_flags_of(shim_gfn(vcpu->real, tail - 1)) == KVM_DIRTY_GFN_F_DIRTY;
}
/* KVM has called it full, and its vCPU waits: begin anew with one that ran over. */
void shim_ring_recover(struct shim_vcpu *vcpu);
/* A ring that is lost: find out where KVM goes on. */
void shim_ring_find(struct shim_vcpu *vcpu);
