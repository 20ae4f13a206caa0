/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keeping out of the virtual CPUs' way. One that runs all the time shares its CPU with whoever is
 * woken there until the scheduler's next tick, 4 ms at 250 Hz, however nice that one is; and a
 * checkpoint wakes threads all the time. So our threads keep off the CPUs on which virtual CPUs are
 * running, where others are left.
 */
#pragma once

#include <sched.h>

#include "vmm/qmp.h"

G_BEGIN_DECLS

/* Thread IDs (pid_t) of the virtual CPUs. */
GArray *stasis_vcpus_threads(StasisQmp *qmp, GError **error);

/* The CPUs of @allowed on which none of @threads of process @pid is running now, or, of those that
 * sleep (@sleepers), ran last: it is where they will be woken. Without the sleepers' when that
 * would be none; @allowed itself when it would be none even so. */
void stasis_vcpus_spare(pid_t pid, const GArray *threads, const cpu_set_t *allowed,
                        gboolean sleepers, cpu_set_t *ret);

/* What the calling thread may run on. Zero-initialized; begin any number of times, end once, both
 * in the same thread. Threads that it makes in between stay where it is. Never fails: then nothing
 * is changed. */
typedef struct {
    gboolean sleepers; /* set by the caller: the guest is one that sleeps, but must not be late */
    gboolean begun;
    cpu_set_t before;
} StasisAffinity;
void stasis_affinity_begin(StasisAffinity *affinity, pid_t pid, const GArray *threads);
/* For any other thread that works long: follow the virtual CPUs, which the scheduler moves. Looks
 * at most every few milliseconds for each thread; 20 µs for each virtual CPU. */
void stasis_affinity_follow(const StasisAffinity *affinity, pid_t pid, const GArray *threads);
void stasis_affinity_end(StasisAffinity *affinity);

G_END_DECLS
