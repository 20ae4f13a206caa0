/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The shim's inside. It is preloaded into QEMU, so it may use the C library, the kernel's headers
 * and base/words.h (which needs neither), and must never be the reason that QEMU fails: whatever it
 * does not understand it hands on to the kernel as it came.
 *
 *   main.c    the interposed ioctl() and mmap(): which calls concern us
 *   slots.c   KVM's memory slots: which of them show a range, and at which address
 *   ranges.c  second mappings of QEMU's shared memory, found in /proc/self/maps
 *   log.c     one dirty log of KVM's, two readers
 *   ring.c    the same where KVM's log is a ring for each virtual CPU; ring-full.c: that ran over;
 *             ring-retire.c: smaller than what is written
 *   vcpu.c    where those rings are, and what QEMU gets in their place
 *   serve.c   the thread that answers a monitor
 *   inside.c  the stop, by QEMU's own functions
 *
 * All state is one structure under one lock. The lock is held over ioctls of KVM's, never while
 * waiting for anyone.
 */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "shim/shim-abi.h"

#define SHIM_PAGE 4096u
#define SHIM_MAX_SLOTS 1024u
#define SHIM_MAX_VCPUS 1024u

struct shim_range {
    uint64_t address, bytes, view;
    uint64_t dev, inode, offset; /* what QEMU has mapped there: the identity of the memory */
    uint64_t first_word;         /* see stasis_shim_range.result_words */
    uint64_t out_word;           /* the same for the harvest that is under way */
    uint64_t *pending;           /* written, for the monitor, and no longer in KVM's log */
    bool has_pending;            /* there may be some: for what a look costs with much RAM */
    uint64_t *retired;           /* KVM's rings: writable, and in no ring any more */
    bool has_retired;            /* there may be some */
    uint32_t n_slots;
    bool out;         /* in the harvest that is under way */
    bool movable;     /* QEMU's mapping is not locked, as of the last drop of all of it */
    bool used, stale; /* stale: QEMU has something else there now; the thread takes it down */
};

struct shim_slot {
    bool used;
    uint32_t id;         /* with the address space in the upper half, as QEMU says it */
    uint32_t qemu_flags; /* what QEMU wants, without our log */
    uint64_t gpa, n_pages, address;
    uint64_t serial;     /* another one for each slot that is made */
    uint64_t first_page; /* in the range */
    struct shim_range *range;
    uint64_t *for_qemu; /* written, for QEMU, and no longer in KVM's log */
    bool doubtful;      /* KVM's ring: some of its pages may be written unseen */
};

/* A virtual CPU with a dirty ring (see ring.c). Numbers of entries go on and on; modulo the size of
 * the ring they are places in it. */
struct shim_vcpu {
    int fd, shadow_fd;
    struct kvm_run *run; /* its first page */
    struct kvm_dirty_gfn *real, *shadow;
    bool shown; /* QEMU has the shadow */
    bool lost;  /* KVM is further in the real one than we look (ring-full.c) */
    bool stuck; /* it was called full when there was nothing in it, at `stuck_at` */
    uint32_t stuck_at;
    uint32_t head, tail;   /* of the real one: read, re-armed, up to here */
    uint32_t given, taken; /* of the shadow: filled, collected by QEMU, up to here */
};

struct shim {
    int vm_fd;
    bool logging; /* our log is on */
    bool refused, held;
    bool ring_refused;     /* QEMU has KVM's own dirty rings: its log is not for us */
    uint32_t ring_entries; /* of each virtual CPU's dirty ring; 0: KVM's log is a bitmap */
    uint32_t ring_marked;  /* entries that KVM has been told to arm, and has not yet */
    bool ring_doubts;      /* there may be doubtful slots */
    bool foreign_logs;     /* QEMU logged slots that we don't know */
    bool forwarding;       /* QEMU logs something */
    bool watched; /* somebody logs: look at vCPUs' rings after their calls. No lock needed */
    uint32_t n_vcpus;
    struct shim_vcpu vcpus[SHIM_MAX_VCPUS];
    uint64_t manual; /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 as QEMU enabled it */
    uint64_t token, last_serial, n_harvests, layout, note;
    uint32_t n_slots;
    uint32_t end_slots; /* one behind the last that was ever used */
    struct shim_range ranges[STASIS_SHIM_MAX_RANGES];
    struct shim_slot slots[SHIM_MAX_SLOTS];
    uint64_t *scratch; /* a bitmap of the largest slot */
    uint64_t scratch_words;
    struct stasis_shim_page *page; /* NULL until there is a virtual machine */
    uint32_t n_waiting;            /* QEMU's threads at the lock */
};

extern struct shim shim;

void shim_lock(void); /* QEMU's threads */
void shim_unlock(void);
/* The thread's own: as above, and between two pieces of long work let QEMU's threads in. */
void shim_lock_thread(void);
void shim_breathe(void);

/* --- main.c --- */

/* The kernel's ioctl: what it returns, or -errno. A variable so that tests can stand in for KVM. */
extern int (*shim_kernel)(int fd, unsigned long request, void *arg);

/* The kernel's mmap. */
void *shim_kernel_mmap(void *address, size_t bytes, int prot, int flags, int fd, off_t offset);

/* --- ranges.c --- */

/* The range that has [address, +bytes), made if need be; NULL when that memory is not of a kind
 * that can be split, or may not be. */
struct shim_range *shim_range_for(uint64_t address, uint64_t bytes);
/* Take down what no slot uses and QEMU no longer has mapped. TRUE: some are left to look at. */
bool shim_ranges_reap(void);
bool shim_ranges_overlap(uint64_t address, uint64_t bytes);
/* Write state and ranges into the page. */
void shim_publish(void);
/* Drop QEMU's page tables of [address, +bytes) of @range, or of all of it; 0 or -errno. The memory
 * is the object's and stays. */
int shim_range_drop(struct shim_range *range, uint64_t address, uint64_t bytes);
void *shim_alloc(uint64_t bytes);
void shim_free(void *memory, uint64_t bytes);

/* A line of /proc/PID/maps. */
struct shim_mapping {
    uint64_t start, end, offset, dev, inode;
    bool shared, writable;
};
/* Text up to a newline or NUL; false when it is none. */
bool shim_mapping_parse(const char *line, struct shim_mapping *ret);

/* --- slots.c: what QEMU asks of KVM; results as of ioctl with -errno --- */

int shim_set_region(int fd, unsigned long request, void *arg);
int shim_get_log(int fd, struct kvm_dirty_log *log);
int shim_clear_log(int fd, struct kvm_clear_dirty_log *clear);
int shim_set_flags(struct shim_slot *slot, bool with_log);
/* NULL: none of ours. */
struct shim_slot *shim_slot_find(uint32_t id);
/* By QEMU. */
static inline bool shim_slot_is_logged(const struct shim_slot *slot)
{
    return (slot->qemu_flags & KVM_MEM_LOG_DIRTY_PAGES) != 0;
}

/* --- log.c --- */

void shim_bits_or(uint64_t *to, uint64_t to_first, const uint64_t *from, uint64_t n);
void shim_bits_set(uint64_t *to, uint64_t first, uint64_t n);
static inline uint64_t shim_words(uint64_t n_pages)
{
    return (n_pages + 63) / 64;
}
/* Take KVM's bits of a slot for ourselves, so that QEMU's log begins empty. */
int shim_absorb(struct shim_slot *slot);
int shim_start(uint64_t note);
int shim_stop(void);
/* Note the layout that the monitor knows: ranges may come while the lock is let go. Before the next
 * two. */
void shim_fix_layout(void);
int shim_harvest(uint64_t *out, uint64_t n_words, bool rearm);
void shim_give_back(const uint64_t *bits, uint64_t n_words);
/* A slot goes. Before: true when all that was written in it is known exactly, because no virtual
 * CPU runs; else, after, all of it counts as written. */
bool shim_slot_settle(struct shim_slot *slot);
void shim_slot_gone(const struct shim_slot *slot);
/* A slot has come. While no virtual CPU runs nothing in it has been written yet. */
void shim_slot_begin(struct shim_slot *slot);

/* Pages of a range that are written for the monitor: those of a bitmap, @n, and one. */
void shim_pending_or(struct shim_range *range, uint64_t first, const uint64_t *bits, uint64_t n);
void shim_pending_set(struct shim_range *range, uint64_t first, uint64_t n);
static inline void shim_pending_add(struct shim_range *range, uint64_t page)
{
    range->pending[page / 64] |= (uint64_t)1 << page % 64;
    range->has_pending = true;
}

/* --- ring.c: all under the lock but the first; none of them does anything without rings --- */

bool shim_ring_has_news(const struct shim_vcpu *vcpu);
void shim_ring_read(struct shim_vcpu *vcpu);
void shim_ring_read_all(void);
/* Re-arm what has been read, and that may be re-armed: our thread's way, which lets QEMU's threads
 * in between. */
void shim_ring_arm_slowly(void);
/* What is read and not re-armed counts as written again. */
void shim_ring_keep_unarmed(void);
/* QEMU's KVM_RESET_DIRTY_RINGS: the number of entries that it collected. */
int shim_ring_reset(void);
/* QEMU is about to turn its log on for @slot, where ours is on: KVM would arm all of it. */
void shim_ring_begin_for_qemu(struct shim_slot *slot);
/* The real ring is full. false: QEMU must collect first. */
bool shim_ring_make_room(struct shim_vcpu *vcpu);
/* Who logs may have changed. */
void shim_ring_watch(void);

/* --- vcpu.c --- */

/* QEMU turns KVM's rings on. */
void shim_vcpu_enable_rings(uint64_t bytes);
void shim_vcpu_forget_all(void);
int shim_vcpu_create(int fd, void *arg);
/* A call is done, on whatever descriptor: its result, which may come from another try. Keeps
 * errno. */
int shim_vcpu_after(int fd, uint32_t request, void *arg, int result);
/* A mapping of a virtual CPU's: as mmap. *ret_done = false: none of ours. */
void *shim_vcpu_map(void *address, size_t bytes, int prot, int flags, int fd, off_t offset,
                    bool *ret_done);

/* --- serve.c --- */

/* Make page and door and start the thread. Whatever fails: then nobody can talk to us. */
void shim_serve(void);
/* A range may have lost its last slot: look at it by and by. */
void shim_wake(void);
/* Is it a well-formed request? 0 or -errno. */
int shim_check_request(const void *bytes, size_t n);
/* A message, without waiting: its bytes or -errno. *ret_fd: the descriptor that came with it, or
 * -1; of several none is left. */
ssize_t shim_receive(int socket, struct stasis_shim_request *request, int *ret_fd);

/* --- inside.c: pause and resume wait for QEMU's main loop, so never under the lock --- */

/* The address of a function of QEMU's into *@ret, a pointer to a function. */
bool shim_inside_find(const char *name, void *ret);
/* Have QEMU's main loop run it, when it comes round; once ready. */
void shim_inside_schedule(void (*run)(void *), void *opaque);
/* Does this QEMU export what it takes? */
bool shim_inside_ready(void);
/* The same, for disks. */
bool shim_inside_can_switch(void);
/* Is it known that the VM is stopped? The caller is a thread of QEMU's that holds its lock. */
bool shim_inside_is_stopped(void);
/* STASIS_SHIM_PAUSE and _RESUME. */
int shim_inside_switch(int fd, uint64_t bytes);
int shim_inside_pause(uint64_t fdset, uint32_t by_us);
int shim_inside_resume(void);
/* Between PAUSE and RESUME: how long giving disks their nodes took; after: saving the devices. */
uint64_t shim_inside_part_ns(void);
/* The monitor is gone: whatever is under way ends with a running VM. Waits for nothing. */
void shim_inside_abandon(void);

/* --- flush.c: waits for disks, so never under the lock --- */

bool shim_flush_ready(void);
int shim_flush(int fd, uint64_t bytes); /* STASIS_SHIM_FLUSH */
