/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What needs a connection that stands: being told of checkpoints, ends of cycles, and critical
 * sections. It is made by the first of them, together with a thread that reads it, calls back, and
 * connects again when the agent has gone, or when the process goes on elsewhere. A critical section
 * that is open then is told to the next agent, too.
 *
 * Lock: standing.mutex guards all of it but what is atomic, and is never held over a
 * callback, while connecting, or while waiting for a packet or for room for one. It passes on the
 * priority of who waits for it, and the end of a cycle never does.
 *
 * The descriptor is closed by the thread that reads it, or by who drops it before that has begun.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "lib/internal.h"

#define AGAIN_MS 500          /* between two tries to connect */
#define CONNECT_LIMIT_MS 1000 /* for an agent that has too many before us */
#define ACK_LIMIT_MS 2000     /* for an answer to CRITICAL_BEGIN: the agent takes 1,000 at most */
#define MISSED_MS 10          /* between two words of missed deadlines */
#define DEFAULT_CRITICAL_MS 1000
#define MAX_CRITICAL_MS 10000

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;  /* fd, critical_held; by CLOCK_MONOTONIC */
    bool running;            /* there is a thread */
    int fd;                  /* or -1 */
    bool followed;           /* the thread reads it */
    bool subscribed, cycles; /* what the agent is to know, after a new connection too */
    unsigned critical_depth; /* of sections, and of callers that wait for one */
    int64_t critical_end_ms; /* … which end then */
    bool critical_held;      /* the agent knows of the section */
    void (*before)(void);
    void (*after)(void);
    void (*resumed)(void);
    int signal_number;
    atomic_bool cycle_wanted, has_cycles;
    atomic_uint missed; /* deadlines, of which no agent has heard */
    int64_t missed_ms;  /* when one did */
} standing = { .fd = -1 };

/* ---- lock and time ---- */

static void make_lock(void)
{
    pthread_mutexattr_t inherit;
    pthread_condattr_t monotonic;
    pthread_mutexattr_init(&inherit);
    pthread_mutexattr_setprotocol(&inherit, PTHREAD_PRIO_INHERIT);
    if (pthread_mutex_init(&standing.mutex, &inherit) != 0) /* of a kernel without that */
        pthread_mutex_init(&standing.mutex, NULL);
    pthread_mutexattr_destroy(&inherit);
    /* The agent sets the other clock after each checkpoint. */
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&standing.changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

static void lock(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_lock);
    pthread_mutex_lock(&standing.mutex);
}

static void unlock(void)
{
    pthread_mutex_unlock(&standing.mutex);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* With the lock: false when it is that late. */
static bool wait_locked(int64_t until_ms)
{
    struct timespec t = { until_ms / 1000, until_ms % 1000 * 1000000 };
    return pthread_cond_timedwait(&standing.changed, &standing.mutex, &t) == 0;
}

/* ---- the connection ---- */

/* Also where a child of fork(2) has a copy. */
static void hang_up(int fd)
{
    shutdown(fd, SHUT_RDWR);
    close(fd);
}

static void lose_locked(void)
{
    standing.fd = -1;
    standing.followed = standing.critical_held = false;
    atomic_store(&standing.cycle_wanted, false);
    pthread_cond_broadcast(&standing.changed);
}

/* What the agent knows of us is to be forgotten, and what it is about to say unheard. */
static void drop_locked(void)
{
    shutdown(standing.fd, SHUT_RDWR);
    if (!standing.followed)
        close(standing.fd);
    lose_locked();
}

/* Deadlines; what can't be told now is kept, and what would come too often for the agent. */
static int tell_missed_now(int fd)
{
    if (atomic_load(&standing.missed) == 0 || now_ms() - standing.missed_ms < MISSED_MS)
        return 0;
    standing.missed_ms = now_ms();
    unsigned n = atomic_exchange(&standing.missed, 0);
    int r = guest_send_now(fd, STASIS_GUEST_MISSED, n);
    if (r < 0)
        atomic_fetch_add(&standing.missed, n);
    return r;
}

/* A section that is open is one for this agent, too; one whose time is over is nothing to it. */
static int greet_locked(int fd)
{
    int64_t left = standing.critical_depth > 0 ? standing.critical_end_ms - now_ms() : 0;
    int r = standing.subscribed ? guest_send_now(fd, STASIS_GUEST_SUBSCRIBE, 0) : 0;
    if (r == 0 && standing.cycles)
        r = guest_send_now(fd, STASIS_GUEST_CYCLES, 0);
    if (r == 0)
        r = tell_missed_now(fd);
    if (r == 0 && left > 0)
        r = guest_send_now(fd, STASIS_GUEST_CRITICAL_BEGIN, left);
    standing.critical_held = left <= 0;
    return r;
}

/* 0: there is a connection, whose agent knows what we want. Or -errno. */
static int reach(void)
{
    lock();
    bool there = standing.fd >= 0;
    unlock();
    if (there)
        return 0;
    int fd = guest_connect_within(CONNECT_LIMIT_MS);
    if (fd < 0)
        return fd;
    lock();
    there = standing.fd >= 0; /* of another thread's making, meanwhile */
    int r = there ? 0 : greet_locked(fd);
    bool taken = !there && r == 0;
    if (taken) {
        standing.fd = fd;
        pthread_cond_broadcast(&standing.changed);
    }
    unlock();
    if (!taken)
        hang_up(fd);
    return r;
}

/* ---- the thread ---- */

static void tell(int event)
{
    lock();
    void (*call)(void) = event == STASIS_BEFORE  ? standing.before
                         : event == STASIS_AFTER ? standing.after
                                                 : standing.resumed;
    int number = standing.signal_number;
    unlock();
    if (call != NULL)
        call();
    if (number != 0)
        sigqueue(getpid(), number, (union sigval){ .sival_int = event });
}

/* To CRITICAL_BEGIN; or, not 0, the agent has no place for us and is about to hang up. */
static void take_result(int fd, int64_t value)
{
    lock();
    if (standing.fd == fd && value == 0)
        standing.critical_held = true;
    pthread_cond_broadcast(&standing.changed);
    unlock();
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
        take_result(fd, message->value);
        break;
    default:
        break;
    }
}

/* Until it is time for another try, or somebody else has connected. */
static void rest_locked(void)
{
    for (int64_t until = now_ms() + AGAIN_MS; standing.fd < 0 && wait_locked(until);)
        ;
}

/* The connection that is to be read next, once there is one. */
static int follow(void)
{
    for (;;) {
        reach();
        lock();
        if (standing.fd < 0)
            rest_locked();
        int fd = standing.fd;
        standing.followed = fd >= 0;
        unlock();
        if (fd >= 0)
            return fd;
    }
}

/* An agent that has gone is looked for later; one that was dropped, or another one, at once. */
static void lose(int fd, bool at_once)
{
    lock();
    bool ours = standing.fd == fd;
    if (ours)
        lose_locked();
    hang_up(fd);
    if (ours && !at_once)
        rest_locked();
    unlock();
}

static void *run(void *unused)
{
    StasisGuestMessage message;
    (void)unused;
    for (;;) {
        int fd = follow();
        bool resumed = false;
        while (!resumed && guest_receive(fd, &message) > 0) {
            take(fd, &message);
            /* Another agent, perhaps: it is to hear of us. */
            resumed = message.what == STASIS_GUEST_RESUMED;
        }
        lose(fd, resumed);
    }
    return NULL;
}

/* A child has no such thread, and its parent's connection is not its own. */
static void forget(void)
{
    if (standing.fd >= 0)
        close(standing.fd);
    standing.fd = -1;
    standing.running = standing.followed = standing.cycles = standing.subscribed = false;
    standing.critical_depth = 0;
    standing.critical_held = false;
    standing.before = standing.after = standing.resumed = NULL;
    standing.signal_number = 0;
    atomic_store(&standing.cycle_wanted, false);
    atomic_store(&standing.has_cycles, false);
    atomic_store(&standing.missed, 0);
    make_lock();
}

static int start_locked(const pthread_attr_t *attributes)
{
    static bool guarded;
    if (standing.running)
        return -EALREADY;
    if (!guarded && pthread_atfork(lock, unlock, forget) == 0)
        guarded = true;
    int r = guest_start_thread(run, attributes);
    standing.running = r == 0;
    return r;
}

int stasis_start_thread(const pthread_attr_t *attributes)
{
    lock();
    int r = start_locked(attributes);
    unlock();
    return r;
}

/* There is a thread, and a connection if there is an agent; *ret_reached: 0, or why not. What is
 * said by that is said before anything that the caller does next. */
static int stand(int *ret_reached)
{
    *ret_reached = reach();
    int r = stasis_start_thread(NULL);
    return r == -EALREADY ? 0 : r;
}

/* ---- being told ---- */

/* With the lock, which it gives back. */
static int subscribe_unlock(void)
{
    int reached;
    bool news = !standing.subscribed;
    standing.subscribed = true;
    if (news && standing.fd >= 0 && guest_send_now(standing.fd, STASIS_GUEST_SUBSCRIBE, 0) < 0)
        drop_locked();
    unlock();
    return stand(&reached);
}

int stasis_on_checkpoint(void (*before)(void), void (*after)(void), void (*resumed)(void))
{
    lock();
    standing.before = before;
    standing.after = after;
    standing.resumed = resumed;
    return subscribe_unlock();
}

int stasis_signal_on_checkpoint(int signal_number)
{
    if (signal_number < 0 || signal_number > SIGRTMAX)
        return -EINVAL;
    lock();
    standing.signal_number = signal_number;
    return subscribe_unlock();
}

/* ---- cycles ---- */

static int begin_cycles(void)
{
    int reached;
    lock();
    bool news = !standing.cycles;
    standing.cycles = true;
    if (news && standing.fd >= 0 && guest_send_now(standing.fd, STASIS_GUEST_CYCLES, 0) < 0)
        drop_locked();
    unlock();
    int r = stand(&reached);
    atomic_store(&standing.has_cycles, r == 0);
    return r;
}

/* Missed ones before the end that they belong to. */
static int tell_cycle_locked(void)
{
    if (standing.fd >= 0)
        tell_missed_now(standing.fd);
    if (!atomic_exchange(&standing.cycle_wanted, false))
        return 0;
    int r = standing.fd >= 0 ? guest_send_now(standing.fd, STASIS_GUEST_CYCLE_END, 0) : -ENOTCONN;
    if (r == -EAGAIN) /* The agent has not read for long: the next one tells. */
        atomic_store(&standing.cycle_wanted, true);
    return r == 0 ? 1 : r == -EAGAIN ? 0 : r;
}

int stasis_cycle_end(void)
{
    if (!atomic_load_explicit(&standing.has_cycles, memory_order_relaxed))
        return begin_cycles();
    /* Where somebody has the lock the next one tells: nobody is waited for. */
    if ((!atomic_load_explicit(&standing.cycle_wanted, memory_order_relaxed) &&
         atomic_load_explicit(&standing.missed, memory_order_relaxed) == 0) ||
        pthread_mutex_trylock(&standing.mutex) != 0)
        return 0;
    int r = tell_cycle_locked();
    unlock();
    return r;
}

int stasis_deadline_missed(unsigned n)
{
    atomic_fetch_add(&standing.missed, n);
    /* has_cycles: there is a lock that can be tried. */
    if (atomic_load(&standing.has_cycles) && pthread_mutex_trylock(&standing.mutex) == 0) {
        if (standing.fd >= 0)
            tell_missed_now(standing.fd);
        unlock();
    }
    return 0;
}

/* ---- critical sections ---- */

/* With the lock: wait until the agent has answered. An answer that came later would be taken for
 * that to the next question, and so that agent is done with. */
static int wait_held_locked(void)
{
    int64_t until = now_ms() + ACK_LIMIT_MS;
    while (standing.fd >= 0 && !standing.critical_held)
        if (!wait_locked(until) && standing.fd >= 0 && !standing.critical_held) {
            drop_locked();
            return -ETIMEDOUT;
        }
    return standing.fd >= 0 ? 0 : -ENOTCONN;
}

static int ask_to_hold_locked(int64_t ms)
{
    standing.critical_held = false;
    standing.critical_end_ms = now_ms() + ms;
    return standing.fd >= 0 ? guest_send_now(standing.fd, STASIS_GUEST_CRITICAL_BEGIN, ms)
                            : -ENOTCONN;
}

static int enter_locked(unsigned limit_ms)
{
    int r = standing.critical_depth++ > 0
                ? 0
                : ask_to_hold_locked(limit_ms != 0 ? limit_ms : DEFAULT_CRITICAL_MS);
    if (r == 0)
        r = wait_held_locked();
    if (r < 0 && standing.critical_depth > 0) /* It has not begun. */
        standing.critical_depth--;
    return r;
}

int stasis_critical_begin(unsigned limit_ms)
{
    int reached;
    if (limit_ms > MAX_CRITICAL_MS)
        return -EINVAL;
    int r = stand(&reached);
    if (r < 0 || reached < 0)
        return r < 0 ? r : reached;
    lock();
    r = enter_locked(limit_ms);
    unlock();
    return r;
}

/* With the lock: the agent, if there is one, has heard that it is over. By the end of the
 * connection where it can't be told, or has yet to answer (a new agent). */
static int leave_locked(void)
{
    if (standing.fd < 0)
        return -ENOENT;
    if (!standing.critical_held ||
        guest_send_now(standing.fd, STASIS_GUEST_CRITICAL_END, 0) == -EAGAIN)
        drop_locked();
    return 0;
}

int stasis_critical_end(void)
{
    lock();
    int r = standing.critical_depth > 0 ? 0 : -EINVAL;
    if (r == 0 && --standing.critical_depth == 0)
        r = leave_locked();
    unlock();
    return r;
}
