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

/* Entries may have been lost in any slot: what can be armed anew as a whole is, and all of it
 * counts as written for the monitor. */
void shim_ring_doubt(void);
/* @n more entries of the real one, from its tail on, are to be armed. */
uint32_t shim_ring_mark(struct shim_vcpu *vcpu, uint32_t n);
/* Have KVM arm what is marked. */
void shim_ring_finish(void);

/* --- ring-full.c --- */

/* KVM has put as many entries into the real ring as it holds, or more. */
static inline bool shim_ring_is_full(const struct shim_vcpu *vcpu)
{
    return vcpu->head - vcpu->tail >= shim.ring_entries;
}

/* KVM has called it full, and its vCPU waits: begin anew with one that ran over. */
void shim_ring_recover(struct shim_vcpu *vcpu);
/* A ring that is lost: find out where KVM goes on. */
void shim_ring_find(struct shim_vcpu *vcpu);
