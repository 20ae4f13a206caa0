/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Promise: of one dirty log of KVM's, QEMU and the monitor each see every page that was written
 * since they last looked, whatever the other does, with manual protection or without; and what QEMU
 * asks of KVM is answered as KVM would.
 *
 * KVM is played by a model here, in which a guest writes at random. For each reader a second model
 * knows which pages it must find.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shim/shim.h"

#define VM 77
#define N_SLOTS 5u
#define RAM_PAGES 1000u
#define STEPS 20000u

/* Slots of a firmware's making: not at multiples of 64 pages, and of odd lengths; two that are
 * whole words of a bitmap, and one that shows a part of the first a second time. */
static const struct {
    guint64 first, n;
} layout[N_SLOTS] = { { 0, 128 }, { 196, 4 }, { 203, 797 }, { 128, 64 }, { 64, 32 } };

typedef struct {
    gboolean there, logging;
    guint64 address, n;
    guint64 bits[RAM_PAGES / 64 + 2];
} Slot;

static Slot slots[N_SLOTS];
static guint64 manual;
static guint8 *ram;

static gboolean test_bit(const guint64 *bits, guint64 i)
{
    return (bits[i / 64] >> i % 64) & 1;
}

static int kvm_set(const struct kvm_userspace_memory_region *region)
{
    Slot *slot = &slots[region->slot];
    gboolean log = (region->flags & KVM_MEM_LOG_DIRTY_PAGES) != 0;
    if (region->memory_size == 0) {
        if (!slot->there)
            return -EINVAL;
        *slot = (Slot){ 0 };
        return 0;
    }
    if (slot->there &&
        (slot->address != region->userspace_addr || slot->n != region->memory_size / SHIM_PAGE))
        return -EINVAL;
    if (log && !slot->logging)
        memset(slot->bits, manual & KVM_DIRTY_LOG_INITIALLY_SET ? 0xff : 0, sizeof slot->bits);
    slot->there = TRUE;
    slot->logging = log;
    slot->address = region->userspace_addr;
    slot->n = region->memory_size / SHIM_PAGE;
    return 0;
}

static int kvm_get(struct kvm_dirty_log *log)
{
    Slot *slot = &slots[log->slot];
    if (!slot->there || !slot->logging)
        return -ENOENT;
    memcpy(log->dirty_bitmap, slot->bits, shim_words(slot->n) * 8);
    if (slot->n % 64 != 0)
        ((guint64 *)log->dirty_bitmap)[slot->n / 64] &= ((guint64)1 << slot->n % 64) - 1;
    if (manual == 0)
        memset(slot->bits, 0, sizeof slot->bits);
    return 0;
}

static int kvm_clear(const struct kvm_clear_dirty_log *clear)
{
    Slot *slot = &slots[clear->slot];
    guint64 first = clear->first_page, n = clear->num_pages;
    if (!slot->there || !slot->logging)
        return -ENOENT;
    if (first % 64 != 0 || first + n > slot->n || (n % 64 != 0 && first + n != slot->n) ||
        manual == 0)
        return -EINVAL;
    for (guint64 i = 0; i < n; i++)
        if (test_bit(clear->dirty_bitmap, i))
            slot->bits[(first + i) / 64] &= ~((guint64)1 << (first + i) % 64);
    return 0;
}

static int fake_kvm(int fd, unsigned long request, void *arg)
{
    g_assert_cmpint(fd, ==, VM);
    switch (request) {
    case KVM_SET_USER_MEMORY_REGION:
        return kvm_set(arg);
    case KVM_GET_DIRTY_LOG:
        return kvm_get(arg);
    case KVM_CLEAR_DIRTY_LOG:
        return kvm_clear(arg);
    default:
        return -ENOTTY;
    }
}

/* ---- the two readers and the guest ---- */

typedef struct {
    guint64 must[N_SLOTS][RAM_PAGES / 64 + 1]; /* QEMU's: written since its last look */
    guint64 ours[RAM_PAGES / 64 + 1];          /* the same for the monitor, by page of RAM */
    gboolean monitor;
} Model;

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

static void guest_writes(Model *model, guint i, guint64 page)
{
    if (!slots[i].there)
        return;
    if (slots[i].logging)
        slots[i].bits[page / 64] |= (guint64)1 << page % 64;
    model->must[i][page / 64] |= (guint64)1 << page % 64;
    guint64 at = layout[i].first + page;
    model->ours[at / 64] |= (guint64)1 << at % 64;
}

static void qemu_looks(Model *model, guint i, gboolean wants_log)
{
    guint64 bits[RAM_PAGES / 64 + 1] = { 0 };
    struct kvm_dirty_log log = { .slot = i, .dirty_bitmap = bits };
    int r = shim_get_log(VM, &log);
    g_assert_cmpint(r, ==, slots[i].there && wants_log ? 0 : -ENOENT);
    if (r < 0)
        return;
    for (guint64 p = 0; p < layout[i].n; p++)
        if (test_bit(model->must[i], p) && !test_bit(bits, p))
            g_error("QEMU lost page %" G_GUINT64_FORMAT " of slot %u", p, i);
    struct kvm_clear_dirty_log clear = { .slot = i,
                                         .num_pages = (guint32)layout[i].n,
                                         .dirty_bitmap = bits };
    if (manual != 0)
        g_assert_cmpint(shim_clear_log(VM, &clear), ==, 0);
    memset(model->must[i], 0, sizeof model->must[i]);
}

static void monitor_looks(Model *model, gboolean rearm)
{
    guint64 out[RAM_PAGES / 64 + 1] = { 0 };
    g_assert_cmpint(shim_harvest(out, G_N_ELEMENTS(out), rearm), ==, 0);
    for (guint64 p = 0; p < RAM_PAGES; p++)
        if (test_bit(model->ours, p) && !test_bit(out, p))
            g_error("the monitor lost page %" G_GUINT64_FORMAT, p);
    if (rearm && g_test_rand_int_range(0, 4) == 0) {
        shim_fix_layout();
        shim_give_back(out, G_N_ELEMENTS(out)); /* it all still counts */
    } else if (rearm) {
        memset(model->ours, 0, sizeof model->ours);
    }
}

static void reset_shim(guint64 caps)
{
    static struct stasis_shim_page page;
    shim = (struct shim){ .vm_fd = VM, .manual = caps, .page = &page };
    memset(slots, 0, sizeof slots);
    memset(&page, 0, sizeof page);
    manual = caps;
    shim_kernel = fake_kvm;
    ram = mmap(NULL, RAM_PAGES * SHIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
               0);
    g_assert_true(ram != MAP_FAILED);
}

static void nobody_loses(gconstpointer data)
{
    Model model = { 0 };
    gboolean log[N_SLOTS] = { FALSE };
    reset_shim(GPOINTER_TO_SIZE(data));
    for (guint step = 0; step < STEPS; step++) {
        guint i = (guint)g_test_rand_int_range(0, N_SLOTS);
        switch (g_test_rand_int_range(0, 24)) {
        case 0: /* firmware makes or deletes a slot */
            log[i] = log[i] && slots[i].there;
            g_assert_cmpint(qemu_set(i, !slots[i].there, FALSE), ==, 0);
            log[i] = FALSE;
            memset(model.must[i], 0, sizeof model.must[i]);
            break;
        case 1:
            if (slots[i].there) {
                log[i] = !log[i];
                g_assert_cmpint(qemu_set(i, TRUE, log[i]), ==, 0);
                memset(model.must[i], 0, sizeof model.must[i]);
            }
            break;
        case 2:
        case 3:
            qemu_looks(&model, i, log[i]);
            break;
        case 4:
            if (g_test_rand_int_range(0, 8) == 0 && model.monitor) {
                g_assert_cmpint(shim_stop(), ==, 0);
                model.monitor = FALSE;
            } else if (!model.monitor) {
                g_assert_cmpint(shim_start(0), ==, 0);
                model.monitor = TRUE;
                memset(model.ours, 0, sizeof model.ours);
            }
            break;
        case 5:
        case 6:
            if (model.monitor)
                monitor_looks(&model, g_test_rand_int_range(0, 2));
            break;
        default:
            guest_writes(&model, i, (guint64)g_test_rand_int_range(0, (gint32)layout[i].n));
        }
        for (guint s = 0; s < N_SLOTS; s++)
            if (slots[s].there)
                g_assert_cmpint(slots[s].logging, ==, log[s] || model.monitor);
    }
}

/* QEMU's slots are at KVM with the address of the second mapping; what we don't take, unchanged. */
static void address_is_the_views(void)
{
    reset_shim(0);
    g_assert_cmpint(qemu_set(1, TRUE, FALSE), ==, 0);
    g_assert_cmpuint(slots[1].address, !=, (guint64)ram + layout[1].first * SHIM_PAGE);
    ram[layout[1].first * SHIM_PAGE] = 42;
    g_assert_cmpint(*(guint8 *)slots[1].address, ==, 42);
    static guint8 own[SHIM_PAGE] __attribute__((aligned(SHIM_PAGE)));
    struct kvm_userspace_memory_region region = { .slot = 2,
                                                  .memory_size = SHIM_PAGE,
                                                  .userspace_addr = (guint64)own };
    g_assert_cmpint(shim_set_region(VM, KVM_SET_USER_MEMORY_REGION, &region), ==, 0);
    g_assert_cmpuint(slots[2].address, ==, (guint64)own);
    /* A resize is refused by KVM, and by us with it. */
    region.memory_size *= 2;
    g_assert_cmpint(shim_set_region(VM, KVM_SET_USER_MEMORY_REGION, &region), ==, -EINVAL);
    /* Gone is gone: the second mapping goes when QEMU's own has. */
    guint64 view = slots[1].address;
    g_assert_cmpint(qemu_set(1, FALSE, FALSE), ==, 0);
    g_assert_true(shim_ranges_reap());
    munmap(ram, RAM_PAGES * SHIM_PAGE);
    g_assert_false(shim_ranges_reap());
    guchar vec;
    g_assert_cmpint(mincore((void *)view, SHIM_PAGE, &vec), ==, -1);
}

static void bits(void)
{
    for (guint round = 0; round < 2000; round++) {
        guint64 from[4] = { 0 }, to[8] = { 0 };
        guint64 n = (guint64)g_test_rand_int_range(0, 257);
        guint64 at = (guint64)g_test_rand_int_range(0, 200);
        for (guint w = 0; w < 4; w++)
            from[w] = (guint64)g_test_rand_int() << 32 | (guint32)g_test_rand_int();
        shim_bits_or(to, at, from, n);
        for (guint64 i = 0; i < 512; i++)
            g_assert_cmpint(test_bit(to, i), ==, i >= at && i < at + n && test_bit(from, i - at));
        memset(to, 0, sizeof to);
        shim_bits_set(to, at, n);
        for (guint64 i = 0; i < 512; i++)
            g_assert_cmpint(test_bit(to, i), ==, i >= at && i < at + n);
    }
}

static void lines_of_maps(void)
{
    struct shim_mapping m;
    g_assert_true(
        shim_mapping_parse("7f00-8f00 rw-s 00001000 00:01 2720   /memfd:x (deleted)\n", &m));
    g_assert_cmpuint(m.start, ==, 0x7f00);
    g_assert_cmpuint(m.offset, ==, 0x1000);
    g_assert_cmpuint(m.inode, ==, 2720);
    g_assert_true(m.shared && m.writable);
    for (const char *const *bad =
             (const char *const[]){ "", "x", "1-", "2-1 rw-s 0 0:0 1 \n", "1-2 rw", "1-2 rw-s z",
                                    "1-2 rw-s 0 00:01", "1-2rw-s 0 0:0 1 \n",
                                    "111111111111111111111111-2 rw-s 0 0:0 1 \n", NULL };
         *bad != NULL; bad++)
        g_assert_false(shim_mapping_parse(*bad, &m));
}

static void messages(void)
{
    struct stasis_shim_request good = { .magic = (guint32)STASIS_SHIM_MAGIC,
                                        .abi = STASIS_SHIM_ABI,
                                        .bytes = sizeof good };
    g_assert_cmpint(shim_check_request(&good, sizeof good), ==, 0);
    for (size_t n = 0; n < 2 * sizeof good; n++)
        if (n != sizeof good)
            g_assert_cmpint(shim_check_request(&good, n), ==, -EPROTO);
    good.bytes++;
    g_assert_cmpint(shim_check_request(&good, sizeof good), ==, -EPROTO);
    good.bytes--;
    good.abi++;
    g_assert_cmpint(shim_check_request(&good, sizeof good), ==, -EPROTONOSUPPORT);
}

static void send_fds(int socket, const int *fds, size_t n)
{
    struct stasis_shim_request request = { 0 };
    struct iovec part = { &request, sizeof request };
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(5 * sizeof(int))];
    } control = { 0 };
    struct msghdr message = { .msg_iov = &part,
                              .msg_iovlen = 1,
                              .msg_control = n > 0 ? &control : NULL,
                              .msg_controllen = n > 0 ? CMSG_SPACE(n * sizeof(int)) : 0 };
    if (n > 0) {
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(&control.head), fds, n * sizeof(int));
    }
    g_assert_cmpint(sendmsg(socket, &message, 0), ==, sizeof request);
}

/* One descriptor comes with a message, or none; of more, none stays open. */
static void descriptors(void)
{
    int ends[2], fds[5], received;
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), ==, 0);
    for (guint i = 0; i < 5; i++)
        fds[i] = memfd_create("test", 0);
    int next = dup(0);
    close(next);
    for (size_t n = 0; n <= 5; n++) {
        struct stasis_shim_request request;
        send_fds(ends[0], fds, n);
        ssize_t got = shim_receive(ends[1], &request, &received);
        if (n > 1)
            g_assert_cmpint(got, ==, -EPROTO);
        else
            g_assert_cmpint(got, ==, sizeof request);
        g_assert_cmpint(received, ==, n == 1 ? next : -1);
        if (n == 1)
            close(received);
        int free_now = dup(0);
        g_assert_cmpint(free_now, ==, next);
        close(free_now);
    }
    for (guint i = 0; i < 5; i++)
        close(fds[i]);
    close(ends[0]);
    close(ends[1]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/shim/log/plain", GSIZE_TO_POINTER(0), nobody_loses);
    g_test_add_data_func("/shim/log/manual", GSIZE_TO_POINTER(1), nobody_loses);
    g_test_add_data_func("/shim/log/initially-set", GSIZE_TO_POINTER(3), nobody_loses);
    g_test_add_func("/shim/slots/address", address_is_the_views);
    g_test_add_func("/shim/bits", bits);
    g_test_add_func("/shim/maps", lines_of_maps);
    g_test_add_func("/shim/messages", messages);
    g_test_add_func("/shim/descriptors", descriptors);
    return g_test_run();
}
