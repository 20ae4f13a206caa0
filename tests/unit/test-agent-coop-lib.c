/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a program that has a say (libstasis-guest) runs as it would without, whether there is an
 * agent or not, from when on, and however often that is started anew; nothing that the library does
 * by itself takes part in its deadlines, and the end of a cycle waits for nobody. */
#include "test-agent-coop.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "stasis-guest.h"

#define PATIENCE_S 60

/* Each case is a process, since the library's state is one. The agent is another one: its code for
 * programs, in a loop with the clock. */

static const char *path;

/* What the agent tells of itself, and is told by the test as its host. */
static struct {
    atomic_bool listens, may_begin, may_end, begun;
    atomic_uint n_rounds, n_clients, n_hold, n_subscribed, n_cycles;
    atomic_uint n_at_cycle_end;            /* of the checkpoint that has begun */
    atomic_uint n_missed, n_missed_before; /* of the one that has ended */
} * seen;

#define WAIT(condition)                                                            \
    do {                                                                           \
        gint64 patience_us = g_get_monotonic_time() + PATIENCE_S * G_USEC_PER_SEC; \
        while (!(condition) && g_get_monotonic_time() < patience_us)               \
            g_usleep(1000);                                                        \
        g_assert_true(condition);                                                  \
    } while (0)

/* ---- the agent ---- */

static void publish(void)
{
    unsigned clients = 0, hold = 0, subscribed = 0, cycles = 0;
    for (CoopClient *c = coop_clients; c < coop_clients + COOP_MAX_CLIENTS; c++) {
        clients += c->fd >= 0;
        hold += c->fd >= 0 && c->holds && now_ms() < c->hold_end_ms;
        subscribed += c->fd >= 0 && c->subscribed;
        cycles += c->fd >= 0 && c->cycles;
    }
    seen->n_clients = clients;
    seen->n_hold = hold;
    seen->n_subscribed = subscribed;
    seen->n_cycles = cycles;
    seen->n_rounds++;
}

static void serve(void)
{
    static uint64_t id;
    guint8 room[64];
    StasisFieldWriter fields = { room, 0, sizeof room, false };
    if (atomic_exchange(&seen->may_begin, false)) {
        stasis_field_put_number(&fields, STASIS_AGENT_TAG_CYCLE, 1);
        stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT, 30000);
        id = host_asks(op_wish_begin, &fields);
    }
    if (atomic_exchange(&seen->may_end, false))
        host_asks(op_wish_end, &fields);
    seen->n_missed = (unsigned)host_number(STASIS_AGENT_TAG_N_MISSED);
    seen->n_missed_before = (unsigned)host_number(STASIS_AGENT_TAG_N_MISSED_BEFORE);
    seen->n_at_cycle_end = (unsigned)host_number(STASIS_AGENT_TAG_CYCLE);
    seen->begun = id != 0 && host.id == id && host.status == STASIS_AGENT_OK;
}

static G_GNUC_NORETURN void be_agent(void)
{
    struct pollfd fds[COOP_MAX_FDS];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    world_ms = g_get_monotonic_time() / 1000;
    coop_init(path);
    for (;;) {
        seen->listens = true;
        poll(fds, coop_poll_fds(fds), 2);
        world_ms = g_get_monotonic_time() / 1000;
        coop_work(host_hears, host_is_there);
        serve();
        publish();
    }
}

static pid_t start_agent(void)
{
    memset(seen, 0, sizeof *seen);
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0)
        be_agent();
    WAIT(seen->listens);
    return pid;
}

static void end_agent(pid_t pid)
{
    kill(pid, SIGKILL);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
}

/* ---- what the library calls ---- */

/* A thread that comes here stays until the test lets it go on. */
static struct {
    atomic_bool closed, reached, gave_up;
} gate;
static __thread bool is_gated;

static void pass_gate(void)
{
    gint64 limit_us = g_get_monotonic_time() + PATIENCE_S * G_USEC_PER_SEC;
    if (!is_gated || !gate.closed)
        return;
    gate.reached = true;
    while (gate.closed && g_get_monotonic_time() < limit_us)
        g_usleep(1000);
    if (gate.closed)
        gate.gave_up = true;
}

int __real_connect(int fd, const struct sockaddr *address, socklen_t size);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    pass_gate();
    return __real_connect(fd, address, size);
}

ssize_t __real_send(int fd, const void *data, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t size, int flags)
{
    pass_gate();
    return __real_send(fd, data, size, flags);
}

/* It listens; it has heard that the end of a cycle is wanted, and done what it does about that. */
static atomic_bool listens, knows_cycle;

ssize_t __real_recv(int fd, void *data, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *data, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *data, size_t size, int flags)
{
    static __thread uint32_t last;
    listens = true;
    if (last == STASIS_GUEST_WANT_CYCLE)
        knows_cycle = true;
    ssize_t n = __real_recv(fd, data, size, flags);
    if (n == (ssize_t)sizeof(StasisGuestMessage))
        last = ((const StasisGuestMessage *)data)->what;
    return n;
}

static atomic_int protocol = -1;

int __real_pthread_mutexattr_setprotocol(pthread_mutexattr_t *attributes, int value);
int __wrap_pthread_mutexattr_setprotocol(pthread_mutexattr_t *attributes, int value);
int __wrap_pthread_mutexattr_setprotocol(pthread_mutexattr_t *attributes, int value)
{
    protocol = value;
    return __real_pthread_mutexattr_setprotocol(attributes, value);
}

/* The agent sets it after each checkpoint: no wait may depend on it. */
int __real_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
    g_assert_cmpint(clock, !=, CLOCK_REALTIME);
    return __real_clock_gettime(clock, ret);
}

/* ---- critical sections ---- */

/* With an agent that may not come to run for a while: such errors are for a call, not for good. */
static int begin_in_time(unsigned limit_ms)
{
    int r = -1;
    for (guint i = 0; i < PATIENCE_S / 2; i++) {
        r = stasis_critical_begin(limit_ms);
        if (r != -ETIMEDOUT && r != -ENOTCONN && r != -EAGAIN)
            return r;
        g_assert_cmpint(stasis_critical_end(), ==, -EINVAL);
    }
    return r;
}

static void check_section(void)
{
    g_assert_cmpint(begin_in_time(10000), ==, 0);
    WAIT(seen->n_hold == 1);
    g_assert_cmpint(begin_in_time(0), ==, 0); /* in the other one */
    g_assert_cmpint(stasis_critical_end(), ==, 0);
    g_assert_cmpint(stasis_critical_end(), ==, 0);
    WAIT(seen->n_hold == 0);
    g_assert_cmpint(stasis_critical_end(), ==, -EINVAL);
}

static void test_before_the_agent(void)
{
    for (guint i = 0; i < 3; i++) {
        g_assert_cmpint(stasis_critical_begin(0), ==, -ENOENT);
        g_assert_cmpint(stasis_critical_end(), ==, -EINVAL);
    }
    pid_t agent = start_agent();
    check_section();
    end_agent(agent); /* and its socket stays */
    WAIT(stasis_critical_begin(0) == -ECONNREFUSED);
    g_assert_cmpint(stasis_critical_begin(0), ==, -ECONNREFUSED);
    start_agent();
    check_section();
}

static void test_silent_agent(void)
{
    pid_t agent = start_agent();
    check_section();
    kill(agent, SIGSTOP);
    g_assert_cmpint(waitpid(agent, NULL, WUNTRACED), ==, agent);
    guint rounds = seen->n_rounds;
    g_assert_cmpint(stasis_critical_begin(10000), ==, -ETIMEDOUT);
    g_assert_cmpint(stasis_critical_end(), ==, -EINVAL);
    kill(agent, SIGCONT);
    WAIT(seen->n_rounds > rounds + 2);
    g_assert_cmpint(seen->n_hold, ==, 0); /* what has not begun holds nothing off */
    check_section();
}

/* False: so late that nothing is left of the section. */
static bool outlives_agent(pid_t *agent)
{
    gint64 limit_us = g_get_monotonic_time() + 8 * G_USEC_PER_SEC;
    g_assert_cmpint(begin_in_time(10000), ==, 0);
    end_agent(*agent);
    *agent = start_agent();
    while (seen->n_hold == 0 && g_get_monotonic_time() < limit_us)
        g_usleep(1000);
    bool holds = seen->n_hold == 1;
    stasis_critical_end();
    WAIT(seen->n_hold == 0);
    return holds;
}

static void test_outlives_the_agent(void)
{
    pid_t agent = start_agent();
    bool holds = false;
    g_assert_cmpint(stasis_on_checkpoint(NULL, NULL, NULL), ==, 0);
    WAIT(seen->n_subscribed == 1);
    for (guint i = 0; i < 5 && !holds; i++)
        holds = outlives_agent(&agent);
    g_assert_true(holds);
    WAIT(seen->n_subscribed == 1);
    check_section();
}

static void test_forked(void)
{
    start_agent();
    g_assert_cmpint(begin_in_time(10000), ==, 0);
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        g_assert_cmpint(stasis_critical_end(), ==, -EINVAL);
        g_assert_cmpint(begin_in_time(10000), ==, 0);
        WAIT(seen->n_clients == 2);
        g_assert_cmpint(stasis_critical_end(), ==, 0);
        _exit(0);
    }
    int status;
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
    g_assert_cmpint(stasis_critical_end(), ==, 0);
    WAIT(seen->n_hold == 0);
}

/* ---- deadlines ---- */

static cpu_set_t cpus_at_first;
static struct {
    atomic_bool called;
    int policy;
    cpu_set_t cpus;
} thread;

static void look_at_thread(void)
{
    thread.policy = sched_getscheduler(0);
    g_assert_cmpint(sched_getaffinity(0, sizeof thread.cpus, &thread.cpus), ==, 0);
    thread.called = true;
}

/* Another policy and one CPU, as a control loop may have: no privilege is needed for these. */
static void be_special(void)
{
    cpu_set_t one;
    const struct sched_param none = { 0 };
    g_assert_cmpint(sched_getaffinity(0, sizeof cpus_at_first, &cpus_at_first), ==, 0);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    g_assert_cmpint(sched_setaffinity(0, sizeof one, &one), ==, 0);
    g_assert_cmpint(sched_setscheduler(0, SCHED_BATCH, &none), ==, 0);
}

static void look(void)
{
    g_assert_cmpint(stasis_on_checkpoint(look_at_thread, NULL, NULL), ==, 0);
    WAIT(seen->n_subscribed == 1);
    seen->may_begin = true;
    WAIT(thread.called);
}

static void test_ordinary_thread(void)
{
    cpu_set_t both;
    start_agent();
    be_special();
    look();
    g_assert_cmpint(thread.policy, ==, SCHED_OTHER);
    CPU_AND(&both, &cpus_at_first, &thread.cpus);
    g_assert_true(CPU_EQUAL(&both, &cpus_at_first));
    g_assert_cmpint(protocol, ==, PTHREAD_PRIO_INHERIT);
}

static void test_thread_as_asked_for(void)
{
    pthread_attr_t attributes;
    start_agent();
    be_special();
    pthread_attr_init(&attributes); /* as the caller */
    g_assert_cmpint(stasis_start_thread(&attributes), ==, 0);
    g_assert_cmpint(stasis_start_thread(&attributes), ==, -EALREADY);
    pthread_attr_destroy(&attributes);
    look();
    g_assert_cmpint(thread.policy, ==, SCHED_BATCH);
    g_assert_cmpint(CPU_COUNT(&thread.cpus), ==, 1);
}

static void *begin_gated(void *unused)
{
    is_gated = true;
    return GINT_TO_POINTER(begin_in_time(0));
}

static void test_connects_without_the_lock(void)
{
    pthread_t other;
    void *result;
    start_agent();
    gate.closed = true;
    g_assert_cmpint(pthread_create(&other, NULL, begin_gated, NULL), ==, 0);
    WAIT(gate.reached);
    g_assert_cmpint(stasis_critical_end(), ==, -EINVAL);
    g_assert_cmpint(stasis_cycle_end(), ==, 0);
    g_assert_false(gate.gave_up);
    WAIT(seen->n_cycles == 1);
    gate.closed = false;
    g_assert_cmpint(pthread_join(other, &result), ==, 0);
    g_assert_cmpint(GPOINTER_TO_INT(result), ==, 0);
    WAIT(seen->n_clients == 1 && seen->n_cycles == 1 && seen->n_hold == 1);
    g_assert_cmpint(stasis_critical_end(), ==, 0);
}

/* The agent has read what was said before this. */
static void wait_read(void)
{
    unsigned rounds = seen->n_rounds;
    WAIT(seen->n_rounds > rounds + 1);
}

static void *subscribe_gated(void *unused)
{
    is_gated = true;
    return GINT_TO_POINTER(stasis_signal_on_checkpoint(0));
}

static void test_end_of_a_cycle_waits_for_nobody(void)
{
    pthread_t other;
    void *result;
    start_agent();
    g_assert_cmpint(stasis_cycle_end(), ==, 0);
    WAIT(seen->n_cycles == 1);
    WAIT(listens);
    g_assert_cmpint(stasis_cycle_end(), ==, 0); /* none is wanted */
    g_usleep(20000); /* what comes at once after another is kept for later */
    g_assert_cmpint(stasis_deadline_missed(2), ==, 0);
    g_assert_cmpint(stasis_deadline_missed(1), ==, 0);
    g_usleep(20000);
    g_assert_cmpint(stasis_cycle_end(), ==, 0);
    wait_read();
    gate.closed = true;
    g_assert_cmpint(pthread_create(&other, NULL, subscribe_gated, NULL), ==, 0);
    WAIT(gate.reached); /* and has the lock */
    g_assert_cmpint(stasis_deadline_missed(5), ==, 0);
    seen->may_begin = true;
    WAIT(knows_cycle);
    g_assert_cmpint(stasis_cycle_end(), ==, 0);
    g_assert_false(gate.gave_up);
    gate.closed = false;
    g_assert_cmpint(pthread_join(other, &result), ==, 0);
    g_assert_cmpint(GPOINTER_TO_INT(result), ==, 0);
    /* What it could not tell then is not lost. */
    g_assert_cmpint(stasis_cycle_end(), ==, 1);
    g_assert_cmpint(stasis_cycle_end(), ==, 0);
    WAIT(seen->begun);
    WAIT(seen->n_at_cycle_end == 1);
    g_usleep(20000);
    g_assert_cmpint(stasis_deadline_missed(2), ==, 0);
    wait_read();
    seen->may_end = true;
    WAIT(seen->n_missed == 5 + 2 && seen->n_missed_before == 3);
}

/* ---- cases ---- */

static void run_case(gconstpointer data)
{
    void (*const *test)(void) = data;
    int status;
    unlink(path);
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        alarm(5 * PATIENCE_S);
        (*test)();
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

static const struct {
    const char *name;
    void (*test)(void);
} cases[] = {
    { "before-the-agent", test_before_the_agent },
    { "silent-agent", test_silent_agent },
    { "outlives-the-agent", test_outlives_the_agent },
    { "forked", test_forked },
    { "ordinary-thread", test_ordinary_thread },
    { "thread-as-asked-for", test_thread_as_asked_for },
    { "connects-without-the-lock", test_connects_without_the_lock },
    { "end-of-a-cycle-waits-for-nobody", test_end_of_a_cycle_waits_for_nobody },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_autofree char *dir = g_dir_make_tmp("coop.XXXXXX", NULL);
    g_autofree char *socket_path = g_build_filename(dir, "socket", NULL);
    path = socket_path;
    g_setenv("STASIS_AGENT_SOCKET", path, TRUE);
    seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    g_assert_true(seen != MAP_FAILED);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *name = g_strconcat("/agent-coop-lib/", cases[i].name, NULL);
        g_test_add_data_func(name, &cases[i].test, run_case);
    }
    int result = g_test_run();
    unlink(path);
    rmdir(dir);
    return result;
}
