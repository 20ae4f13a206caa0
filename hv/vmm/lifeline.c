/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/lifeline.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"

/* A QEMU that is busy answers late; one that is gone hangs up. */
#define ANSWER_TIMEOUT_MS 30000
#define READY_TIMEOUT_S 10

/* In memory shared with the process. */
struct Shared {
    gint armed;
    sem_t ready; /* posted when nothing that ends our process group reaches it any more */
};

struct _StasisLifeline {
    pid_t pid;
    int pipe_fd; /* its other end sees our death */
    struct Shared *shared;
};

static void close_others(int low, int high)
{
    if (low > 0)
        syscall(SYS_close_range, 0, low - 1, 0);
    if (high > low + 1)
        syscall(SYS_close_range, low + 1, high - 1, 0);
    syscall(SYS_close_range, high + 1, ~0u, 0);
}

/* In the child of a process that may have threads: system calls only. QMP's lexer drops what came
 * before a 0xFF byte, in case we died in the middle of a command. The answer is waited for, as QEMU
 * may drop what a client sent that is gone. */
static void wait_and_resume(int death_fd, int qmp_fd, const gint *armed, const char *mark)
{
    static const char cont[] = "\xff{\"execute\":\"cont\",\"id\":\"stasis-lifeline\"}\n";
    char buffer[4096];
    struct pollfd death = { .fd = death_fd, .events = POLLIN };
    while (poll(&death, 1, -1) < 0 && errno == EINTR)
        ;
    if (__atomic_load_n(armed, __ATOMIC_ACQUIRE) == 0)
        return;
    if (mark != NULL && unlink(mark) < 0 && errno != ENOENT)
        return;
    if (send(qmp_fd, cont, sizeof(cont) - 1, MSG_NOSIGNAL) < 0)
        return;
    struct pollfd answer = { .fd = qmp_fd, .events = POLLIN };
    while (poll(&answer, 1, ANSWER_TIMEOUT_MS) > 0) {
        ssize_t n = read(qmp_fd, buffer, sizeof(buffer));
        if (n <= 0 || memmem(buffer, (size_t)n, "stasis-lifeline", 15) != NULL)
            return;
    }
}

/* A session of its own, so that Ctrl-C at our terminal doesn't reach it, and no descriptor of ours
 * but the two: one that it kept open could keep guest memory protected. */
static void child(int death_fd, int qmp_fd, struct Shared *shared, const char *mark)
{
    setsid();
    struct sigaction ignore = { .sa_handler = SIG_IGN };
    const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE };
    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++)
        sigaction(signals[i], &ignore, NULL);
    close_others(MIN(death_fd, qmp_fd), MAX(death_fd, qmp_fd));
    sem_post(&shared->ready);
    wait_and_resume(death_fd, qmp_fd, &shared->armed, mark);
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

StasisLifeline *stasis_lifeline_new(StasisQmp *qmp, GError **error)
{
    return stasis_lifeline_new_unmarking(qmp, NULL, error);
}

StasisLifeline *stasis_lifeline_new_unmarking(StasisQmp *qmp, const char *mark, GError **error)
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
        child(ends[0], stasis_qmp_get_fd(qmp), shared, mark);
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

void stasis_lifeline_arm(StasisLifeline *lifeline)
{
    __atomic_store_n(&lifeline->shared->armed, 1, __ATOMIC_RELEASE);
}

void stasis_lifeline_disarm(StasisLifeline *lifeline)
{
    __atomic_store_n(&lifeline->shared->armed, 0, __ATOMIC_RELEASE);
}

void stasis_lifeline_fire(StasisLifeline *lifeline)
{
    if (lifeline->pid < 0)
        return;
    close(lifeline->pipe_fd);
    while (waitpid(lifeline->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    lifeline->pid = -1;
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
