/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Virtual CPUs with dirty rings: when KVM has made one its ring is mapped for us, and when QEMU
 * wants to map it, QEMU gets a piece of memory of the same size, the shadow (ring.c).
 *
 * KVM puts entries into a ring in calls of that vCPU's only, KVM_RUN above all. When such a call
 * returns to QEMU all of them that are for QEMU are in the shadow: QEMU relies on that after it has
 * kicked the vCPUs. A ring that is full with nothing in it for QEMU is emptied here, and the guest
 * goes on.
 *
 * It is all or nothing: either every vCPU has a shadow, or none has and QEMU's rings are KVM's own.
 * What can't be shadowed after the first one was is refused as QEMU's call.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shim/shim.h"

/* Not every architecture has them. */
#ifndef KVM_DIRTY_LOG_PAGE_OFFSET
#define KVM_DIRTY_LOG_PAGE_OFFSET 0
#endif

#define MAX_FD 65536
#define RING_OFFSET ((uint64_t)KVM_DIRTY_LOG_PAGE_OFFSET * SHIM_PAGE)
#define MAX_ENTRIES (1u << 20)

static uint16_t number_of_fd[MAX_FD]; /* 0: no vCPU, else its number + 1 */

static struct shim_vcpu *vcpu_of(int fd)
{
    uint16_t number =
        fd >= 0 && fd < MAX_FD ? __atomic_load_n(&number_of_fd[fd], __ATOMIC_ACQUIRE) : 0;
    return number > 0 ? &shim.vcpus[number - 1] : NULL;
}

static uint64_t ring_bytes(void)
{
    return shim.ring_entries * sizeof(struct kvm_dirty_gfn);
}

void shim_vcpu_enable_rings(uint64_t bytes)
{
    uint64_t n = bytes / sizeof(struct kvm_dirty_gfn);
    bool good = KVM_DIRTY_LOG_PAGE_OFFSET > 0 && sysconf(_SC_PAGESIZE) == SHIM_PAGE &&
                bytes % SHIM_PAGE == 0 && n > 0 && n <= MAX_ENTRIES && (n & (n - 1)) == 0;
    shim.ring_entries = good ? (uint32_t)n : 0;
    shim.ring_refused = !good;
}

static void unmap(struct shim_vcpu *vcpu)
{
    shim_free(vcpu->run, SHIM_PAGE);
    shim_free(vcpu->real, ring_bytes());
    shim_free(vcpu->shadow, ring_bytes());
    if (vcpu->shadow_fd >= 0)
        close(vcpu->shadow_fd);
}

void shim_vcpu_forget_all(void)
{
    uint32_t n = shim.n_vcpus;
    __atomic_store_n(&shim.n_vcpus, 0, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < n; i++) {
        __atomic_store_n(&number_of_fd[shim.vcpus[i].fd], 0, __ATOMIC_RELEASE);
        unmap(&shim.vcpus[i]);
    }
    shim.ring_entries = shim.ring_marked = 0;
    shim.ring_refused = shim.ring_doubts = shim.foreign_logs = false;
    shim_ring_watch();
}

/* ---- making one ---- */

static void *map(int fd, uint64_t bytes, uint64_t offset)
{
    void *memory =
        shim_kernel_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    if (memory == MAP_FAILED)
        return NULL;
    madvise(memory, bytes, MADV_DONTFORK);
    madvise(memory, bytes, MADV_DONTDUMP);
    return memory;
}

static bool add(int fd)
{
    struct shim_vcpu vcpu = { .fd = fd, .shadow_fd = -1 };
    if (fd >= MAX_FD || shim.n_vcpus >= SHIM_MAX_VCPUS)
        return false;
    vcpu.run = map(fd, SHIM_PAGE, 0);
    vcpu.real = map(fd, ring_bytes(), RING_OFFSET);
    vcpu.shadow_fd = memfd_create("stasis-ring", MFD_CLOEXEC);
    if (vcpu.shadow_fd >= 0 && ftruncate(vcpu.shadow_fd, (off_t)ring_bytes()) == 0)
        vcpu.shadow = map(vcpu.shadow_fd, ring_bytes(), 0);
    if (vcpu.run == NULL || vcpu.real == NULL || vcpu.shadow == NULL) {
        unmap(&vcpu);
        return false;
    }
    shim.vcpus[shim.n_vcpus] = vcpu;
    __atomic_store_n(&number_of_fd[fd], (uint16_t)(shim.n_vcpus + 1), __ATOMIC_RELEASE);
    __atomic_store_n(&shim.n_vcpus, shim.n_vcpus + 1, __ATOMIC_RELEASE);
    return true;
}

/* QEMU gets KVM's own rings. */
static void give_up(void)
{
    shim_stop();
    shim_vcpu_forget_all();
    shim.ring_refused = true;
    shim_publish();
}

static bool has_shadows(void)
{
    for (uint32_t i = 0; i < shim.n_vcpus; i++)
        if (shim.vcpus[i].shown)
            return true;
    return false;
}

int shim_vcpu_create(int fd, void *arg)
{
    int r = shim_kernel(fd, KVM_CREATE_VCPU, arg);
    if (r < 0 || shim.ring_entries == 0)
        return r;
    shim_lock();
    if (!add(r)) {
        bool late = has_shadows();
        if (late)
            close(r);
        else
            give_up();
        r = late ? -ENOMEM : r;
    }
    shim_ring_watch();
    shim_unlock();
    return r;
}

/* ---- mapping one ---- */

/* A vCPU that was unplugged is QEMU's next one, which begins to collect at 0. */
static void begin_shadow(struct shim_vcpu *vcpu)
{
    uint32_t n = vcpu->given - vcpu->taken, mask = shim.ring_entries - 1;
    struct kvm_dirty_gfn *left = n > 0 ? calloc(n, sizeof *left) : NULL;
    n = left != NULL ? n : 0;
    for (uint32_t i = 0; i < n; i++)
        left[i] = vcpu->shadow[(vcpu->taken + i) & mask];
    for (uint32_t i = 0; i < shim.ring_entries; i++)
        vcpu->shadow[i] = i < n ? left[i] : (struct kvm_dirty_gfn){ 0 };
    free(left);
    vcpu->taken = 0;
    vcpu->given = n;
    vcpu->shown = true;
}

static void *map_shadow(struct shim_vcpu *vcpu, void *address, size_t bytes, int prot, int flags,
                        uint64_t offset)
{
    void *shadow = shim_kernel_mmap(address, bytes, prot, flags, vcpu->shadow_fd,
                                    (off_t)(offset - RING_OFFSET));
    if (shadow != MAP_FAILED && offset == RING_OFFSET)
        begin_shadow(vcpu);
    return shadow;
}

void *shim_vcpu_map(void *address, size_t bytes, int prot, int flags, int fd, off_t offset,
                    bool *ret_done)
{
    struct shim_vcpu *vcpu = vcpu_of(fd);
    uint64_t at = (uint64_t)offset, end = at + bytes;
    void *result = MAP_FAILED;
    *ret_done = false;
    if (vcpu == NULL || end <= RING_OFFSET || end < at)
        return result;
    shim_lock();
    *ret_done = true;
    /* KVM maps a ring in the first of these ways only. */
    if (at >= RING_OFFSET && end <= RING_OFFSET + ring_bytes() && (flags & MAP_PRIVATE) == 0 &&
        (prot & PROT_EXEC) == 0)
        result = map_shadow(vcpu, address, bytes, prot, flags, at);
    else if (has_shadows())
        errno = EINVAL;
    else
        *ret_done = false;
    if (!*ret_done)
        give_up();
    shim_unlock();
    return result;
}

/* ---- its calls ---- */

static bool is_full(const struct shim_vcpu *vcpu, uint32_t request, int result)
{
    return request == KVM_RUN && result == 0 && vcpu->run->exit_reason == KVM_EXIT_DIRTY_RING_FULL;
}

/* true: the guest can go on, QEMU need not know. */
static bool attend(struct shim_vcpu *vcpu, bool full)
{
    shim_lock();
    bool go_on = full && shim_ring_make_room(vcpu);
    if (!full)
        shim_ring_read(vcpu);
    shim_unlock();
    return go_on;
}

int shim_vcpu_after(int fd, uint32_t request, void *arg, int result)
{
    struct shim_vcpu *vcpu = vcpu_of(fd);
    if (vcpu == NULL)
        return result;
    int error = errno;
    for (;;) {
        bool full = is_full(vcpu, request, result);
        bool news = full || (__atomic_load_n(&shim.forwarding, __ATOMIC_ACQUIRE) &&
                             shim_ring_has_news(vcpu));
        if (!news || !attend(vcpu, full))
            break;
        int r = shim_kernel(fd, KVM_RUN, arg);
        error = r < 0 ? -r : error;
        result = r < 0 ? -1 : r;
    }
    errno = error;
    return result;
}
