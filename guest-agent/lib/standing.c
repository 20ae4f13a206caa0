/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What needs a connection that stands: being told of checkpoints, ends of cycles, and critical
 * sections. It is made by the first of them, together with a thread that reads it, calls back, and
 * connects again when the agent has gone, or when the process goes on elsewhere.
 *
 * Lock: standing.mutex guards all of it but cycle_wanted, and is never held over a callback or
 * while waiting for a packet.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/internal.h"

#define AGAIN_MS 500  /* between two tries to connect */
#define ACK_LIMIT_S 2 /* for an answer to CRITICAL_BEGIN: the agent takes 1 at most */
#define DEFAULT_CRITICAL_MS 1000
#define MAX_CRITICAL_MS 10000

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;  /* fd, critical_held */
    bool running;            /* there is a thread */
    int fd;                  /* or -1 */
    bool subscribed, cycles; /* what the agent is to know, after a new connection too */
    unsigned critical_depth;
    bool critical_held; /* the agent knows of the section */
    void (*before)(void);
    void (*after)(void);
    void (*resumed)(void);
    int signal_number;
    atomic_bool cycle_wanted, has_cycles;
} standing = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .fd = -1 };

/* ---- the thread ---- */

static void tell(int event)
{
    pthread_mutex_lock(&standing.mutex);
    void (*call)(void) = event == STASIS_BEFORE  ? standing.before
                         : event == STASIS_AFTER ? standing.after
                                                 : standing.resumed;
    int number = standing.signal_number;
    pthread_mutex_unlock(&standing.mutex);
    if (call != NULL)
        call();
    if (number != 0)
        sigqueue(getpid(), number, (union sigval){ .sival_int = event });
}

static void take(int fd, const StasisGuestMessage *message)
{
    switch (message->what) {
    case STASIS_GUEST_BEFORE:
        tell(STASIS_BEFORE);
        guest_send(fd, STASIS_GUEST_READY, 0);
        break;
    case STASIS_GUEST_AFTER:
        tell(STASIS_AFTER);
        break;
    case STASIS_GUEST_RESUMED:
        tell(STASIS_RESUMED);
        break;
    case STASIS_GUEST_WANT_CYCLE:
        atomic_store(&standing.cycle_wanted, true);
        break;
    case STASIS_GUEST_RESULT:
        pthread_mutex_lock(&standing.mutex);
        standing.critical_held = true;
        pthread_cond_broadcast(&standing.changed);
        pthread_mutex_unlock(&standing.mutex);
        break;
    default:
        break;
    }
}

/* A connection that knows what we want; with the lock. */
static int open_locked(void)
{
    int fd = guest_connect();
    if (fd < 0)
        return fd;
    int r = standing.subscribed ? guest_send(fd, STASIS_GUEST_SUBSCRIBE, 0) : 0;
    if (r == 0 && standing.cycles)
        r = guest_send(fd, STASIS_GUEST_CYCLES, 0);
    if (r == 0)
        standing.fd = fd;
    else
        close(fd);
    return r;
}

static void *run(void *unused)
{
    StasisGuestMessage message;
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&standing.mutex);
        int r = standing.fd >= 0 ? 0 : open_locked();
        int fd = standing.fd;
        pthread_mutex_unlock(&standing.mutex);
        bool resumed = false;
        while (r == 0 && !resumed && guest_receive(fd, &message) > 0) {
            take(fd, &message);
            /* Another agent, perhaps: it is to hear of us. */
            resumed = message.what == STASIS_GUEST_RESUMED;
        }
        pthread_mutex_lock(&standing.mutex);
        if (standing.fd >= 0)
            close(standing.fd);
        standing.fd = -1;
        atomic_store(&standing.cycle_wanted, false);
        pthread_cond_broadcast(&standing.changed);
        pthread_mutex_unlock(&standing.mutex);
        if (!resumed)
            nanosleep(&(struct timespec){ .tv_nsec = AGAIN_MS * 1000000L }, NULL);
    }
    return NULL;
}

/* A child has no such thread, and its parent's connection is not its own. */
static void forget(void)
{
    if (standing.fd >= 0)
        close(standing.fd);
    standing.fd = -1;
    standing.running = standing.cycles = standing.subscribed = false;
    standing.critical_depth = 0;
    standing.before = standing.after = standing.resumed = NULL;
    standing.signal_number = 0;
    atomic_store(&standing.cycle_wanted, false);
    atomic_store(&standing.has_cycles, false);
    pthread_mutex_init(&standing.mutex, NULL);
    pthread_cond_init(&standing.changed, NULL);
}

static void lock(void)
{
    pthread_mutex_lock(&standing.mutex);
}

static void unlock(void)
{
    pthread_mutex_unlock(&standing.mutex);
}

/* With the lock: there is a thread, and a connection if there is an agent. */
static int stand_locked(void)
{
    static bool guarded;
    sigset_t all, old;
    pthread_t thread;
    pthread_attr_t attributes;
    if (standing.running)
        return 0;
    if (!guarded && pthread_atfork(lock, unlock, forget) == 0)
        guarded = true;
    /* What it says first is said before anything that the caller does next. */
    if (standing.fd < 0)
        open_locked();
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&thread, &attributes, run, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    standing.running = r == 0;
    return -r;
}

/* ---- being told ---- */

static int subscribe_locked(void)
{
    bool news = !standing.subscribed;
    standing.subscribed = true;
    if (news && standing.fd >= 0)
        guest_send(standing.fd, STASIS_GUEST_SUBSCRIBE, 0);
    return stand_locked();
}

int stasis_on_checkpoint(void (*before)(void), void (*after)(void), void (*resumed)(void))
{
    lock();
    standing.before = before;
    standing.after = after;
    standing.resumed = resumed;
    int r = subscribe_locked();
    unlock();
    return r;
}

int stasis_signal_on_checkpoint(int signal_number)
{
    if (signal_number < 0 || signal_number > SIGRTMAX)
        return -EINVAL;
    lock();
    standing.signal_number = signal_number;
    int r = subscribe_locked();
    unlock();
    return r;
}

/* ---- cycles ---- */

static int begin_cycles(void)
{
    lock();
    if (!standing.cycles && standing.fd >= 0)
        guest_send(standing.fd, STASIS_GUEST_CYCLES, 0);
    standing.cycles = true;
    int r = stand_locked();
    atomic_store(&standing.has_cycles, r == 0);
    unlock();
    return r;
}

int stasis_cycle_end(void)
{
    if (!atomic_load_explicit(&standing.has_cycles, memory_order_relaxed))
        return begin_cycles();
    if (!atomic_load_explicit(&standing.cycle_wanted, memory_order_relaxed) ||
        !atomic_exchange(&standing.cycle_wanted, false))
        return 0;
    lock();
    int r = standing.fd >= 0 ? guest_send(standing.fd, STASIS_GUEST_CYCLE_END, 0) : -ENOTCONN;
    unlock();
    return r == 0 ? 1 : r;
}

/* ---- critical sections ---- */

/* With the lock: wait until the agent has answered. */
static int wait_held_locked(void)
{
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += ACK_LIMIT_S;
    while (standing.fd >= 0 && !standing.critical_held)
        if (pthread_cond_timedwait(&standing.changed, &standing.mutex, &limit) != 0)
            return -ETIMEDOUT;
    return standing.fd >= 0 ? 0 : -ENOTCONN;
}

int stasis_critical_begin(unsigned limit_ms)
{
    if (limit_ms > MAX_CRITICAL_MS)
        return -EINVAL;
    lock();
    int r = stand_locked();
    if (standing.critical_depth++ == 0 && r == 0) {
        standing.critical_held = false;
        r = standing.fd < 0 ? -ENOENT
                            : guest_send(standing.fd, STASIS_GUEST_CRITICAL_BEGIN,
                                         limit_ms != 0 ? limit_ms : DEFAULT_CRITICAL_MS);
    }
    if (r == 0)
        r = wait_held_locked();
    unlock();
    return r;
}

int stasis_critical_end(void)
{
    lock();
    int r = standing.critical_depth > 0 ? 0 : -EINVAL;
    if (r == 0 && --standing.critical_depth == 0)
        r = standing.fd >= 0 ? guest_send(standing.fd, STASIS_GUEST_CRITICAL_END, 0) : -ENOENT;
    unlock();
    return r;
}
