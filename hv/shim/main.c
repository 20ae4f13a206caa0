/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The functions of QEMU's that are interposed. All calls of ioctl() but a handful of KVM's go
 * straight on to the kernel. Those few are answered by slots.c and vcpu.c, which ask KVM themselves
 * and then keep the books. Of mmap() those calls alone are ours that show a virtual CPU's dirty
 * ring.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim/shim.h"

#ifndef KVM_SET_USER_MEMORY_REGION2
#define KVM_SET_USER_MEMORY_REGION2 _IOC(_IOC_WRITE, KVMIO, 0x49, 160)
#endif
#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif
#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif

struct shim shim = { .vm_fd = -1 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static int kernel_ioctl(int fd, unsigned long request, void *arg)
{
    long r = syscall(SYS_ioctl, fd, request, arg);
    return r < 0 ? -errno : (int)r;
}

int (*shim_kernel)(int fd, unsigned long request, void *arg) = kernel_ioctl;

void *shim_kernel_mmap(void *address, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, address, bytes, prot, flags, fd, offset);
}

void shim_lock(void)
{
    __atomic_fetch_add(&shim.n_waiting, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&mutex);
    __atomic_fetch_sub(&shim.n_waiting, 1, __ATOMIC_RELAXED);
}

void shim_unlock(void)
{
    pthread_mutex_unlock(&mutex);
}

void shim_lock_thread(void)
{
    pthread_mutex_lock(&mutex);
}

/* A mutex is not fair: without this the thread would have it again before a waiter wakes up. */
void shim_breathe(void)
{
    if (__atomic_load_n(&shim.n_waiting, __ATOMIC_RELAXED) == 0)
        return;
    pthread_mutex_unlock(&mutex);
    while (__atomic_load_n(&shim.n_waiting, __ATOMIC_RELAXED) != 0)
        sched_yield();
    pthread_mutex_lock(&mutex);
}

/* QEMU may make one to probe and close it again before the real one. One that has slots already is
 * the virtual machine; a second beside it is nothing that we understand. */
static int create_vm(int fd, void *arg)
{
    int r = shim_kernel(fd, KVM_CREATE_VM, arg);
    if (r < 0)
        return r;
    shim_lock();
    if (shim.n_slots > 0) {
        shim.refused = true;
    } else {
        shim.vm_fd = r;
        shim.manual = 0;
        shim_vcpu_forget_all();
    }
    shim_serve();
    shim_publish();
    shim_unlock();
    return r;
}

static int enable_cap(int fd, struct kvm_enable_cap *cap)
{
    int r = shim_kernel(fd, KVM_ENABLE_CAP, cap);
    if (r < 0 || fd != shim.vm_fd)
        return r;
    shim_lock();
    if (cap->cap == KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)
        shim.manual = cap->args[0];
    else if (cap->cap == KVM_CAP_DIRTY_LOG_RING || cap->cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL)
        shim_vcpu_enable_rings(cap->args[0]);
    else if (cap->cap == KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP)
        shim.ring_refused = true;
    shim_publish();
    shim_unlock();
    return r;
}

/* QEMU's own userfaultfd (post-copy, background-snapshot) on memory that the guest writes through
 * a second mapping would not see the guest. QEMU is told that it can't have one there. */
static int uffd_range(int fd, unsigned long request, void *arg)
{
    const struct uffdio_range *range = arg; /* the first member of both requests */
    shim_lock();
    bool ours = shim_ranges_overlap(range->start, range->len);
    shim_unlock();
    return ours ? -EINVAL : shim_kernel(fd, request, arg);
}

static int reset_rings(int fd)
{
    shim_lock();
    int r = shim.ring_entries > 0 ? shim_ring_reset() : -ENOSYS;
    shim_unlock();
    return r != -ENOSYS ? r : shim_kernel(fd, KVM_RESET_DIRTY_RINGS, NULL);
}

static int dispatch(int fd, unsigned long request, void *arg)
{
    switch (request) {
    case KVM_CREATE_VM:
        return create_vm(fd, arg);
    case KVM_ENABLE_CAP:
        return enable_cap(fd, arg);
    case KVM_SET_USER_MEMORY_REGION:
    case KVM_SET_USER_MEMORY_REGION2:
        return shim_set_region(fd, request, arg);
    case KVM_GET_DIRTY_LOG:
        return shim_get_log(fd, arg);
    case KVM_CLEAR_DIRTY_LOG:
        return shim_clear_log(fd, arg);
    case KVM_CREATE_VCPU:
        return shim_vcpu_create(fd, arg);
    case KVM_RESET_DIRTY_RINGS:
        return reset_rings(fd);
    default:
        return uffd_range(fd, request, arg);
    }
}

static bool concerns_us(int fd, unsigned long request)
{
    switch (request) {
    case KVM_CREATE_VM:
        return true;
    case KVM_ENABLE_CAP:
    case KVM_SET_USER_MEMORY_REGION:
    case KVM_SET_USER_MEMORY_REGION2:
    case KVM_GET_DIRTY_LOG:
    case KVM_CLEAR_DIRTY_LOG:
    case KVM_CREATE_VCPU:
    case KVM_RESET_DIRTY_RINGS:
        return fd == shim.vm_fd && fd >= 0;
    case UFFDIO_REGISTER:
        return shim.vm_fd >= 0;
    default:
        return false;
    }
}

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    va_start(list, request);
    void *arg = va_arg(list, void *);
    va_end(list);
    /* The kernel looks at 32 bits. QEMU hands some requests on as an int, so that the sign fills
     * the upper half. */
    uint32_t what = (uint32_t)request;
    int r;
    if (!concerns_us(fd, what)) {
        r = (int)syscall(SYS_ioctl, fd, request, arg);
        /* Asked afterwards: a log may have been turned on while the vCPU ran. */
        bool watched = __atomic_load_n(&shim.watched, __ATOMIC_ACQUIRE);
        return watched ? shim_vcpu_after(fd, what, arg, r) : r;
    }
    int before = errno;
    r = dispatch(fd, what, arg);
    errno = r < 0 ? -r : before;
    return r < 0 ? -1 : r;
}

__attribute__((visibility("default"))) void *mmap(void *address, size_t bytes, int prot, int flags,
                                                  int fd, off_t offset)
{
    bool done = false;
    /* Nobody maps a virtual CPU before it has been made. */
    if (fd >= 0 && __atomic_load_n(&shim.n_vcpus, __ATOMIC_ACQUIRE) > 0) {
        void *result = shim_vcpu_map(address, bytes, prot, flags, fd, offset, &done);
        if (done)
            return result;
    }
    return shim_kernel_mmap(address, bytes, prot, flags, fd, offset);
}

/* The same where off_t has 64 bits, by the name that QEMU uses. */
__attribute__((visibility("default"), alias("mmap"))) void *
mmap64(void *address, size_t bytes, int prot, int flags, int fd, off64_t offset);

/* QEMU's children are not QEMU: take ourselves out of what they inherit. */
__attribute__((constructor)) static void leave_environment(void)
{
    const char *list = getenv("LD_PRELOAD");
    if (list == NULL)
        return;
    char *rest = calloc(1, strlen(list) + 1);
    if (rest == NULL)
        return;
    while (*list != '\0') {
        size_t n = strcspn(list, ": ");
        static const char ours[] = "stasis-shim.so";
        size_t len = sizeof ours - 1;
        bool is_ours = n >= len && memcmp(list + n - len, ours, len) == 0;
        if (n > 0 && !is_ours) {
            if (*rest != '\0')
                strcat(rest, ":");
            strncat(rest, list, n);
        }
        list += n + (list[n] != '\0');
    }
    if (*rest != '\0')
        setenv("LD_PRELOAD", rest, 1);
    else
        unsetenv("LD_PRELOAD");
    free(rest);
}
