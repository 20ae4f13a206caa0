/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counts what processes say to each other over pipes, sockets, queues, semaphores and by signals,
 * from when it is started until the process that started it ends. The counters are in the kernel,
 * so that they are part of a VM's image like all memory, and a fork of the VM has those of its
 * instant.
 *
 * A checkpoint of a set forgets what its members said before it:
 *
 *     stasis_talk_mark(talk)              before the instant: remember all counts
 *     …                                   instant, dump, all is well
 *     stasis_talk_keep(talk, pids, n)     from now on these count from the mark on
 *
 * What is said between mark and instant is counted once more: more than need be comes along next
 * time, never less.
 *
 * Needs root, Linux 5.11 or later with BPF and the kernel's type information
 * (CONFIG_DEBUG_INFO_BTF, as distributions have it), x86-64. Sources: bpf(2), linux/bpf.h,
 * Documentation/bpf/btf.rst.
 */
#pragma once

#include "scan/counts.h"
#include "scan/scan.h"

/* Processes times objects. More, and all that is asked about counts as having been used. */
#define STASIS_TALK_MAX_COUNTS 32768u

typedef struct StasisTalkHolder StasisTalkHolder;

/* All zeros at first. Forks of the process that starts it have it, too. */
typedef struct {
    StasisTalkHolder *holder; /* in shared memory */
    bool running;
    bool fresh; /* counting has only begun: nothing could have been seen yet */
    uint64_t since_ns;
    int counts, marked, base, lost; /* maps, if running */
    const char *error;              /* why it does not run: one line */
} StasisTalk;

/*
 * Begins to count, if it does not yet; and anew if counters were lost, after which talk->fresh.
 * Does not wait: loading takes the kernel seconds (it waits for all CPUs to have left what is
 * being changed, once for each program), so a process of its own does that, and holds them.
 */
void stasis_talk_start(StasisTalk *talk);
/* The same process, or a fork of it: talk->running if it counts. With @wait until that is known. */
void stasis_talk_open(StasisTalk *talk, bool wait);
void stasis_talk_stop(StasisTalk *talk);

/* What was said since the last checkpoint of each process, or since counting began. *@ret points to
 * memory of malloc(): free *@ret_items. False: no memory. */
bool stasis_talk_read(const StasisTalk *talk, StasisCounts *ret, StasisCount **ret_items);

/* False: it does not count. */
bool stasis_talk_mark(const StasisTalk *talk);
/* What these processes, and those that have ended, said before the mark over what @pids have open
 * is forgotten. */
void stasis_talk_keep(const StasisTalk *talk, const pid_t *pids, size_t n);

/* Drops counters of processes that have ended over objects that nobody in @scan has open. */
void stasis_talk_sweep(const StasisTalk *talk, const StasisScan *scan);
