/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The library's thread. Whoever makes the first call may be a control loop, with a real-time
 * priority and a CPU of its own: a thread that inherited those would compete with it, or, on a CPU
 * that the loop never leaves, not run at all. So it is an ordinary one, on the CPUs that the
 * machine's first process may use (without those set apart by isolcpus=).
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "lib/internal.h"

/* By the maker: where it is it might not come to run. */
static void let_roam(pthread_t thread)
{
    cpu_set_t cpus;
    if (sched_getaffinity(1, sizeof cpus, &cpus) == 0 &&
        pthread_setaffinity_np(thread, sizeof cpus, &cpus) == 0)
        return;
    memset(&cpus, 0xff, sizeof cpus); /* the kernel takes of them what there is */
    pthread_setaffinity_np(thread, sizeof cpus, &cpus);
}

static int make_ordinary(pthread_t *ret, void *(*run)(void *))
{
    pthread_attr_t attributes;
    const struct sched_param none = { .sched_priority = 0 };
    int r = pthread_attr_init(&attributes);
    if (r != 0)
        return r;
    pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
    pthread_attr_setschedpolicy(&attributes, SCHED_OTHER);
    pthread_attr_setschedparam(&attributes, &none);
    r = pthread_create(ret, &attributes, run, NULL);
    pthread_attr_destroy(&attributes);
    if (r == 0)
        let_roam(*ret);
    return r;
}

int guest_start_thread(void *(*run)(void *), const pthread_attr_t *attributes)
{
    sigset_t all, old;
    pthread_t thread;
    int state = PTHREAD_CREATE_JOINABLE;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = attributes != NULL ? pthread_create(&thread, attributes, run, NULL)
                               : make_ordinary(&thread, run);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (attributes != NULL)
        pthread_attr_getdetachstate(attributes, &state);
    if (r == 0 && state == PTHREAD_CREATE_JOINABLE)
        pthread_detach(thread);
    return -r;
}
