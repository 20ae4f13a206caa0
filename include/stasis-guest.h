/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libstasis-guest: for programs in a guest that want to have a say in their checkpoints. Nobody
 * needs it: a program that knows nothing of it is checkpointed all the same.
 *
 * It speaks to stasis-agent over a UNIX socket, and needs the C library alone. Where there is no
 * agent, each function says so and the program runs as it would without. All functions may be
 * called from any thread. They return 0 or a positive number, or a negative errno(3).
 *
 *     for (;;) {
 *         work();
 *         if (stasis_freeze(STASIS_FREEZE_PROCESS) == 1)
 *             reopen_what_is_of_another_machine();
 *     }
 */
#ifndef STASIS_GUEST_H
#define STASIS_GUEST_H

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define STASIS_GUEST_API __attribute__((visibility("default")))
#else
#define STASIS_GUEST_API
#endif

#define STASIS_FREEZE_PROCESS                                                                \
    0u                      /* the caller, and all processes that belong to it (its closure) \
                             */
#define STASIS_FREEZE_VM 1u /* the whole VM; root alone may ask for that */

/*
 * Ask the host for a checkpoint, and wait for it (`stasis agent-serve` has to run there).
 *
 *  0  it is taken, and durable
 *  1  this is the process that goes on from it, or from any other checkpoint that was taken while
 *     it waited here; it may be in another VM, or later, or both. Any number of times.
 *
 * -ENOENT, -ECONNREFUSED  there is no agent
 * -EHOSTDOWN              nobody serves the guest at the host (after 10 s)
 * -EPERM                  of the VM, and not root
 * -EAGAIN                 too many ask already
 * -EREMOTEIO              the host could not take it, and knows why
 * -ETIMEDOUT, -ECANCELED, -ECONNRESET  it, or the agent, did not come to an end
 *
 * Signals do not end the wait. While it waits, one more descriptor is open.
 */
STASIS_GUEST_API int stasis_freeze(unsigned scope);

/*
 * Be told of checkpoints that `stasis agent-serve` takes (of the VM, or of the process), and of
 * those by `checkpoint-create --quiesce` and `proc-checkpoint`: @before it, which waits until that
 * has returned, for a second at most; @after it, in the process that runs on, whether it was taken
 * or not; @resumed instead of @after in a process that goes on from an image, of whoever's making.
 * Each may be NULL. Called from a thread of the library, one at a time, in which all signals are
 * blocked. Calling it again replaces them.
 *
 * Without an agent it is 0 as well: when there is one, they are called.
 */
STASIS_GUEST_API int stasis_on_checkpoint(void (*before)(void), void (*after)(void),
                                          void (*resumed)(void));

/* The same by a signal, queued to the process by sigqueue(3) with one of these as its value. Nobody
 * waits for what the program does about it. 0: no signal any more. */
#define STASIS_BEFORE 1
#define STASIS_AFTER 2
#define STASIS_RESUMED 3
STASIS_GUEST_API int stasis_signal_on_checkpoint(int signal_number);

/*
 * The first call of any function but stasis_freeze() starts a thread of the library's and connects
 * to the agent: for a second at most, if that is there and takes nobody. What has deadlines makes
 * it before they begin. The thread is an ordinary one (SCHED_OTHER, on the CPUs that the machine's
 * first process may use) whatever the caller is. Whoever wants another one, since the callbacks
 * have deadlines, starts it himself before that, with these attributes (pthread_attr_init(3);
 * PTHREAD_EXPLICIT_SCHED, or they are the caller's). 0, or -EALREADY: there is one, or another
 * negative errno.
 */
STASIS_GUEST_API int stasis_start_thread(const pthread_attr_t *attributes);

/*
 * The end of a control cycle: the moment at which a periodic checkpoint may fall (`agent-serve
 * --every 5m --cycle-end`). After the first call it waits for nothing, also not for another thread
 * that is in the library; costs a look at a variable when none is due. 1 when it has just told that
 * one may be taken now, else 0: where it could not tell without waiting, the next call does. After
 * the first call the host waits for these moments at each checkpoint, for as long as it was told
 * to: a second at most, or up to 30 (--cycle-wait).
 */
STASIS_GUEST_API int stasis_cycle_end(void);

/*
 * Count @n more deadlines of that loop as missed. The host reports for each checkpoint how many
 * were, meanwhile and since the one before (`agent-serve --json`: "n_missed", "n_missed_before";
 * `policy-run --json`). Waits for nothing, always 0; what could not be told at once is told with
 * the next one, or at the next end of a cycle. It does not connect: stasis_cycle_end() does.
 */
STASIS_GUEST_API int stasis_deadline_missed(unsigned n);

/*
 * Hold off checkpoints that `agent-serve` takes until stasis_critical_end(), for @limit_ms at most
 * (10,000 at most; 0: 1,000). Waits for one that is under way, for a second at most; a checkpoint
 * waits for all sections that there are together for 10 s at most. Sections of several threads, and
 * nested ones, are one, by the limit of the first. An agent that is started anew meanwhile is told,
 * for what is left of that. Not from a callback.
 *
 * After an error nothing has begun, and there is nothing to end: stasis_critical_end() belongs to a
 * call that returned 0. Without an agent there is nothing to hold off either: -ENOENT or
 * -ECONNREFUSED, and no harm; each call looks for one again. -ENOTCONN: it has gone while it was
 * asked. -EAGAIN: it has no time for us. -ETIMEDOUT: it did not answer within 2 s.
 *
 * stasis_critical_end() is 0; -EINVAL: none is open; -ENOENT: it is over, and no agent there.
 */
STASIS_GUEST_API int stasis_critical_begin(unsigned limit_ms);
STASIS_GUEST_API int stasis_critical_end(void);

#ifdef __cplusplus
}
#endif

#endif
