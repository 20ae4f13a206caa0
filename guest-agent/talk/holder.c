/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The process that begins to count, and then only holds what counts: others take its maps'
 * descriptors (pidfd_getfd(2)). It ends with the one that started it. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "talk/maps.h"

#define STEP_MS 5
#define LOAD_STEPS (60 * 200) /* a minute: a busy machine under emulation */
#define MAX_LEAVING 16u
#define ENDED "the process that counts (stasis-talk) has ended"

static void __attribute__((noreturn)) hold(StasisTalkHolder *holder, pid_t parent)
{
    struct timespec now;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_NAME, "stasis-talk");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    syscall(SYS_close_range, 0, ~0u, 0); /* the port, above all */
    if (!stasis_talk_load(holder)) {
        holder->state = HOLDER_FAILED;
        _exit(1);
    }
    clock_gettime(CLOCK_BOOTTIME, &now);
    holder->since_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    holder->state = HOLDER_RUNNING;
    for (;;)
        pause();
}

/* ---- its maps ---- */

static bool take_map(int pidfd, int theirs, int *ret)
{
    *ret = (int)syscall(SYS_pidfd_getfd, pidfd, theirs, 0);
    return *ret >= 0;
}

static void close_maps(StasisTalk *talk)
{
    const int maps[] = { talk->counts, talk->marked, talk->base, talk->lost };
    for (unsigned i = 0; talk->running && i < sizeof maps / sizeof *maps; i++)
        if (maps[i] >= 0)
            close(maps[i]);
    talk->running = false;
}

static void take_maps(StasisTalk *talk)
{
    const StasisTalkHolder *holder = talk->holder;
    if (talk->running)
        return;
    int pidfd = (int)syscall(SYS_pidfd_open, holder->pid, 0);
    talk->counts = talk->marked = talk->base = talk->lost = -1;
    talk->since_ns = holder->since_ns;
    talk->running = true;
    if (pidfd < 0 || !take_map(pidfd, holder->counts, &talk->counts) ||
        !take_map(pidfd, holder->marked, &talk->marked) ||
        !take_map(pidfd, holder->base, &talk->base) ||
        !take_map(pidfd, holder->lost, &talk->lost)) {
        close_maps(talk);
        talk->error = ENDED;
    }
    if (pidfd >= 0)
        close(pidfd);
}

/* ---- start and stop ---- */

/* Killed, and not waited for by now. */
static pid_t leaving[MAX_LEAVING];
static unsigned n_leaving;

static void reap_leaving(void)
{
    for (unsigned i = 0; i < n_leaving;)
        if (waitpid(leaving[i], NULL, WNOHANG) != 0)
            leaving[i] = leaving[--n_leaving];
        else
            i++;
}

/* Asking does not reap it. */
static bool has_ended(const StasisTalkHolder *holder)
{
    siginfo_t info = { .si_pid = 0 };
    return waitid(P_PID, (id_t)holder->pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
           info.si_pid != 0;
}

void stasis_talk_stop(StasisTalk *talk)
{
    close_maps(talk);
    if (talk->holder == NULL || talk->holder->pid <= 0)
        return;
    kill(talk->holder->pid, SIGKILL);
    if (n_leaving < MAX_LEAVING)
        leaving[n_leaving++] = talk->holder->pid; /* its end may take as long as its beginning */
    reap_leaving();
    munmap(talk->holder, sizeof *talk->holder);
    talk->holder = NULL;
}

void stasis_talk_start(StasisTalk *talk)
{
    reap_leaving();
    HolderState state = talk->holder != NULL ? talk->holder->state : HOLDER_NONE;
    if (state == HOLDER_LOADING && has_ended(talk->holder))
        state = HOLDER_FAILED;
    talk->fresh = state == HOLDER_LOADING;
    if (state == HOLDER_RUNNING)
        take_maps(talk);
    if (talk->fresh || (talk->running && !stasis_talk_has_lost(talk)))
        return;
    stasis_talk_stop(talk);
    StasisTalkHolder *holder =
        mmap(NULL, sizeof *holder, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t parent = getpid(), pid = -1;
    if (holder != MAP_FAILED) {
        holder->state = HOLDER_LOADING;
        pid = fork();
        if (pid == 0)
            hold(holder, parent);
    }
    if (pid < 0) {
        talk->error = "no memory for the process that counts";
        if (holder != MAP_FAILED)
            munmap(holder, sizeof *holder);
        return;
    }
    holder->pid = pid;
    talk->holder = holder;
    talk->fresh = true;
}

void stasis_talk_open(StasisTalk *talk, bool wait)
{
    if (talk->holder == NULL)
        return;
    /* Its end is seen by others than its parent, too. */
    struct pollfd end = { .events = POLLIN };
    end.fd = wait ? (int)syscall(SYS_pidfd_open, talk->holder->pid, 0) : -1;
    bool ended = false;
    for (int i = 0; wait && !ended && talk->holder->state == HOLDER_LOADING && i < LOAD_STEPS; i++)
        ended = poll(&end, 1, STEP_MS) > 0;
    if (end.fd >= 0)
        close(end.fd);
    if (talk->holder->state == HOLDER_RUNNING)
        take_maps(talk);
    else
        talk->error = talk->holder->state == HOLDER_FAILED ? talk->holder->error
                      : ended                              ? ENDED
                              : "it takes the kernel too long to begin; try again";
}
