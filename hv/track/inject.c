/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * System calls in another process, such that our death in the middle harms nobody.
 *
 * The thread is seized, and its registers are set to run a `syscall` instruction that is there
 * already. If we were killed at that moment the kernel would let it go on with our registers. So
 * the instruction is one that is followed by `ret`, and below the thread's stack (and red zone)
 * lies what a signal handler's frame would be, with everything the thread had: the `ret` leads to
 * libc's signal restorer, whose rt_sigreturn(2) puts the thread back by itself.
 *
 *      rsp ──> [ address of restorer ]     <- popped by `ret`
 *              [ ucontext: registers, signal mask ]
 *              [ xsave area, 64-byte aligned     ]
 *              …red zone… old rsp
 *
 * As long as we live, we stop the thread behind the instruction and put the old registers back
 * ourselves, which also lets an interrupted system call restart as if nothing had been.
 *
 * Source of the frame's layout: arch/x86/kernel/signal_64.c, asm/sigcontext.h of Linux; ptrace(2).
 */
#include "track/inject.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stasis/error.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"

#define HOLD_TIMEOUT_US 2000000
#define RED_ZONE 128
#define MAX_XSAVE 16384
#define MAX_TEXT (16u << 20)

/* struct _fpx_sw_bytes in the last 48 bytes of the 512-byte legacy area. */
#define SW_OFFSET 464
#define SW_MAGIC1 0x46505853u
#define SW_MAGIC2 0x46505845u

/* uc_flags of the kernel's ucontext. */
#define UC_FLAGS (1 /* FP_XSTATE */ | 2 /* SIGCONTEXT_SS */ | 4 /* STRICT_RESTORE_SS */)

struct _StasisInject {
    pid_t pid;
    struct user_regs_struct saved;
    guint64 saved_mask;    /* of signals */
    guint64 syscall_addr;  /* `syscall; ret` */
    guint64 restorer_addr; /* `mov $15, %rax; syscall` */
    guint64 frame_addr;    /* what lies below the red zone, see above */
};

static const guint8 syscall_ret[] = { 0x0f, 0x05, 0xc3 };
static const guint8 syscall_cmp_ret[] = { 0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0x73 };
static const guint8 restorer[] = { 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05 };

static gboolean refuse(GError **error, pid_t pid, const char *what, int errnum)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "process %d: %s: %s; run as root, or with CAP_SYS_PTRACE, and with no debugger "
                "attached to it",
                (int)pid, what, g_strerror(errnum));
    return FALSE;
}

/* Wait until the thread is stopped. ptrace stops are reported through waitpid only; a thread that
 * is in an uninterruptible sleep may take a while, hence the time limit. */
static int wait_for_stop(pid_t pid, int *ret_status)
{
    guint64 deadline = stasis_now_us() + HOLD_TIMEOUT_US;
    for (guint spins = 0;; spins++) {
        pid_t got = waitpid(pid, ret_status, WNOHANG | __WALL);
        if (got == pid)
            return WIFSTOPPED(*ret_status) ? 0 : -ESRCH;
        if (got < 0 && errno != EINTR)
            return -errno;
        if (stasis_now_us() > deadline)
            return -ETIMEDOUT;
        if (spins > 200)
            g_usleep(50);
    }
}

/* Look for the two instruction sequences in the executable mapping [start, end). */
static void search_text(StasisInject *inject, guint64 start, guint64 end)
{
    gsize len = MIN(end - start, MAX_TEXT);
    g_autofree guint8 *text = g_malloc(len);
    struct iovec local = { text, len }, remote = { (void *)start, len };
    ssize_t got = process_vm_readv(inject->pid, &local, 1, &remote, 1, 0);
    if (got <= 0)
        return;
    const guint8 *hit = memmem(text, (gsize)got, syscall_ret, sizeof(syscall_ret));
    if (hit == NULL) /* libc's syscall(): looks for an error, then returns */
        hit = memmem(text, (gsize)got, syscall_cmp_ret, sizeof(syscall_cmp_ret));
    const guint8 *back = memmem(text, (gsize)got, restorer, sizeof(restorer));
    if (hit == NULL || back == NULL)
        return;
    inject->syscall_addr = start + (guint64)(hit - text);
    inject->restorer_addr = start + (guint64)(back - text);
}

/* Is it libc itself, or at least called nearly so (libcurl, libcap …)? */
static gboolean may_be_libc(const char *line, gboolean surely)
{
    return strstr(line, "/libc.so") != NULL || strstr(line, "/libc-2") != NULL ||
           strstr(line, "/ld-musl") != NULL || (!surely && strstr(line, "/libc") != NULL);
}

/* libc's text has both; it is one of the few executable mappings of files. */
static gboolean find_code(StasisInject *inject, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)inject->pid);
    g_autofree char *maps = NULL;
    if (!g_file_get_contents(path, &maps, NULL, error))
        return FALSE;
    g_auto(GStrv) lines = g_strsplit(maps, "\n", -1);
    for (int surely = 1; surely >= 0; surely--) {
        for (char **line = lines; *line != NULL && inject->syscall_addr == 0; line++) {
            unsigned long start, end;
            char perms[5];
            if (sscanf(*line, "%lx-%lx %4s", &start, &end, perms) == 3 && perms[2] == 'x' &&
                may_be_libc(*line, surely))
                search_text(inject, start, end);
        }
    }
    if (inject->syscall_addr != 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "process %d: no libc with a known signal restorer in it; it can't be attached "
                "safely",
                (int)inject->pid);
    return FALSE;
}

/* What the kernel does to an interrupted system call when a handler runs. */
static void finish_interrupted(struct user_regs_struct *regs)
{
    if ((long)regs->orig_rax < 0)
        return;
    switch ((long)regs->rax) {
    case -512: /* ERESTARTSYS */
    case -513: /* ERESTARTNOINTR */
        regs->rax = regs->orig_rax;
        regs->rip -= 2;
        break;
    case -514: /* ERESTARTNOHAND */
    case -516: /* ERESTART_RESTARTBLOCK */
        regs->rax = (unsigned long)-EINTR;
        break;
    }
}

static void fill_ucontext(ucontext_t *uc, const struct user_regs_struct *saved, guint64 mask,
                          guint64 xsave_addr)
{
    struct user_regs_struct r = *saved;
    finish_interrupted(&r);
    greg_t *g = uc->uc_mcontext.gregs;
    g[REG_R8] = (greg_t)r.r8, g[REG_R9] = (greg_t)r.r9, g[REG_R10] = (greg_t)r.r10;
    g[REG_R11] = (greg_t)r.r11, g[REG_R12] = (greg_t)r.r12, g[REG_R13] = (greg_t)r.r13;
    g[REG_R14] = (greg_t)r.r14, g[REG_R15] = (greg_t)r.r15, g[REG_RDI] = (greg_t)r.rdi;
    g[REG_RSI] = (greg_t)r.rsi, g[REG_RBP] = (greg_t)r.rbp, g[REG_RBX] = (greg_t)r.rbx;
    g[REG_RDX] = (greg_t)r.rdx, g[REG_RAX] = (greg_t)r.rax, g[REG_RCX] = (greg_t)r.rcx;
    g[REG_RSP] = (greg_t)r.rsp, g[REG_RIP] = (greg_t)r.rip, g[REG_EFL] = (greg_t)r.eflags;
    g[REG_CSGSFS] = (greg_t)((r.cs & 0xffff) | (r.ss & 0xffff) << 48);
    uc->uc_flags = UC_FLAGS;
    uc->uc_stack.ss_flags = SS_DISABLE;
    uc->uc_mcontext.fpregs = (fpregset_t)xsave_addr;
    memcpy(&uc->uc_sigmask, &mask, sizeof(mask));
}

/* Write the frame below the stack. The thread does not run; nothing there is in use. */
static gboolean write_frame(StasisInject *inject, GError **error)
{
    g_autofree guint8 *xsave = g_malloc0(MAX_XSAVE + 4);
    struct iovec regset = { xsave, MAX_XSAVE };
    if (ptrace(PTRACE_GETREGSET, inject->pid, NT_X86_XSTATE, &regset) < 0)
        return refuse(error, inject->pid, "can't read its state", errno);
    guint32 xsave_len = (guint32)regset.iov_len;
    guint32 sw[] = { SW_MAGIC1, xsave_len + 4 };
    memcpy(xsave + SW_OFFSET + 16, &xsave_len, sizeof(xsave_len));
    /* ptrace puts the feature mask where the frame wants magic and size. */
    guint64 features;
    memcpy(&features, xsave + SW_OFFSET, sizeof(features));
    memcpy(xsave + SW_OFFSET, sw, sizeof(sw));
    memcpy(xsave + SW_OFFSET + 8, &features, sizeof(features));
    guint32 magic2 = SW_MAGIC2;
    memcpy(xsave + xsave_len, &magic2, sizeof(magic2));

    guint64 xsave_addr = (inject->saved.rsp - RED_ZONE - xsave_len - 4) & ~(guint64)63;
    inject->frame_addr = ((xsave_addr - sizeof(ucontext_t)) & ~(guint64)15) - 8;
    g_autofree struct {
        guint64 ret_addr;
        ucontext_t uc;
    } *frame = g_malloc0(sizeof(*frame));
    frame->ret_addr = inject->restorer_addr;
    fill_ucontext(&frame->uc, &inject->saved, inject->saved_mask, xsave_addr);

    struct iovec local[] = { { frame, sizeof(*frame) }, { xsave, xsave_len + 4 } };
    struct iovec remote[] = { { (void *)inject->frame_addr, sizeof(*frame) },
                              { (void *)xsave_addr, xsave_len + 4 } };
    ssize_t want = (ssize_t)(sizeof(*frame) + xsave_len + 4);
    if (process_vm_writev(inject->pid, local, 2, remote, 2, 0) != want)
        return refuse(error, inject->pid, "can't write below its stack", errno);
    return TRUE;
}

static gboolean hold(StasisInject *inject, GError **error)
{
    int status;
    if (ptrace(PTRACE_SEIZE, inject->pid, NULL, NULL) < 0)
        return refuse(error, inject->pid, "can't be traced", errno);
    int r = ptrace(PTRACE_INTERRUPT, inject->pid, NULL, NULL) < 0 ? -errno : 0;
    if (r == 0)
        r = wait_for_stop(inject->pid, &status);
    /* A signal that came first is delivered first. */
    while (r == 0 && status >> 16 == 0) {
        r = ptrace(PTRACE_CONT, inject->pid, NULL, (long)WSTOPSIG(status)) < 0 ? -errno : 0;
        if (r == 0)
            r = wait_for_stop(inject->pid, &status);
    }
    if (r == 0 &&
        (ptrace(PTRACE_GETREGS, inject->pid, NULL, &inject->saved) < 0 ||
         ptrace(PTRACE_GETSIGMASK, inject->pid, sizeof(guint64), &inject->saved_mask) < 0))
        r = -errno;
    if (r < 0)
        return refuse(error, inject->pid, "can't be held", -r);
    if (!write_frame(inject, error))
        return FALSE;
    return TRUE;
}

/* Let the thread run until it stops again with its program counter at @rip. A signal that arrives
 * first is put off: it is sent to the process again, to be delivered once the registers are back.
 */
static int run_to(StasisInject *inject, enum __ptrace_request how, guint64 rip)
{
    for (int tries = 0; tries < 64; tries++) {
        int status;
        struct user_regs_struct now;
        if (ptrace(how, inject->pid, NULL, NULL) < 0)
            return -errno;
        int r = wait_for_stop(inject->pid, &status);
        if (r < 0)
            return r;
        if (ptrace(PTRACE_GETREGS, inject->pid, NULL, &now) < 0)
            return -errno;
        int signal = WSTOPSIG(status) & 0x7f;
        if (now.rip == rip && signal == SIGTRAP)
            return 0;
        if (signal != SIGTRAP)
            kill(inject->pid, signal);
    }
    return -ELOOP;
}

/* Run the one instruction. Not by PTRACE_SINGLESTEP: the kernel leaves its trap flag on if the
 * tracer dies, and the next instruction would kill the process. A stop at the system call's entry
 * and one at its exit it takes back. The last stop is one where the kernel looks for signals,
 * because only there a system call that was interrupted to begin with is restarted. */
static int run_syscall(StasisInject *inject, struct user_regs_struct *ret_regs)
{
    guint64 behind = inject->syscall_addr + 2;
    int r = run_to(inject, PTRACE_SYSCALL, behind);
    if (r == 0)
        r = run_to(inject, PTRACE_SYSCALL, behind);
    if (r == 0 && ptrace(PTRACE_GETREGS, inject->pid, NULL, ret_regs) < 0)
        r = -errno;
    if (r == 0 && ptrace(PTRACE_INTERRUPT, inject->pid, NULL, NULL) < 0)
        r = -errno;
    return r == 0 ? run_to(inject, PTRACE_CONT, behind) : r;
}

/* Signals are blocked while the thread has our registers, so that none gets between our calls; the
 * frame has the old mask, should we be killed. */
long stasis_inject_syscall(StasisInject *inject, long nr, const unsigned long args[6])
{
    struct user_regs_struct regs = inject->saved;
    regs.rip = inject->syscall_addr;
    regs.rsp = inject->frame_addr;
    regs.rax = (unsigned long)nr;
    regs.orig_rax = (unsigned long)-1;
    regs.rdi = args[0], regs.rsi = args[1], regs.rdx = args[2];
    regs.r10 = args[3], regs.r8 = args[4], regs.r9 = args[5];
    static const guint64 all = ~(guint64)0;
    if (ptrace(PTRACE_SETREGS, inject->pid, NULL, &regs) < 0 ||
        ptrace(PTRACE_SETSIGMASK, inject->pid, sizeof(all), &all) < 0)
        return -ENOTRECOVERABLE;
    stasis_fault(STASIS_FAULT_UFFD_INJECTING, NULL);
    int r = run_syscall(inject, &regs);
    ptrace(PTRACE_SETSIGMASK, inject->pid, sizeof(guint64), &inject->saved_mask);
    if (ptrace(PTRACE_SETREGS, inject->pid, NULL, &inject->saved) < 0 || r < 0)
        return -ENOTRECOVERABLE;
    return (long)regs.rax;
}

typedef struct {
    pid_t pid;
    StasisInjectFunc func;
    gpointer user_data;
    gboolean ok;
    GError *error;
} Call;

static gpointer call_thread(gpointer data)
{
    Call *call = data;
    StasisInject inject = { .pid = call->pid };
    if (!find_code(&inject, &call->error))
        return NULL;
    if (hold(&inject, &call->error)) {
        call->ok = call->func(&inject, call->user_data, &call->error);
        ptrace(PTRACE_SETSIGMASK, inject.pid, sizeof(guint64), &inject.saved_mask);
    }
    ptrace(PTRACE_DETACH, inject.pid, NULL, NULL);
    return NULL;
}

gboolean stasis_inject(pid_t pid, StasisInjectFunc func, gpointer user_data, GError **error)
{
    Call call = { .pid = pid, .func = func, .user_data = user_data };
    GThread *thread = g_thread_try_new("stasis-inject", call_thread, &call, error);
    if (thread == NULL)
        return FALSE;
    g_thread_join(thread);
    if (!call.ok)
        g_propagate_error(error, call.error);
    return call.ok;
}
