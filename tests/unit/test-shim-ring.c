/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Promise: of KVM's dirty rings QEMU and the monitor each see every page that was written since
 * they last looked, whatever the other does; QEMU's ring never runs over and holds nothing that
 * QEMU has no bitmap for; and where KVM itself loses entries the monitor is told of all pages
 * rather than of too few.
 *
 * KVM is played by a model here: pages are armed or not, a write to an armed one makes an entry,
 * and KVM_RESET_DIRTY_RINGS arms what is given back. QEMU is played as its accel/kvm/kvm-all.c does
 * it.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "shim/ring.h"
#include "shim/shim.h"

#define VM 777
#define N_SLOTS 3u
#define N_VCPUS 2u
#define ENTRIES 256u
#define RING_BYTES (ENTRIES * sizeof(struct kvm_dirty_gfn))
#define RING_AT (KVM_DIRTY_LOG_PAGE_OFFSET * SHIM_PAGE)
#define RESERVED 64u
#define RAM_PAGES 1000u
#define STEPS 20000u

static const struct {
    guint64 first, n;
} layout[N_SLOTS] = { { 0, 160 }, { 196, 4 }, { 203, 797 } };

static guint8 *ram;

/* ---- KVM ---- */

typedef struct {
    gboolean there, logging;
    guint64 n;
    gboolean armed[RAM_PAGES];
} Slot;

typedef struct {
    int fd;
    struct kvm_run *run;
    struct kvm_dirty_gfn *ring;
    guint32 dirty, reset;
} Vcpu;

static struct {
    Slot slots[N_SLOTS];
    Vcpu vcpus[N_VCPUS];
    guint n_vcpus;
    gboolean cuts_short; /* signals come while it arms */
    gboolean interprets; /* every write makes an entry, and nobody looks whether there is room */
    gboolean zap_fails;
    guint64 n_lost, n_cut, n_zapped; /* entries, calls, pages */
} kvm;

/* What the two readers must find: written since they last looked. */
static guint8 must_qemu[N_SLOTS][RAM_PAGES], must_monitor[RAM_PAGES];
/* What QEMU has collected, and where it has a bitmap. */
static guint8 found_by_qemu[N_SLOTS][RAM_PAGES];
static gboolean has_bitmap[N_SLOTS], qemu_logs[N_SLOTS];
static struct kvm_dirty_gfn *shadow[N_VCPUS];
static guint32 fetch[N_VCPUS];

static int kvm_set(const struct kvm_userspace_memory_region *region)
{
    Slot *slot = &kvm.slots[region->slot];
    gboolean log = (region->flags & KVM_MEM_LOG_DIRTY_PAGES) != 0;
    if (region->memory_size == 0) {
        *slot = (Slot){ 0 };
        return 0;
    }
    for (guint i = 0; log && !slot->logging && i < RAM_PAGES; i++)
        slot->armed[i] = TRUE;
    slot->there = TRUE;
    slot->logging = log;
    slot->n = region->memory_size / SHIM_PAGE;
    return 0;
}

static void push(Vcpu *vcpu, guint slot, guint64 page)
{
    struct kvm_dirty_gfn *gfn = &vcpu->ring[vcpu->dirty++ % ENTRIES];
    if (kvm.interprets)
        kvm.n_lost += vcpu->dirty - vcpu->reset > ENTRIES;
    else
        g_assert_cmpuint(vcpu->dirty - vcpu->reset, <=, ENTRIES);
    *gfn = (struct kvm_dirty_gfn){ KVM_DIRTY_GFN_F_DIRTY, slot, page };
}

static void guest_writes(Vcpu *vcpu, guint i, guint64 page)
{
    Slot *slot = &kvm.slots[i];
    if (!slot->there)
        return;
    must_qemu[i][page] = must_monitor[layout[i].first + page] = 1;
    if (slot->logging && (slot->armed[page] || kvm.interprets))
        push(vcpu, i, page);
    slot->armed[page] = FALSE;
}

static gboolean is_soft_full(const Vcpu *vcpu)
{
    return vcpu->dirty - vcpu->reset >= ENTRIES - RESERVED;
}

/* Some writes, here and there or in a row. */
static int kvm_run(Vcpu *vcpu)
{
    guint n = (guint)g_test_rand_int_range(0, kvm.interprets ? 700 : 60);
    guint i = (guint)g_test_rand_int_range(0, N_SLOTS);
    guint64 at = (guint64)g_test_rand_int_range(0, (gint32)layout[i].n);
    gboolean in_a_row = g_test_rand_int_range(0, 2);
    for (guint w = 0; w < n; w++) {
        if (is_soft_full(vcpu) && (w == 0 || !kvm.interprets)) {
            vcpu->run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
            return 0;
        }
        guest_writes(vcpu, i, at);
        at = in_a_row ? (at + 1) % layout[i].n
                      : (guint64)g_test_rand_int_range(0, (gint32)layout[i].n);
    }
    vcpu->run->exit_reason = KVM_EXIT_IO;
    return 0;
}

/* As Linux 6.16 does it: the pages that are gathered last are not armed when a signal is seen. */
static int kvm_reset(void)
{
    int n = 0;
    gint64 signal_at = kvm.cuts_short && g_test_rand_int_range(0, 6) == 0
                           ? g_test_rand_int_range(0, 100)
                           : G_MAXINT64;
    for (guint v = 0; v < kvm.n_vcpus; v++) {
        Vcpu *vcpu = &kvm.vcpus[v];
        for (;; n++) {
            struct kvm_dirty_gfn *gfn = &vcpu->ring[vcpu->reset % ENTRIES];
            gboolean given_back = (gfn->flags & KVM_DIRTY_GFN_F_RESET) != 0;
            if (n == signal_at || (!given_back && n > signal_at - 5)) {
                kvm.n_cut++;
                nanosleep(&(struct timespec){ .tv_nsec = 1 }, NULL); /* stopped, as by SIGSTOP */
                return n;
            }
            if (!given_back)
                break;
            gfn->flags = 0;
            vcpu->reset++;
            Slot *slot = gfn->slot < N_SLOTS ? &kvm.slots[gfn->slot] : NULL;
            if (slot != NULL && slot->there && gfn->offset < slot->n && n < signal_at - 5)
                slot->armed[gfn->offset] = TRUE;
        }
    }
    return n;
}

/* What goes from the second mapping goes from KVM's tables: the next write is seen. */
static int fake_zap(guint64 view, guint64 bytes)
{
    kvm.n_zapped += bytes / SHIM_PAGE;
    if (kvm.zap_fails)
        return -1;
    for (guint r = 0; r < STASIS_SHIM_MAX_RANGES; r++) {
        struct shim_range *range = &shim.ranges[r];
        if (!range->used || view < range->view || view >= range->view + range->bytes)
            continue;
        g_assert_cmpuint(view + bytes, <=, range->view + range->bytes);
        guint64 first = (view - range->view + range->address - (guint64)ram) / SHIM_PAGE;
        for (guint64 page = first; page < first + bytes / SHIM_PAGE; page++)
            for (guint i = 0; i < N_SLOTS; i++)
                if (page >= layout[i].first && page < layout[i].first + layout[i].n)
                    kvm.slots[i].armed[page - layout[i].first] = TRUE;
    }
    return 0;
}

static int kvm_create(void)
{
    Vcpu *vcpu = &kvm.vcpus[kvm.n_vcpus++];
    vcpu->fd = memfd_create("vcpu", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(vcpu->fd, RING_AT + RING_BYTES), ==, 0);
    char *all = shim_kernel_mmap(NULL, RING_AT + RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
                                 vcpu->fd, 0);
    g_assert_true(all != MAP_FAILED);
    vcpu->run = (struct kvm_run *)all;
    vcpu->ring = (struct kvm_dirty_gfn *)(all + RING_AT);
    return vcpu->fd;
}

static int fake_kvm(int fd, unsigned long request, void *arg)
{
    switch (request) {
    case KVM_SET_USER_MEMORY_REGION:
        return kvm_set(arg);
    case KVM_RESET_DIRTY_RINGS:
        return kvm_reset();
    case KVM_CREATE_VCPU:
        return kvm_create();
    case KVM_RUN:
        return kvm_run(fd == kvm.vcpus[0].fd ? &kvm.vcpus[0] : &kvm.vcpus[1]);
    default:
        return -ENOTTY;
    }
}

/* ---- QEMU ---- */

static int qemu_set(guint i, gboolean there, gboolean log)
{
    struct kvm_userspace_memory_region region = {
        .slot = i,
        .flags = log ? KVM_MEM_LOG_DIRTY_PAGES : 0,
        .memory_size = there ? layout[i].n * SHIM_PAGE : 0,
        .userspace_addr = (guint64)ram + layout[i].first * SHIM_PAGE,
        .guest_phys_addr = layout[i].first * SHIM_PAGE,
    };
    return shim_set_region(VM, KVM_SET_USER_MEMORY_REGION, &region);
}

static void qemu_reaps(guint first, guint n)
{
    int total = 0;
    for (guint v = first; v < first + n; v++)
        for (;; fetch[v]++, total++) {
            struct kvm_dirty_gfn *gfn = &shadow[v][fetch[v] % ENTRIES];
            if (gfn->flags != KVM_DIRTY_GFN_F_DIRTY)
                break;
            g_assert_cmpuint(gfn->slot, <, N_SLOTS);
            if (kvm.slots[gfn->slot].there && !has_bitmap[gfn->slot])
                g_error("QEMU got an entry of slot %u, for which it has no bitmap", gfn->slot);
            found_by_qemu[gfn->slot][gfn->offset] = 1;
            gfn->flags = KVM_DIRTY_GFN_F_RESET;
        }
    if (total > 0)
        g_assert_cmpint(shim_ring_reset(), ==, total);
}

static void vcpu_runs(guint v)
{
    Vcpu *vcpu = &kvm.vcpus[v];
    int r = kvm_run(vcpu);
    if (shim.watched)
        r = shim_vcpu_after(vcpu->fd, KVM_RUN, NULL, r);
    g_assert_cmpint(r, ==, 0);
    if (vcpu->run->exit_reason == KVM_EXIT_DIRTY_RING_FULL)
        qemu_reaps(g_test_rand_int_range(0, 2) ? 0 : v, v == 0 ? 1 : N_VCPUS - v);
}

static void qemu_looks(void)
{
    qemu_reaps(0, N_VCPUS);
    for (guint i = 0; i < N_SLOTS; i++)
        for (guint64 p = 0; p < layout[i].n && qemu_logs[i]; p++)
            if (must_qemu[i][p] && !found_by_qemu[i][p])
                g_error("QEMU lost page %" G_GUINT64_FORMAT " of slot %u", p, i);
    memset(must_qemu, 0, sizeof must_qemu);
    memset(found_by_qemu, 0, sizeof found_by_qemu);
}

static void qemu_changes_a_slot(guint i)
{
    qemu_reaps(0, N_VCPUS);
    g_assert_cmpint(qemu_set(i, !kvm.slots[i].there, FALSE), ==, 0);
    has_bitmap[i] = qemu_logs[i] = FALSE;
}

static void qemu_changes_its_log(guint i)
{
    if (!kvm.slots[i].there)
        return;
    qemu_logs[i] = !qemu_logs[i];
    has_bitmap[i] |= qemu_logs[i];
    g_assert_cmpint(qemu_set(i, TRUE, qemu_logs[i]), ==, 0);
    memset(must_qemu[i], 0, sizeof must_qemu[i]);
}

/* ---- the monitor ---- */

/* @exact: these and no others. Returns the number of pages found. */
static guint monitor_looks(gboolean rearm, gboolean exact)
{
    guint64 out[RAM_PAGES / 64 + 1] = { 0 };
    guint n = 0;
    g_assert_cmpint(shim_harvest(out, G_N_ELEMENTS(out), rearm), ==, 0);
    for (guint64 p = 0; p < RAM_PAGES; p++) {
        gboolean found = (out[p / 64] >> p % 64) & 1;
        n += found;
        if (must_monitor[p] && !found)
            g_error("the monitor lost page %" G_GUINT64_FORMAT, p);
        if (exact && found && !must_monitor[p])
            g_error("page %" G_GUINT64_FORMAT " was found, and not written", p);
    }
    if (rearm && g_test_rand_int_range(0, 4) == 0) {
        shim_fix_layout();
        shim_give_back(out, G_N_ELEMENTS(out)); /* it all still counts */
        for (guint64 p = 0; p < RAM_PAGES; p++)
            must_monitor[p] |= (out[p / 64] >> p % 64) & 1;
    } else if (rearm) {
        memset(must_monitor, 0, sizeof must_monitor);
    }
    return n;
}

static void monitor_begins(void)
{
    g_assert_cmpint(shim_start(0), ==, 0);
    memset(must_monitor, 0, sizeof must_monitor);
}

/* ---- tests ---- */

static void begin(void)
{
    static struct stasis_shim_page page;
    shim_kernel = fake_kvm;
    shim_zap = fake_zap;
    for (guint v = 0; v < kvm.n_vcpus; v++) {
        munmap(kvm.vcpus[v].run, RING_AT + RING_BYTES);
        munmap(shadow[v], RING_BYTES);
    }
    shim_vcpu_forget_all();
    for (guint v = 0; v < kvm.n_vcpus; v++)
        close(kvm.vcpus[v].fd);
    memset(&shim, 0, sizeof shim);
    memset(&kvm, 0, sizeof kvm);
    shim.vm_fd = VM;
    shim.page = &page;
    memset(&page, 0, sizeof page);
    memset(fetch, 0, sizeof fetch);
    memset(must_qemu, 0, sizeof must_qemu);
    memset(must_monitor, 0, sizeof must_monitor);
    memset(found_by_qemu, 0, sizeof found_by_qemu);
    memset(has_bitmap, 0, sizeof has_bitmap);
    memset(qemu_logs, 0, sizeof qemu_logs);
    ram = mmap(NULL, RAM_PAGES * SHIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
               0);
    g_assert_true(ram != MAP_FAILED);
    shim_vcpu_enable_rings(RING_BYTES);
    g_assert_cmpuint(shim.ring_entries, ==, ENTRIES);
    for (guint v = 0; v < N_VCPUS; v++) {
        g_assert_cmpint(shim_vcpu_create(VM, NULL), ==, kvm.vcpus[v].fd);
        shadow[v] =
            mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, kvm.vcpus[v].fd, RING_AT);
        g_assert_true(shadow[v] != MAP_FAILED && shadow[v] != kvm.vcpus[v].ring);
    }
}

static void nobody_loses(void)
{
    gboolean monitor = FALSE;
    begin();
    for (guint step = 0; step < STEPS; step++) {
        guint i = (guint)g_test_rand_int_range(0, N_SLOTS);
        switch (g_test_rand_int_range(0, 24)) {
        case 0:
            qemu_changes_a_slot(i);
            break;
        case 1:
            qemu_changes_its_log(i);
            break;
        case 2:
        case 3:
            qemu_looks();
            break;
        case 4: /* the reaper, which kicks nobody */
            qemu_reaps(0, N_VCPUS);
            break;
        case 5:
            if (g_test_rand_int_range(0, 8) == 0 && monitor) {
                g_assert_cmpint(shim_stop(), ==, 0);
                monitor = FALSE;
            } else if (!monitor) {
                monitor_begins();
                monitor = TRUE;
            }
            break;
        case 6:
        case 7:
            if (monitor)
                monitor_looks(g_test_rand_int_range(0, 2), FALSE);
            break;
        default:
            vcpu_runs((guint)g_test_rand_int_range(0, N_VCPUS));
        }
        for (guint s = 0; s < N_SLOTS; s++)
            if (kvm.slots[s].there)
                g_assert_cmpint(kvm.slots[s].logging, ==, qemu_logs[s] || monitor);
    }
}

/* With nobody else there the monitor finds what was written, and nothing twice. */
static void exact(void)
{
    begin();
    for (guint i = 0; i < N_SLOTS; i++)
        qemu_set(i, TRUE, FALSE);
    monitor_begins();
    for (guint step = 0; step < STEPS; step++) {
        if (g_test_rand_int_range(0, 10) == 0)
            monitor_looks(g_test_rand_int_range(0, 2), TRUE);
        else
            vcpu_runs((guint)g_test_rand_int_range(0, N_VCPUS));
        g_assert_cmpuint(kvm.vcpus[0].run->exit_reason, !=, KVM_EXIT_DIRTY_RING_FULL);
    }
    g_assert_cmpuint(fetch[0] + fetch[1], ==, 0);
    g_assert_cmpuint(kvm.n_zapped, >, 1000); /* the rings were too small at times */
}

/* What the guest comes back to is not armed before the next harvest, however small the ring. */
static void small(void)
{
    begin();
    qemu_set(2, TRUE, FALSE);
    monitor_begins();
    for (guint round = 0; round < 20; round++) {
        kvm.zap_fails = round % 4 == 3; /* then they count as written until it does not */
        guint64 entries = kvm.vcpus[0].dirty;
        for (guint i = 0; i < 5 * layout[2].n; i++) {
            if (is_soft_full(&kvm.vcpus[0])) {
                kvm.vcpus[0].run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
                shim_vcpu_after(kvm.vcpus[0].fd, KVM_RUN, NULL, 0);
            }
            guest_writes(&kvm.vcpus[0], 2, i % layout[2].n);
        }
        g_assert_cmpuint(kvm.vcpus[0].dirty - entries, <=, layout[2].n + 100);
        monitor_looks(TRUE, FALSE);
    }
    g_assert_cmpuint(kvm.n_zapped, >, 5 * layout[2].n);
}

/* A monitor that harvests often does not make QEMU's ring run over, which is as small as KVM's. */
static void both(void)
{
    begin();
    qemu_set(2, TRUE, FALSE);
    qemu_changes_its_log(2);
    monitor_begins();
    for (guint i = 0; i < 10 * layout[2].n; i++) {
        if (is_soft_full(&kvm.vcpus[0])) {
            kvm.vcpus[0].run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
            shim_vcpu_after(kvm.vcpus[0].fd, KVM_RUN, NULL, 0);
            g_assert_cmpuint(kvm.vcpus[0].run->exit_reason, ==, KVM_EXIT_DIRTY_RING_FULL);
            qemu_reaps(0, N_VCPUS);
        }
        guest_writes(&kvm.vcpus[0], 2, i % layout[2].n);
        if (i % 50 == 0)
            monitor_looks(TRUE, FALSE);
        g_assert_cmpuint(shim.vcpus[0].given - shim.vcpus[0].taken, <=, ENTRIES - RESERVED);
    }
    shim_vcpu_after(kvm.vcpus[0].fd, KVM_GET_REGS, NULL, 0);
    qemu_looks();
}

/* Arming that is cut short: what may not be armed counts as written. */
static void signals(void)
{
    begin();
    for (guint i = 0; i < N_SLOTS; i++)
        qemu_set(i, TRUE, FALSE);
    qemu_changes_its_log(1);
    monitor_begins();
    kvm.cuts_short = TRUE;
    for (guint step = 0; step < STEPS; step++)
        if (step % 500 == 0)
            qemu_changes_its_log(1); /* in a slot that QEMU logs it stays doubtful */
        else if (g_test_rand_int_range(0, 10) == 0)
            monitor_looks(g_test_rand_int_range(0, 2), FALSE);
        else
            vcpu_runs((guint)g_test_rand_int_range(0, N_VCPUS));
    g_assert_cmpuint(kvm.n_cut, >, 100);
}

/* Rings that run over: all counts as written, and the guest does not stand still. */
static void overflows(void)
{
    guint n_exact = 0;
    begin();
    for (guint i = 0; i < N_SLOTS; i++)
        qemu_set(i, TRUE, FALSE);
    monitor_begins();
    for (guint step = 0; step < STEPS; step++) {
        kvm.interprets = step % 1000 < 500;
        if (g_test_rand_int_range(0, 10) == 0)
            n_exact += monitor_looks(g_test_rand_int_range(0, 2), FALSE) < RAM_PAGES / 2;
        else
            vcpu_runs((guint)g_test_rand_int_range(0, N_VCPUS));
        for (guint v = 0; v < N_VCPUS; v++)
            g_assert_cmpuint(kvm.vcpus[v].run->exit_reason, !=, KVM_EXIT_DIRTY_RING_FULL);
    }
    g_assert_cmpuint(kvm.n_lost, >, 10000);
    g_assert_cmpuint(n_exact, >, 100); /* it finds its way back */
}

/* A ring that is full when the logs go off does not keep its vCPU from running. */
static void off_when_full(void)
{
    for (guint round = 0; round < 2; round++) {
        begin();
        qemu_set(2, TRUE, FALSE);
        monitor_begins();
        if (round == 1)
            qemu_changes_its_log(2);
        for (guint i = 0; i < ENTRIES - RESERVED; i++)
            guest_writes(&kvm.vcpus[0], 2, i);
        g_assert_cmpint(shim_stop(), ==, 0);
        if (round == 1)
            qemu_changes_its_log(2);
        for (guint i = 0; i < 10; i++)
            vcpu_runs(0);
        g_assert_cmpuint(kvm.vcpus[0].run->exit_reason, !=, KVM_EXIT_DIRTY_RING_FULL);
        g_assert_false(shim.watched);
    }
}

/* A vCPU that is unplugged and plugged again is collected from the beginning. */
static void mapped_again(void)
{
    begin();
    qemu_set(0, TRUE, FALSE);
    qemu_changes_its_log(0);
    for (guint i = 0; i < 100; i++) {
        guest_writes(&kvm.vcpus[0], 0, i);
        if (i == 40) {
            shim_vcpu_after(kvm.vcpus[0].fd, KVM_GET_REGS, NULL, 0);
            qemu_looks();
        }
    }
    shim_vcpu_after(kvm.vcpus[0].fd, KVM_GET_REGS, NULL, 0);
    munmap(shadow[0], RING_BYTES);
    shadow[0] =
        mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, kvm.vcpus[0].fd, RING_AT);
    fetch[0] = 0;
    qemu_looks();
    g_assert_cmpuint(fetch[0], ==, 59);
    /* KVM has no such mappings, and one that would be half ours is none of QEMU's making. */
    int fd = kvm.vcpus[0].fd, rw = PROT_READ | PROT_WRITE;
    g_assert_true(mmap(NULL, RING_AT + SHIM_PAGE, rw, MAP_SHARED, fd, 0) == MAP_FAILED);
    g_assert_true(mmap(NULL, SHIM_PAGE, rw, MAP_PRIVATE, fd, RING_AT) == MAP_FAILED);
    void *run = mmap(NULL, SHIM_PAGE, rw, MAP_SHARED, fd, 0);
    g_assert_true(run != MAP_FAILED);
    munmap(run, SHIM_PAGE);
}

/* A first mapping that we don't understand: QEMU gets KVM's rings, and the log is not for us. */
static void given_up(void)
{
    begin();
    shim.vcpus[0].shown = shim.vcpus[1].shown = false;
    int fd = kvm.vcpus[0].fd;
    char *all = mmap(NULL, RING_AT + RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    g_assert_true(all != MAP_FAILED);
    kvm.vcpus[0].ring[3].offset = 42;
    g_assert_cmpuint(((struct kvm_dirty_gfn *)(all + RING_AT))[3].offset, ==, 42);
    g_assert_cmpint(shim_start(0), ==, -EOPNOTSUPP);
    g_assert_cmpuint(shim.page->state, ==, STASIS_SHIM_RING);
    munmap(all, RING_AT + RING_BYTES);
    for (guint64 bytes = 0; bytes < 20000; bytes += 1000) {
        shim_vcpu_enable_rings(bytes);
        g_assert_true(shim.ring_refused);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/shim/ring/nobody-loses", nobody_loses);
    g_test_add_func("/shim/ring/exact", exact);
    g_test_add_func("/shim/ring/small", small);
    g_test_add_func("/shim/ring/both", both);
    g_test_add_func("/shim/ring/signals", signals);
    g_test_add_func("/shim/ring/overflows", overflows);
    g_test_add_func("/shim/ring/off-when-full", off_when_full);
    g_test_add_func("/shim/ring/mapped-again", mapped_again);
    g_test_add_func("/shim/ring/given-up", given_up);
    return g_test_run();
}
