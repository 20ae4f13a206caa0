/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process for the tests of hv/track/inject.h: it sits in one kind of wait or computes, and tells
 * in shared memory what it saw. It is this program run again.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define SUBJECT_HANG_US 120000000u
#define SUBJECT_WAIT_MS 250

typedef enum {
    SUBJECT_COMPUTE,   /* all registers hold something; loops counts */
    SUBJECT_READ,      /* read(2) of bytes 0, 1, 2 … from a pipe; loops counts those read */
    SUBJECT_POLL,      /* poll(2) for SUBJECT_WAIT_MS, again and again */
    SUBJECT_PPOLL,     /* ppoll(2) with SIGUSR1 let in only there, for good */
    SUBJECT_FUTEX,     /* FUTEX_WAIT without a time-out, until woken */
    SUBJECT_NANOSLEEP, /* for SUBJECT_WAIT_MS, again and again */
    SUBJECT_N,
} SubjectKind;

static const char *const subject_names[] = { "compute", "read",  "poll",
                                             "ppoll",   "futex", "nanosleep" };

/* Shared. Counters are atomic. */
typedef struct {
    guint64 loops, wrong; /* rounds done, and rounds with another outcome than promised */
    guint64 n_eintr, n_signals, worst_late_us;
    guint32 futex;
    char path[32];
    guint64 path_address; /* of path, there */
} Subject;

typedef struct {
    pid_t pid;
    int pipe_fd;
    Subject *shared;
} SubjectProcess;

static Subject *subject; /* there */

static inline void subject_add(guint64 *counter)
{
    __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static inline guint64 subject_get(const guint64 *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* ---- there: registers ---- */

#define EACH8(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define EACH16(X) EACH8(X) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define STRING(x) #x
#define YMM_LOAD(i) "vmovdqu 32*" STRING(i) "(%rdi), %ymm" STRING(i) "\n"
#define YMM_STORE(i) "vmovdqu %ymm" STRING(i) ", 32*" STRING(i) "(%rsi)\n"
#define XMM_LOAD(i) "movdqu 32*" STRING(i) "(%rdi), %xmm" STRING(i) "\n"
#define XMM_STORE(i) "movdqu %xmm" STRING(i) ", 32*" STRING(i) "(%rsi)\n"
#define PUSHES "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
#define POPS "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\n"

/* Load the vector registers from rdi, the others and the red zone from what is behind; turn round
 * rdx times, touching nothing else; store everything to rsi in the same order. */
#define SPIN(name, load, store)                                                                    \
    ".globl " name "\n.type " name ",@function\n" name ":\n" PUSHES EACH16(                        \
        load) "mov 512(%rdi), %rax\nmov 520(%rdi), %rbx\nmov 528(%rdi), %rcx\nmov 536(%rdi), "     \
              "%rbp\n"                                                                             \
              "mov 544(%rdi), %r8\nmov 552(%rdi), %r9\nmov 560(%rdi), %r10\nmov 568(%rdi), %r11\n" \
              "mov 576(%rdi), %r12\nmov 584(%rdi), %r13\nmov 592(%rdi), %r14\nmov 600(%rdi), "     \
              "%r15\n"                                                                             \
              "mov %rax, -8(%rsp)\nmov %rbx, -64(%rsp)\nmov %rcx, -128(%rsp)\n"                    \
              "1: dec %rdx\njnz 1b\n"                                                              \
              "mov %rax, 512(%rsi)\nmov %rbx, 520(%rsi)\nmov %rcx, 528(%rsi)\nmov %rbp, "          \
              "536(%rsi)\n"                                                                        \
              "mov %r8, 544(%rsi)\nmov %r9, 552(%rsi)\nmov %r10, 560(%rsi)\nmov %r11, 568(%rsi)\n" \
              "mov %r12, 576(%rsi)\nmov %r13, 584(%rsi)\nmov %r14, 592(%rsi)\nmov %r15, "          \
              "600(%rsi)\n"                                                                        \
              "mov -8(%rsp), %rax\nmov %rax, 608(%rsi)\nmov -64(%rsp), %rax\nmov %rax, "           \
              "616(%rsi)\n"                                                                        \
              "mov -128(%rsp), %rax\nmov %rax, 624(%rsi)\n" EACH16(store) POPS "ret\n"

asm(".text\n" SPIN("subject_spin_avx", YMM_LOAD, YMM_STORE)
        SPIN("subject_spin_sse", XMM_LOAD, XMM_STORE));
extern void subject_spin_avx(const guint64 *in, guint64 *out, guint64 n);
extern void subject_spin_sse(const guint64 *in, guint64 *out, guint64 n);

#define SPIN_WORDS 79 /* 16 vectors of 4, 12 registers, 3 words of red zone */

static inline void subject_compute(void)
{
    guint64 in[SPIN_WORDS], out[SPIN_WORDS];
    gboolean avx = __builtin_cpu_supports("avx");
    /* Round towards zero, so that MXCSR is no default either. */
    guint32 mxcsr = 0x7f80, found;
    asm volatile("ldmxcsr %0" : : "m"(mxcsr));
    for (guint64 round = 1;; round++) {
        for (guint i = 0; i < 76; i++)
            in[i] = (round * 1000003 + i) * 0x9e3779b97f4a7c15u;
        for (guint i = 0; i < 3; i++)
            in[76 + i] = in[64 + i];
        memset(out, 0, sizeof(out));
        (avx ? subject_spin_avx : subject_spin_sse)(in, out, 20000);
        for (guint i = 0; i < SPIN_WORDS; i++)
            if (out[i] != in[i] && (avx || i >= 64 || i % 4 < 2))
                subject_add(&subject->wrong);
        asm volatile("stmxcsr %0" : "=m"(found));
        if ((found & 0xffc0) != mxcsr)
            subject_add(&subject->wrong);
        subject_add(&subject->loops);
    }
}

/* ---- there: waits ---- */

/* One bounded wait: not a moment too short, and @ok its outcome. */
static inline void subject_waited(guint64 begin_us, gboolean ok, gboolean eintr)
{
    guint64 us = stasis_now_us() - begin_us;
    if (eintr)
        subject_add(&subject->n_eintr);
    else if (!ok || us < SUBJECT_WAIT_MS * 1000 - 2000)
        subject_add(&subject->wrong);
    else if (us > subject->worst_late_us)
        subject->worst_late_us = us;
    subject_add(&subject->loops);
}

static inline void subject_wait(SubjectKind kind, int pipe_fd)
{
    struct pollfd never = { .fd = pipe_fd, .events = POLLIN };
    struct timespec span = { 0, SUBJECT_WAIT_MS * 1000000L };
    guint64 begin = stasis_now_us();
    long r;
    switch (kind) {
    case SUBJECT_POLL:
        r = poll(&never, 1, SUBJECT_WAIT_MS);
        subject_waited(begin, r == 0, r < 0 && errno == EINTR);
        return;
    case SUBJECT_NANOSLEEP:
        r = nanosleep(&span, NULL);
        subject_waited(begin, r == 0, r < 0 && errno == EINTR);
        return;
    case SUBJECT_FUTEX:
        r = syscall(SYS_futex, &subject->futex, FUTEX_WAIT, 0, NULL, NULL, 0);
        subject_add(r == 0           ? &subject->loops
                    : errno == EINTR ? &subject->n_eintr
                                     : &subject->wrong);
        return;
    default: {
        guint8 byte = 0;
        ssize_t n = read(pipe_fd, &byte, 1);
        if (n < 0 && errno == EINTR)
            subject_add(&subject->n_eintr);
        else if (n != 1 || byte != (guint8)subject_get(&subject->loops))
            subject_add(&subject->wrong);
        else
            subject_add(&subject->loops);
    }
    }
}

/* SIGUSR1 is blocked but in the wait, as SIG_IPI is in QEMU's threads. */
static inline void subject_ppoll(int pipe_fd)
{
    sigset_t usr1, inside;
    sigemptyset(&inside);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    struct pollfd never = { .fd = pipe_fd, .events = POLLIN };
    for (;;) {
        guint64 before = subject_get(&subject->n_signals);
        int r = ppoll(&never, 1, NULL, &inside);
        /* It ends for a signal only, which has run its handler by then. */
        if (r != -1 || errno != EINTR)
            subject_add(&subject->wrong);
        else if (subject_get(&subject->n_signals) == before)
            subject_add(&subject->n_eintr);
        else
            subject_add(&subject->loops);
    }
}

static inline void subject_on_signal(int signal)
{
    subject_add(&subject->n_signals);
}

/* main() begins with it. As "--subject KIND PIPE SHARED" it doesn't return. */
static inline void subject_be(int argc, char **argv)
{
    if (argc != 5 || strcmp(argv[1], "--subject") != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    SubjectKind kind = (SubjectKind)atoi(argv[2]);
    int pipe_fd = atoi(argv[3]);
    subject = mmap(NULL, sizeof(*subject), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[4]), 0);
    close(atoi(argv[4]));
    struct sigaction action = { .sa_handler = subject_on_signal };
    const int signals[] = { SIGUSR1, SIGALRM, SIGRTMIN, SIGCHLD };
    for (guint i = 0; i < G_N_ELEMENTS(signals); i++)
        sigaction(signals[i], &action, NULL);
    g_strlcpy(subject->path, "/dev/null", sizeof(subject->path));
    __atomic_store_n(&subject->path_address, (guint64)subject->path, __ATOMIC_RELEASE);
    if (kind == SUBJECT_COMPUTE)
        subject_compute();
    if (kind == SUBJECT_PPOLL)
        subject_ppoll(pipe_fd);
    for (;;)
        subject_wait(kind, pipe_fd);
}

/* ---- here ---- */

static const char *test_program;

/* "S" or "R", "T" … of /proc/PID/stat. */
static inline char subject_state(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    return strrchr(text, ')')[2];
}

/* The line @name of /proc/PID/status. */
static inline char *subject_status(pid_t pid, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)pid);
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    const char *at = strstr(text, name);
    g_assert_nonnull(at);
    return g_strndup(at, strcspn(at, "\n"));
}

static inline void subject_await_state(pid_t pid, char state)
{
    guint64 deadline = stasis_now_us() + SUBJECT_HANG_US;
    while (subject_state(pid) != state) {
        g_assert_cmpuint(stasis_now_us(), <, deadline);
        g_usleep(500);
    }
}

/* Until *@counter is at least @value. */
static inline void subject_await(const guint64 *counter, guint64 value)
{
    guint64 deadline = stasis_now_us() + SUBJECT_HANG_US;
    while (subject_get(counter) < value) {
        g_assert_cmpuint(stasis_now_us(), <, deadline);
        g_usleep(200);
    }
}

static inline SubjectProcess *subject_new(SubjectKind kind)
{
    SubjectProcess *p = g_new0(SubjectProcess, 1);
    int ends[2], shared_fd = memfd_create("subject", 0);
    char words[3][16];
    g_assert_cmpint(ftruncate(shared_fd, sizeof(Subject)), ==, 0);
    p->shared = mmap(NULL, sizeof(Subject), PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
    g_assert_true(p->shared != MAP_FAILED);
    g_assert_cmpint(pipe(ends), ==, 0);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    const int values[3] = { (int)kind, ends[0], shared_fd };
    for (guint i = 0; i < 3; i++)
        g_snprintf(words[i], sizeof(words[i]), "%d", values[i]);
    p->pid = fork();
    if (p->pid == 0) {
        execl(test_program, test_program, "--subject", words[0], words[1], words[2], NULL);
        _exit(127);
    }
    close(ends[0]);
    close(shared_fd);
    p->pipe_fd = ends[1];
    subject_await(&p->shared->path_address, 1);
    if (kind == SUBJECT_COMPUTE)
        subject_await(&p->shared->loops, 1);
    else
        subject_await_state(p->pid, 'S');
    return p;
}

static inline void subject_free(SubjectProcess *p)
{
    int status = 0;
    g_assert_cmpint(waitpid(p->pid, &status, WNOHANG), ==, 0);
    kill(p->pid, SIGKILL);
    g_assert_cmpint(waitpid(p->pid, NULL, 0), ==, p->pid);
    close(p->pipe_fd);
    munmap(p->shared, sizeof(Subject));
    g_free(p);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SubjectProcess, subject_free)

/* It does what it is there for, once more; whatever it waits for comes. */
static inline void subject_check_goes_on(SubjectProcess *p, SubjectKind kind)
{
    guint64 loops = subject_get(&p->shared->loops);
    guint8 byte = (guint8)loops;
    if (kind == SUBJECT_READ)
        g_assert_cmpint(write(p->pipe_fd, &byte, 1), ==, 1);
    if (kind == SUBJECT_PPOLL)
        kill(p->pid, SIGUSR1);
    guint64 deadline = stasis_now_us() + SUBJECT_HANG_US;
    while (subject_get(&p->shared->loops) == loops) {
        /* It may be on its way into the wait, or in it. */
        if (kind == SUBJECT_FUTEX)
            syscall(SYS_futex, &p->shared->futex, FUTEX_WAKE, 1, NULL, NULL, 0);
        g_assert_cmpuint(stasis_now_us(), <, deadline);
        g_usleep(500);
    }
    g_assert_cmpuint(subject_get(&p->shared->wrong), ==, 0);
}
