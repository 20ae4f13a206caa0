/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes, their relations and how they are run; message queues. */
#include <mqueue.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "criu-cases.h"

int wait_in(void *data)
{
    (void)data;
    for (;;)
        pause();
    return 0;
}

static int cloned(int flags)
{
    static char stack[65536] __attribute__((aligned(16)));
    return clone(wait_in, stack + sizeof stack, flags | SIGCHLD, NULL);
}

static int shares_memory(void)
{
    return cloned(CLONE_VM);
}

static int shares_files(void)
{
    return cloned(CLONE_FILES);
}

static int shares_directory(void)
{
    return cloned(CLONE_FS);
}

static int nested_uts(void)
{
    return cloned(CLONE_NEWUTS);
}

static int nested_ipc(void)
{
    return cloned(CLONE_NEWIPC);
}

static int nested_pid(void)
{
    return cloned(CLONE_NEWPID);
}

static int own_uts(void)
{
    return unshare(CLONE_NEWUTS);
}

static int zombie(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    return pid;
}

static int stopped(void)
{
    pid_t pid = fork();
    if (pid == 0)
        wait_in(NULL);
    int status;
    return kill(pid, SIGSTOP) == 0 && waitpid(pid, &status, WUNTRACED) == pid ? pid : -1;
}

static int traced(void)
{
    pid_t pid = fork();
    if (pid == 0)
        wait_in(NULL);
    return ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0 ? pid : -1;
}

static int deadline(void)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = { sizeof attr, 6, 0, 0, 0, 1000000, 10000000, 10000000 };
    return (int)syscall(SYS_sched_setattr, 0, &attr, 0);
}

static int realtime(void)
{
    return sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ 1 });
}

static int clock_timer(void)
{
    timer_t t;
    struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
    return timer_create(CLOCK_MONOTONIC, &e, &t);
}

static int queue(void)
{
    struct mq_attr attr = { .mq_maxmsg = 4, .mq_msgsize = 16 };
    return mq_open("/case", O_RDWR | O_CREAT, 0600, &attr);
}

static int queue_notify(void)
{
    struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
    int fd = queue();
    return mq_notify(fd, &e) == 0 ? fd : -1;
}

static void *outlive(void *data)
{
    wait_in(data);
    return NULL;
}

static void end_thread(void)
{
    pthread_exit(NULL);
}

static int leader_ended(void)
{
    pthread_t thread;
    return pthread_create(&thread, NULL, outlive, NULL) == 0 ? 0 : -1;
}

const Case cases_processes[] = {
    CASE(shares_memory),
    CASE(shares_files),
    CASE(shares_directory),
    CASE(nested_uts),
    CASE(nested_ipc),
    CASE(nested_pid),
    CASE(own_uts),
    CASE(zombie),
    CASE(stopped),
    CASE(traced),
    CASE(deadline),
    CASE(realtime),
    CASE(clock_timer),
    CASE(queue),
    CASE(queue_notify),
    { "leader_ended", leader_ended, end_thread },
    { NULL },
};
