/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/lifeline.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/hold.h"
#include "base/io.h"

/* A QEMU that is busy answers late; one that is gone hangs up. */
#define ANSWER_TIMEOUT_MS 30000
#define READY_TIMEOUT_S 10

/* In memory shared with the process. */
struct Shared {
    gint armed, untidy;
    sem_t ready; /* posted when nothing that ends our process group reaches it any more */
};

/* What the process is to do; all of it is in memory when it is forked. */
typedef struct {
    const StasisQmpLegacy *legacy;
    const char *mark;           /* or NULL */
    const char *const *sweeper; /* or NULL */
} Will;

struct _StasisLifeline {
    pid_t pid;
    int pipe_fd;      /* its other end sees our death */
    gboolean resumes; /* a VM, so that one is held while it is armed */
    struct Shared *shared;
};

/* All but the two; @other may be -1. */
static void close_others(int one, int other)
{
    int low = other >= 0 ? MIN(one, other) : one, high = MAX(one, other);
    if (low > 0)
        syscall(SYS_close_range, 0, low - 1, 0);
    if (high > low + 1)
        syscall(SYS_close_range, low + 1, high - 1, 0);
    syscall(SYS_close_range, high + 1, ~0u, 0);
}

/* QMP's lexer drops what came before a 0xFF byte, in case we died in the middle of a command. The
 * answer is waited for, as QEMU may drop what a client sent that is gone. */
static void resume_over(int qmp_fd)
{
    static const char cont[] = "\xff{\"execute\":\"cont\",\"id\":\"stasis-lifeline\"}\n";
    char buffer[4096];
    if (send(qmp_fd, cont, sizeof(cont) - 1, MSG_NOSIGNAL) < 0)
        return;
    struct pollfd answer = { .fd = qmp_fd, .events = POLLIN };
    while (poll(&answer, 1, ANSWER_TIMEOUT_MS) > 0) {
        ssize_t n = read(qmp_fd, buffer, sizeof(buffer));
        if (n <= 0 || memmem(buffer, (size_t)n, "stasis-lifeline", 15) != NULL)
            return;
    }
}

/* A program, to its end. */
static void run(const char *const *argv)
{
    pid_t pid = _Fork();
    if (pid == 0) {
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static gboolean is_missing(int error)
{
    return error == ENOENT || error == ENOTDIR;
}

/* Where nothing can be removed, what is not there is no less gone. */
static gboolean is_unmarked(const char *mark)
{
    return mark == NULL || unlink(mark) == 0 || is_missing(errno) ||
           (access(mark, F_OK) < 0 && is_missing(errno));
}

static void resume(const Will *will)
{
    if (!is_unmarked(will->mark))
        return;
    if (will->legacy->fd >= 0)
        resume_over(will->legacy->fd);
    else
        run(will->legacy->argv);
}

/* In the child of a process that may have threads: system calls only. */
static void wait_and_act(int death_fd, const Will *will, const struct Shared *shared)
{
    struct pollfd death = { .fd = death_fd, .events = POLLIN };
    while (poll(&death, 1, -1) < 0 && errno == EINTR)
        ;
    if (__atomic_load_n(&shared->armed, __ATOMIC_ACQUIRE) != 0)
        resume(will);
    /* QEMU's monitor is for one at a time. */
    if (will->legacy->fd >= 0)
        close(will->legacy->fd);
    if (will->sweeper != NULL && __atomic_load_n(&shared->untidy, __ATOMIC_ACQUIRE) != 0)
        execv(will->sweeper[0], (char *const *)will->sweeper);
}

/* A session of its own, so that Ctrl-C at our terminal doesn't reach it, and no descriptor of ours
 * but those it needs: one that it kept open could keep guest memory protected. */
static void child(int death_fd, const Will *will, struct Shared *shared)
{
    setsid();
    struct sigaction ignore = { .sa_handler = SIG_IGN };
    const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE };
    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++)
        sigaction(signals[i], &ignore, NULL);
    close_others(death_fd, will->legacy->fd);
    sem_post(&shared->ready);
    wait_and_act(death_fd, will, shared);
    _exit(0);
}

static gboolean wait_ready(StasisLifeline *lifeline, GError **error)
{
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += READY_TIMEOUT_S;
    int r;
    do
        r = sem_timedwait(&lifeline->shared->ready, &deadline);
    while (r < 0 && errno == EINTR);
    return r == 0 || stasis_set_errno(error, errno, "lifeline: its process does not start");
}

static StasisLifeline *start(const Will *will, GError **error)
{
    struct Shared *shared = mmap(NULL, sizeof(struct Shared), PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        stasis_set_errno(error, errno, "lifeline: shared memory");
        return NULL;
    }
    g_autoptr(StasisLifeline) lifeline = g_new0(StasisLifeline, 1);
    *lifeline = (StasisLifeline){ .pid = -1, .shared = shared };
    sem_init(&shared->ready, 1, 0);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        stasis_set_errno(error, errno, "lifeline: pipe");
        return NULL;
    }
    pid_t pid = fork();
    if (pid == 0)
        child(ends[0], will, shared);
    close(ends[0]);
    if (pid < 0) {
        stasis_set_errno(error, errno, "lifeline: fork");
        close(ends[1]);
        return NULL;
    }
    lifeline->pid = pid;
    lifeline->pipe_fd = ends[1];
    return wait_ready(lifeline, error) ? g_steal_pointer(&lifeline) : NULL;
}

static StasisLifeline *start_for(StasisQmp *qmp, const char *mark, const char *const *sweeper,
                                 GError **error)
{
    StasisQmpLegacy legacy;
    stasis_qmp_get_legacy(qmp, &legacy);
    Will will = { .legacy = &legacy, .mark = mark, .sweeper = sweeper };
    if (legacy.fd >= 0 || legacy.argv != NULL) {
        StasisLifeline *lifeline = start(&will, error);
        if (lifeline != NULL)
            lifeline->resumes = TRUE;
        return lifeline;
    }
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "stasis-domain is not installed where the library is: without it the VM "
                        "would stay stopped if stasis died in between");
    return NULL;
}

StasisLifeline *stasis_lifeline_new(StasisQmp *qmp, GError **error)
{
    return start_for(qmp, NULL, NULL, error);
}

StasisLifeline *stasis_lifeline_new_unmarking(StasisQmp *qmp, const char *mark, GError **error)
{
    return start_for(qmp, mark, NULL, error);
}

StasisLifeline *stasis_lifeline_new_sweeping(StasisQmp *qmp, const char *mark,
                                             const char *const *sweeper, GError **error)
{
    return start_for(qmp, mark, sweeper, error);
}

StasisLifeline *stasis_lifeline_new_program(const char *const *argv, GError **error)
{
    StasisQmpLegacy legacy = { .fd = -1, .argv = argv };
    Will will = { .legacy = &legacy };
    return start(&will, error);
}

void stasis_lifeline_arm(StasisLifeline *lifeline)
{
    if (__atomic_exchange_n(&lifeline->shared->armed, 1, __ATOMIC_ACQ_REL) == 0 &&
        lifeline->resumes)
        stasis_hold_begin();
}

void stasis_lifeline_disarm(StasisLifeline *lifeline)
{
    if (__atomic_exchange_n(&lifeline->shared->armed, 0, __ATOMIC_ACQ_REL) != 0 &&
        lifeline->resumes)
        stasis_hold_end();
}

void stasis_lifeline_set_untidy(StasisLifeline *lifeline, gboolean untidy)
{
    __atomic_store_n(&lifeline->shared->untidy, untidy, __ATOMIC_RELEASE);
}

void stasis_lifeline_fire(StasisLifeline *lifeline)
{
    if (lifeline->pid < 0) {
        stasis_lifeline_disarm(lifeline);
        return;
    }
    stasis_lifeline_set_untidy(lifeline, FALSE);
    close(lifeline->pipe_fd);
    while (waitpid(lifeline->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    lifeline->pid = -1;
    stasis_lifeline_disarm(lifeline);
}

void stasis_lifeline_free(StasisLifeline *lifeline)
{
    if (lifeline == NULL)
        return;
    stasis_lifeline_fire(lifeline);
    sem_destroy(&lifeline->shared->ready);
    munmap(lifeline->shared, sizeof(struct Shared));
    g_free(lifeline);
}
