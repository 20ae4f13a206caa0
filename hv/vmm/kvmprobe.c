/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Can KVM here run an ordinary guest?
 *
 * A /dev/kvm that opens says little: inside some hosts it runs only ring 3 natively and interprets
 * ring 0 at less than a million instructions a second, so that a Linux guest never finishes its
 * boot. So a tiny ring-0 long-mode loop is run through the KVM API (kernel: Documentation/virt/
 * kvm/api.rst) and timed. Its length is fixed: it ends in HLT by itself, after microseconds on
 * hardware and some 20 ms where it is interpreted.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "base/fd.h"
#include "vmm/machine.h"

#define LOOP_COUNT 8000u
#define WARM_UP_COUNT 10u
/* Hardware does hundreds of millions, interpretation under one. */
#define GOOD_PER_SECOND 20e6

/* Guest memory: PML4, PDPT, PD, code. */
#define GUEST_BYTES 0x4000u
#define CODE_AT 0x3000u

typedef struct {
    int kvm, vm, vcpu;
    uint8_t *memory;
    struct kvm_run *run;
    size_t run_bytes;
} Probe;

static void probe_clear(Probe *p)
{
    if (p->run != NULL)
        munmap(p->run, p->run_bytes);
    stasis_close_fdp(&p->vcpu);
    stasis_close_fdp(&p->vm);
    stasis_close_fdp(&p->kvm);
    if (p->memory != NULL)
        munmap(p->memory, GUEST_BYTES);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Probe, probe_clear)

static char *reason_errno(const char *what)
{
    return g_strdup_printf("KVM here fails (%s: %s)", what, g_strerror(errno));
}

/* Identity-map the first 2 MiB; dec %ecx; jnz .-2; hlt. */
static void fill_memory(uint8_t *memory)
{
    static const uint8_t code[] = { 0xff, 0xc9, 0x75, 0xfc, 0xf4 };
    const uint64_t present_writable = 0x3, large = 0x80;
    uint64_t *table = (uint64_t *)memory;
    table[0x0000 / 8] = 0x1000 | present_writable;
    table[0x1000 / 8] = 0x2000 | present_writable;
    table[0x2000 / 8] = 0 | present_writable | large;
    memcpy(memory + CODE_AT, code, sizeof code);
}

/* A VM with one vCPU that has its memory; NULL, or why not. */
static char *make_vm(Probe *p)
{
    p->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (p->kvm < 0 && errno == ENOENT)
        return g_strdup("there is no /dev/kvm (no virtualization in this CPU, BIOS or kernel)");
    if (p->kvm < 0 && errno == EACCES)
        return g_strdup("/dev/kvm may not be opened (be root or in the group kvm)");
    if (p->kvm < 0)
        return reason_errno("open /dev/kvm");
    p->vm = ioctl(p->kvm, KVM_CREATE_VM, 0);
    if (p->vm < 0)
        return reason_errno("KVM_CREATE_VM");
    void *memory =
        mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return reason_errno("mmap");
    p->memory = memory;
    fill_memory(p->memory);
    struct kvm_userspace_memory_region region = {
        .memory_size = GUEST_BYTES,
        .userspace_addr = (uintptr_t)memory,
    };
    if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return reason_errno("KVM_SET_USER_MEMORY_REGION");
    p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
    int run_bytes = ioctl(p->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (p->vcpu < 0 || run_bytes < (int)sizeof(struct kvm_run))
        return reason_errno("KVM_CREATE_VCPU");
    void *run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
    if (run == MAP_FAILED)
        return reason_errno("mmap of the vCPU");
    p->run = run;
    p->run_bytes = (size_t)run_bytes;
    return NULL;
}

/* Ring 0 in long mode, paging on. */
static char *enter_long_mode(Probe *p)
{
    struct kvm_sregs sregs;
    if (ioctl(p->vcpu, KVM_GET_SREGS, &sregs) < 0)
        return reason_errno("KVM_GET_SREGS");
    struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
    };
    struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
    };
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cr3 = 0;
    sregs.cr4 = 1 << 5;                    /* PAE */
    sregs.cr0 = (1u << 31) | (1 << 4) | 1; /* PG, ET, PE */
    sregs.efer = (1 << 10) | (1 << 8);     /* LMA, LME */
    if (ioctl(p->vcpu, KVM_SET_SREGS, &sregs) < 0)
        return reason_errno("KVM_SET_SREGS");
    return NULL;
}

/* Seconds of this thread's CPU time (which being preempted does not add to) for @count rounds. */
static char *run_loop(Probe *p, uint32_t count, double *ret_seconds)
{
    struct kvm_regs regs = { .rip = CODE_AT, .rcx = count, .rflags = 2 };
    struct timespec start, end;
    int r;
    if (ioctl(p->vcpu, KVM_SET_REGS, &regs) < 0)
        return reason_errno("KVM_SET_REGS");
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
    do
        r = ioctl(p->vcpu, KVM_RUN, 0);
    while (r < 0 && errno == EINTR);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    if (r < 0)
        return reason_errno("KVM_RUN");
    if (p->run->exit_reason != KVM_EXIT_HLT)
        return g_strdup_printf("KVM here can't run a plain ring-0 loop (exit reason %u)",
                               p->run->exit_reason);
    *ret_seconds =
        (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    return NULL;
}

static char *probe(void)
{
    g_auto(Probe) p = { .kvm = -1, .vm = -1, .vcpu = -1 };
    double seconds = 0;
    char *reason = make_vm(&p);
    if (reason == NULL)
        reason = enter_long_mode(&p);
    if (reason == NULL)
        reason = run_loop(&p, WARM_UP_COUNT, &seconds); /* its page faults are not to be measured */
    if (reason == NULL)
        reason = run_loop(&p, LOOP_COUNT, &seconds);
    if (reason != NULL)
        return reason;
    double per_second = 2.0 * LOOP_COUNT / MAX(seconds, 1e-9);
    if (per_second >= GOOD_PER_SECOND)
        return NULL;
    return g_strdup_printf("KVM here runs ring 0 at %.1f million instructions/s (no hardware "
                           "virtualization)",
                           per_second / 1e6);
}

gboolean stasis_kvm_probe(char **ret_reason)
{
    static GMutex lock;
    static gboolean done;
    static char *cached;
    g_mutex_lock(&lock);
    if (!done)
        cached = probe();
    done = TRUE;
    g_mutex_unlock(&lock);
    if (ret_reason != NULL)
        *ret_reason = g_strdup(cached);
    return cached == NULL;
}
