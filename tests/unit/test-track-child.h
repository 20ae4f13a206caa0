/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process that stands for a VM in the tests of hv/track and hv/copy: it has RAM of several kinds
 * and writes to it on command, or all the time from threads of its own. It is this program run
 * again, so that it is a stranger to us, as QEMU is, also under a sanitizer or valgrind.
 *
 * What a write puts into a page is a number, at the page's begin and end.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "track/tracker.h"
#include "vmm/ram.h"
#include <stasis/error.h>

#define TEST_PAGE 4096u
#define TEST_BLOCKS 3u
#define TEST_HAMMERS 2u
#define TEST_HANG_US 120000000u

/* "huge" is anonymous memory on transparent huge pages; "memfd" has more pages, every other one of
 * which is a region of its own, than a tracker finds in one scan. */
enum { TEST_ANON, TEST_HUGE, TEST_MEMFD };
static const guint64 test_n_pages[TEST_BLOCKS] = { 701, 1024, 9001 };
static const char *const test_names[TEST_BLOCKS] = { "anon", "huge", "memfd" };

typedef enum {
    TEST_WRITE,        /* store @value to @n pages from @first on, each @step behind the last */
    TEST_KERNEL_WRITE, /* the same, by a system call's writing there */
    TEST_READ,         /* load */
    TEST_HAMMER,       /* begin to write all the time; pause @value µs after each 32 writes */
    TEST_REST,         /* stop that */
    TEST_REMAP,        /* replace block @block by fresh memory at the same address */
    TEST_FOREIGN,      /* register block @block with a userfaultfd of its own (1) or end that (0) */
} TestOp;

typedef struct {
    TestOp op;
    guint block;
    guint64 first, n, step, value;
} TestOrder;

/* Shared with the child. */
typedef struct {
    guint64 hva[TEST_BLOCKS];
    guint64 pause_us;
    guint64 version; /* of the last write of any hammer; atomic */
    gint hammering;
} TestControl;

typedef struct {
    pid_t pid;
    int order_fd, answer_fd, memfd;
    TestControl *control;
} TestChild;

/* ---- in the child ---- */

static inline void test_store(guint8 *page, guint64 value)
{
    __atomic_store_n((guint64 *)page, value, __ATOMIC_RELAXED);
    __atomic_store_n((guint64 *)(page + TEST_PAGE) - 1, value, __ATOMIC_RELAXED);
}

/* A few pages often and all pages now and then; numbers only rise. */
static inline void *test_hammer(void *data)
{
    TestControl *control = data;
    g_autoptr(GRand) rand = g_rand_new_with_seed((guint32)syscall(SYS_gettid));
    for (guint64 i = 0; __atomic_load_n(&control->hammering, __ATOMIC_ACQUIRE); i++) {
        guint block = (guint)g_rand_int_range(rand, 0, TEST_BLOCKS);
        gint32 span = (gint32)test_n_pages[block];
        guint64 page = (guint64)g_rand_int_range(rand, 0, i % 4 == 0 ? span : span / 50);
        guint8 *at = (guint8 *)control->hva[block] + page * TEST_PAGE;
        test_store(at, __atomic_add_fetch(&control->version, 1, __ATOMIC_RELAXED));
        if (control->pause_us > 0 && i % 32 == 0)
            g_usleep(control->pause_us);
    }
    return NULL;
}

static inline gint64 test_own_uffd(guint64 start, guint64 len, gboolean begin)
{
    static int fd = -1;
    if (!begin)
        return close(fd);
    fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
    struct uffdio_register arg = { .range = { start, len }, .mode = UFFDIO_REGISTER_MODE_WP };
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &arg) < 0)
        return -errno;
    return 0;
}

static inline gint64 test_touch(const TestOrder *order, guint64 hva, const int pipe_fds[2])
{
    guint64 sum = 0;
    for (guint64 i = 0; i < order->n; i++) {
        guint8 *page = (guint8 *)hva + (order->first + i * order->step) * TEST_PAGE;
        guint64 values[TEST_PAGE / 8];
        values[0] = values[TEST_PAGE / 8 - 1] = order->value + i;
        if (order->op == TEST_WRITE)
            test_store(page, order->value + i);
        else if (order->op == TEST_READ)
            sum += *(volatile guint8 *)(page + 100);
        else if (write(pipe_fds[1], values, TEST_PAGE) != TEST_PAGE ||
                 read(pipe_fds[0], page, TEST_PAGE) != TEST_PAGE)
            return -errno;
    }
    return (gint64)(sum & 0xff);
}

static inline gint64 test_obey(const TestOrder *order, TestControl *control,
                               pthread_t hammers[TEST_HAMMERS], const int pipe_fds[2])
{
    guint64 hva = control->hva[order->block], len = test_n_pages[order->block] * TEST_PAGE;
    switch (order->op) {
    case TEST_HAMMER:
        control->pause_us = order->value;
        __atomic_store_n(&control->hammering, 1, __ATOMIC_RELEASE);
        for (guint i = 0; i < TEST_HAMMERS; i++)
            pthread_create(&hammers[i], NULL, test_hammer, control);
        return 0;
    case TEST_REST:
        __atomic_store_n(&control->hammering, 0, __ATOMIC_RELEASE);
        for (guint i = 0; i < TEST_HAMMERS; i++)
            pthread_join(hammers[i], NULL);
        return 0;
    case TEST_REMAP:
        return mmap((void *)hva, len, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED
                   ? -errno
                   : 0;
    case TEST_FOREIGN:
        return test_own_uffd(hva, len, order->value != 0);
    default:
        return test_touch(order, hva, pipe_fds);
    }
}

static inline guint64 test_map_block(guint block, int memfd)
{
    const guint64 align = 2u << 20;
    guint64 len = test_n_pages[block] * TEST_PAGE;
    if (block == TEST_MEMFD)
        return (guint64)mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    /* A gap on both sides, so that no two of them become one mapping. */
    guint8 *room =
        mmap(NULL, len + 2 * align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    guint8 *start = (guint8 *)(((guint64)room + align) & ~(align - 1));
    mprotect(start, len, PROT_READ | PROT_WRITE);
    madvise(start, len, block == TEST_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return (guint64)start;
}

/* main() begins with it. As "--vm ORDERS ANSWERS MEMFD CONTROL" (descriptors) it doesn't return. */
static inline void test_be_child(int argc, char **argv)
{
    if (argc != 6 || strcmp(argv[1], "--vm") != 0)
        return;
    int order_fd = atoi(argv[2]), answer_fd = atoi(argv[3]), pipe_fds[2];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    TestControl *control =
        mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[5]), 0);
    for (guint i = 0; i < TEST_BLOCKS; i++)
        control->hva[i] = test_map_block(i, atoi(argv[4]));
    close(atoi(argv[4]));
    close(atoi(argv[5]));
    pthread_t hammers[TEST_HAMMERS];
    TestOrder order;
    gint64 answer = pipe2(pipe_fds, O_CLOEXEC);
    do {
        stasis_write_all(answer_fd, &answer, sizeof(answer));
        if (stasis_read_all(order_fd, &order, sizeof(order)) < 0)
            break;
        answer = test_obey(&order, control, hammers, pipe_fds);
    } while (TRUE);
    _exit(0);
}

/* ---- in the test ---- */

static const char *test_program; /* set by main() from argv[0] */

static inline gint64 test_answer(TestChild *child)
{
    gint64 answer = 0;
    g_assert_cmpint(stasis_read_all(child->answer_fd, &answer, sizeof(answer)), ==, 0);
    return answer;
}

static inline void test_send(TestChild *child, const TestOrder *order)
{
    g_assert_cmpint(stasis_write_all(child->order_fd, order, sizeof(*order)), ==, 0);
}

static inline gint64 test_order(TestChild *child, const TestOrder *order)
{
    test_send(child, order);
    return test_answer(child);
}

static inline TestChild *test_child_new(void)
{
    TestChild *child = g_new0(TestChild, 1);
    int orders[2], answers[2], control_fd = memfd_create("control", 0);
    child->memfd = memfd_create("guest-ram", 0);
    g_assert_cmpint(ftruncate(child->memfd, (off_t)(test_n_pages[TEST_MEMFD] * TEST_PAGE)), ==, 0);
    g_assert_cmpint(ftruncate(control_fd, sizeof(TestControl)), ==, 0);
    child->control =
        mmap(NULL, sizeof(TestControl), PROT_READ | PROT_WRITE, MAP_SHARED, control_fd, 0);
    g_assert_true(child->control != MAP_FAILED);
    g_assert_cmpint(pipe(orders), ==, 0);
    g_assert_cmpint(pipe(answers), ==, 0);
    char words[4][16];
    const int fds[4] = { orders[0], answers[1], child->memfd, control_fd };
    for (guint i = 0; i < 4; i++)
        g_snprintf(words[i], sizeof(words[i]), "%d", fds[i]);
    child->pid = fork();
    if (child->pid == 0) {
        close(orders[1]);
        close(answers[0]);
        execl(test_program, test_program, "--vm", words[0], words[1], words[2], words[3], NULL);
        _exit(127);
    }
    close(orders[0]);
    close(answers[1]);
    close(control_fd);
    child->order_fd = orders[1];
    child->answer_fd = answers[0];
    /* None of them goes on to the next child or helper. */
    for (guint i = 0; i < 3; i++)
        fcntl((int[]){ child->order_fd, child->answer_fd, child->memfd }[i], F_SETFD, FD_CLOEXEC);
    g_assert_cmpint(test_answer(child), ==, 0);
    return child;
}

static inline void test_child_free(TestChild *child)
{
    kill(child->pid, SIGKILL);
    g_assert_cmpint(waitpid(child->pid, NULL, 0), ==, child->pid);
    close(child->order_fd);
    close(child->answer_fd);
    close(child->memfd);
    munmap(child->control, sizeof(TestControl));
    g_free(child);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TestChild, test_child_free)

static inline void test_free_block(gpointer data)
{
    StasisRamBlock *block = data;
    if (block->fd >= 0)
        close(block->fd);
    g_free(block->name);
    g_free(block);
}

/* Its RAM, as stasis_ram_discover() would tell it. */
static inline StasisRam *test_ram_at(pid_t pid, const guint64 hva[TEST_BLOCKS], int memfd)
{
    StasisRam *ram = g_new0(StasisRam, 1);
    ram->pid = pid;
    ram->blocks = g_ptr_array_new_with_free_func(test_free_block);
    for (guint i = 0; i < TEST_BLOCKS; i++) {
        StasisRamBlock *block = g_new0(StasisRamBlock, 1);
        block->name = g_strdup(test_names[i]);
        block->hva = hva[i];
        block->size_bytes = block->max_bytes = test_n_pages[i] * TEST_PAGE;
        block->page_bytes = TEST_PAGE;
        block->shared = i == TEST_MEMFD;
        block->backing = block->shared ? STASIS_BACKING_MEMFD : STASIS_BACKING_ANONYMOUS;
        block->fd = block->shared && memfd >= 0 ? fcntl(memfd, F_DUPFD_CLOEXEC, 3) : -1;
        block->source_fd = -1;
        ram->total_bytes += block->size_bytes;
        g_ptr_array_add(ram->blocks, block);
    }
    g_autofree char *path = g_strdup_printf("/proc/%d/pagemap", (int)pid);
    ram->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(ram->pagemap_fd, >=, 0);
    return ram;
}

static inline StasisRam *test_ram(TestChild *child)
{
    return test_ram_at(child->pid, child->control->hva, child->memfd);
}

static inline void test_write(TestChild *child, guint block, guint64 first, guint64 n, guint64 step,
                              guint64 value)
{
    TestOrder order = { TEST_WRITE, block, first, n, step, value };
    g_assert_cmpint(test_order(child, &order), >=, 0);
}

static inline void test_hammer_begin(TestChild *child, guint64 pause_us)
{
    test_order(child, &(TestOrder){ .op = TEST_HAMMER, .value = pause_us });
}

static inline void test_hammer_end(TestChild *child)
{
    test_order(child, &(TestOrder){ .op = TEST_REST });
}

static inline guint64 test_version(TestChild *child)
{
    return __atomic_load_n(&child->control->version, __ATOMIC_RELAXED);
}

/* The hammers get @n writes further, so nobody waits for good. */
static inline void test_wait_writes(TestChild *child, guint64 n)
{
    guint64 begin = test_version(child), deadline = stasis_now_us() + TEST_HANG_US;
    while (test_version(child) < begin + n) {
        g_assert_cmpuint(stasis_now_us(), <, deadline);
        g_usleep(200);
    }
}

/* All its threads stand still. */
static inline void test_freeze(TestChild *child)
{
    int status;
    kill(child->pid, SIGSTOP);
    g_assert_cmpint(waitpid(child->pid, &status, WUNTRACED), ==, child->pid);
    g_assert_true(WIFSTOPPED(status));
}

static inline void test_thaw(TestChild *child)
{
    int status;
    kill(child->pid, SIGCONT);
    g_assert_cmpint(waitpid(child->pid, &status, WCONTINUED), ==, child->pid);
    g_assert_true(WIFCONTINUED(status));
}

/* All of a block, by a way that is none of ours. */
static inline guint8 *test_content(TestChild *child, guint block)
{
    gsize len = test_n_pages[block] * TEST_PAGE;
    guint8 *content = g_malloc(len);
    struct iovec local = { content, len }, remote = { (void *)child->control->hva[block], len };
    g_assert_cmpint(process_vm_readv(child->pid, &local, 1, &remote, 1, 0), ==, len);
    return content;
}

static inline guint64 test_page(pid_t pid, guint64 hva, guint64 page)
{
    guint64 value = 0;
    struct iovec local = { &value, 8 }, remote = { (void *)(hva + page * TEST_PAGE), 8 };
    g_assert_cmpint(process_vm_readv(pid, &local, 1, &remote, 1, 0), ==, 8);
    return value;
}

/* ---- what is left in a process ---- */

static inline guint test_count_uffds(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    guint n = 0;
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *link = g_build_filename(path, name, NULL);
        g_autofree char *target = g_file_read_link(link, NULL);
        n += target != NULL && strstr(target, "userfaultfd") != NULL;
    }
    return n;
}

/* Pages with bit 57, "uffd-wp write-protected" (Documentation/admin-guide/mm/pagemap.rst). */
static inline guint64 test_count_protected(TestChild *child)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/pagemap", (int)child->pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    guint64 n = 0;
    for (guint b = 0; b < TEST_BLOCKS; b++) {
        gsize len = test_n_pages[b] * 8;
        g_autofree guint64 *entries = g_malloc(len);
        off_t at = (off_t)(child->control->hva[b] / TEST_PAGE * 8);
        g_assert_cmpint(pread(fd, entries, len, at), ==, len);
        for (guint64 i = 0; i < test_n_pages[b]; i++)
            n += entries[i] >> 57 & 1;
    }
    close(fd);
    return n;
}

/* Mappings with flag "uw": registered for write protection. */
static inline guint test_count_registered(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps", (int)pid);
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    guint n = 0;
    for (char **line = lines; *line != NULL; line++)
        n += g_str_has_prefix(*line, "VmFlags:") && strstr(*line, " uw") != NULL;
    return n;
}

static inline void test_assert_clean(TestChild *child)
{
    g_assert_cmpuint(test_count_uffds(child->pid), ==, 0);
    g_assert_cmpuint(test_count_protected(child), ==, 0);
#ifndef __SANITIZE_ADDRESS__ /* terabytes of shadow make smaps slow */
    g_assert_cmpuint(test_count_registered(child->pid), ==, 0);
#endif
}
